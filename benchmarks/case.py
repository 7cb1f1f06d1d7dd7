"""What every engine of a benchmark is given: the same model, the same image, the same right answer."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import CallerError, ComputationFailed
from contract.model_card import ModelCard, read_card
from imaging import read_model_input
from imaging.phantom import write_phantom


@dataclass(frozen=True, kw_only=True)
class CompiledFiles:
    """The two halves of the compiled model, as files."""

    network: Path
    weights: Path


@dataclass(frozen=True)
class Case:
    """A model and one image, in a folder of its own."""

    model_folder: Path
    card: ModelCard
    folder: Path
    """Temporary; engines may keep files in folders of their own below it."""
    image: Path
    """The phantom radiograph, a DICOM file: what a data owner submits."""
    tensor: Path
    """float32 .npy of the card's input shape: what the image becomes. For engines that read no images."""
    expected: NDArray[np.float64] = field(repr=False)
    """Logits of onnxruntime in clear."""

    @property
    def size(self) -> int:
        """Side of the model's square input, in pixels."""
        return self.card.input.height

    @cached_property
    def compiled(self) -> CompiledFiles:
        """The model compiled by its owner's importer; written where an engine first asks for it."""
        from model_owner.onnx_import.compiling import compile_model

        model = compile_model(self.model_folder / "model.onnx", self.card)
        files = CompiledFiles(network=self.folder / "network.json", weights=self.folder / "weights.npz")
        files.network.write_bytes(model.network.canonical_bytes())
        model.weights.save(files.weights)
        return files

    def error_of(self, logits: tuple[float, ...]) -> float:
        """Largest distance of a logit from the expected one. Raises ComputationFailed where they cannot be compared."""
        if len(logits) != len(self.expected) or not np.isfinite(logits).all():
            raise ComputationFailed(
                f"an engine answered with {len(logits)} logits, not all finite or not {len(self.expected)}: report this"
            )
        return float(np.abs(np.asarray(logits) - self.expected).max())


def prepare(model_folder: Path, folder: Path, *, seed: int) -> Case:
    """Draw the image and compute the right answer. Raises CallerError where the model's input is not square."""
    from demonstration.plaintext import PlaintextModel

    card = read_card(model_folder / "card.json")
    if card.input.height != card.input.width:
        raise CallerError(f"{card.name} takes {card.input.height} x {card.input.width} images: benchmark a square one")
    image, tensor = folder / "phantom.dcm", folder / "tensor.npy"
    write_phantom(image, seed=seed)
    pixels = read_model_input(image, card.input).tensor
    np.save(tensor, pixels, allow_pickle=False)
    expected = PlaintextModel(model_folder).logits(pixels)
    return Case(model_folder, card, folder, image, tensor, expected)
