"""What every engine of a benchmark is given: the same model, the same image, the same right answer."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import CallerError
from contract.model_card import ModelCard, read_card
from imaging.phantom import write_phantom
from imaging.reading import read_model_input
from secure_computation.network import Network, parse_network

MOST_PICTURES = 16
"""Different ones in one benchmark of single images; later rounds begin again."""


@dataclass(frozen=True, kw_only=True)
class CompiledFiles:
    """The two halves of the compiled model, as files."""

    network: Path
    weights: Path


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What one round submits: as many phantom radiographs as the batch asks for."""

    seeds: tuple[int, ...]
    images: tuple[Path, ...]
    """DICOM files: what a data owner submits."""
    tensor: Path
    """float32 .npy, shape (batch, channels, height, width): what they become. For engines that read no images."""
    expected: NDArray[np.float64] = field(repr=False)
    """Logits of onnxruntime in clear, shape (batch, classes)."""

    def measure_error(self, logits: tuple[float, ...]) -> float:
        """Largest distance of a logit from the expected one; nan if they cannot be compared.

        `logits` are those of the first picture, then those of the second, and so on.
        """
        expected = self.expected.reshape(-1)
        if len(logits) != len(expected) or not np.isfinite(logits).all():
            return np.nan
        return float(np.abs(np.asarray(logits) - expected).max())


@dataclass(frozen=True)
class Case:
    """A model and its pictures, in a folder of its own."""

    model_folder: Path
    card: ModelCard
    folder: Path
    """Temporary; engines may keep files in folders of their own below it."""
    rounds: tuple[Pictures, ...]
    """What each round submits, the warm-up first; if there are more rounds, they begin again."""

    @property
    def size(self) -> int:
        """Side of the model's square input, in pixels."""
        return self.card.input.height

    @property
    def batch(self) -> int:
        """Pictures in one evaluation."""
        return len(self.rounds[0].images)

    def pictures(self, turn: int) -> Pictures:
        """What a round submits; round 0 is the warm-up."""
        return self.rounds[turn % len(self.rounds)]

    @cached_property
    def compiled(self) -> CompiledFiles:
        """The model compiled by its owner's importer; written when an engine first asks for it."""
        from model_owner.onnx_import.compiling import compile_model

        model = compile_model(self.model_folder / "model.onnx", self.card)
        files = CompiledFiles(network=self.folder / "network.json", weights=self.folder / "weights.npz")
        files.network.write_bytes(model.network.canonical_bytes())
        model.weights.save(files.weights)
        return files

    @cached_property
    def network(self) -> Network:
        """The compiled model without its weights."""
        return parse_network(self.compiled.network.read_bytes())


def prepare(model_folder: Path, folder: Path, *, seed: int, rounds: int = 1, batch: int = 1) -> Case:
    """Draw the pictures, each round others, and compute the right answers.

    Drawing takes a second a picture, so there are only as many as rounds (MOST_PICTURES at most) or as one batch holds:
    each round of a batch begins with another one. Raises CallerError if the model's input is not square.
    """
    from demonstration.plaintext import PlaintextModel

    card = read_card(model_folder / "card.json")
    if card.input.height != card.input.width:
        raise CallerError(f"{card.name} takes {card.input.height} x {card.input.width} images: benchmark a square one")
    plain = PlaintextModel(model_folder)
    different = max(min(rounds, MOST_PICTURES), batch)
    drawn = []
    for number in range(different):
        path = folder / f"phantom-{number}.dcm"
        write_phantom(path, seed=seed + number)
        tensor = read_model_input(path, card.input).tensor
        drawn.append((seed + number, path, tensor, plain.logits(tensor)))
    found = []
    for turn in range(rounds):
        chosen = [drawn[(turn + place) % different] for place in range(batch)]
        seeds, images, tensors, logits = zip(*chosen, strict=True)
        path = folder / f"tensor-{turn}.npy"
        np.save(path, np.stack(tensors), allow_pickle=False)
        found.append(Pictures(seeds=seeds, images=images, tensor=path, expected=np.stack(logits)))
    return Case(model_folder, card, folder, tuple(found))
