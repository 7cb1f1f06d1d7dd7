"""The model in clear, by onnxruntime: what the encrypted answer is compared with."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.model_card import ModelCard, read_card
from contract.onnx_runtime import load_onnxruntime
from imaging import read_model_input


class PlaintextModel:
    """A model folder, opened in clear. Only where both halves may be seen: demonstrations, tests, benchmarks."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        """Load model.onnx and card.json."""
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.card: ModelCard = read_card(folder / "card.json")
        self._session = onnxruntime.InferenceSession(
            folder / "model.onnx", sess_options=options, providers=["CPUExecutionProvider"]
        )

    def logits(self, tensor: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (classes,) of one input (channels, height, width)."""
        logits: NDArray[np.float64] = self.logits_of_batch(tensor[None])[0]
        return logits

    def logits_of_batch(self, tensors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits (batch, classes) of inputs (batch, channels, height, width), all in one call where the model can.

        A model file that fixes its batch at one evaluates them one after the other.
        """
        asked = self._session.get_inputs()[0]
        parts = np.split(tensors, len(tensors)) if asked.shape[0] == 1 else [tensors]
        outputs = [self._session.run(None, {asked.name: part})[0] for part in parts]
        return np.asarray(np.concatenate(outputs), dtype=np.float64)

    def logits_of_file(self, path: Path) -> NDArray[np.float64]:
        """Read a file as the data owner does, then `logits`."""
        return self.logits(read_model_input(path, self.card.input).tensor)
