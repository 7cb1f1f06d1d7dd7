"""The model in clear, by onnxruntime: what the encrypted answer is compared with."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.model_card import ModelCard, read_card
from imaging.formats import Polarity
from imaging.reading import read_model_input
from model_owner.in_clear import ModelInClear
from model_owner.onnx_import.reading import read_onnx


class PlaintextModel:
    """A model folder, opened in clear. Only where both halves may be seen: demonstrations, tests, benchmarks."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        """Load model.onnx and card.json."""
        self.card: ModelCard = read_card(folder / "card.json")
        given = read_onnx(folder / "model.onnx")
        self._model = ModelInClear(bytes(given.proto.SerializeToString()), threads=threads)

    def logits(self, tensor: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (classes,) of one input (channels, height, width)."""
        logits: NDArray[np.float64] = self.logits_of_batch(tensor[None])[0]
        return logits

    def logits_of_batch(self, tensors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (batch, classes) of inputs (batch, channels, height, width), all in one call if the model can.

        They are what the file's final Softmax or Sigmoid reads, if it ends in one, as everywhere else here.
        """
        return self._model.logits(tensors).astype(np.float64)

    def logits_of_file(self, path: Path, polarity: Polarity | None = None) -> NDArray[np.float64]:
        """Read a file as the data owner does, then `logits`."""
        return self.logits(read_model_input(path, self.card.input, polarity=polarity).tensor)
