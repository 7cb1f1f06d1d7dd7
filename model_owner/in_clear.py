"""The ONNX model in clear, by onnxruntime: what a lowered or an encrypted one is compared with."""

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from model_owner.onnx_import.ending import find_final_activation
from plumbing.onnx_runtime import load_onnxruntime


class ModelInClear:
    """An ONNX model whose outputs are logits, one for each class of its card, whatever the file itself ends in."""

    def __init__(self, model: bytes, *, threads: int = 0) -> None:
        """Load a model that holds all its tensors. `threads` 0: as many as onnxruntime likes. Raises ModelFileError."""
        onnxruntime = load_onnxruntime()
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        self._failures = (
            *(failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.NotImplemented),
            failures.RuntimeException,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                _cut_to_logits(model), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise _refused() from error
        self._input = self._session.get_inputs()[0]

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (batch, classes) of images (batch, channels, height, width), in one call if the model can.

        A model that fixes its batch at one evaluates them one after the other. One logit z of a binary model becomes
        (0, z), as at import. Raises ModelFileError.
        """
        kind = np.float16 if self._input.type == "tensor(float16)" else np.float32
        parts = np.split(images, len(images)) if self._input.shape[0] == 1 else [images]
        try:
            outputs = [self._session.run(None, {self._input.name: part.astype(kind)})[0] for part in parts]
        except self._failures as error:
            raise _refused() from error
        rows = np.concatenate([output.reshape(len(part), -1) for output, part in zip(outputs, parts, strict=True)])
        logits: NDArray[np.float32] = rows.astype(np.float32)
        return np.insert(logits, 0, 0.0, axis=1) if logits.shape[1] == 1 else logits


def _refused() -> ModelFileError:
    return ModelFileError("onnxruntime cannot run this model: export it again with standard operators")


def _cut_to_logits(given: bytes) -> bytes:
    """What onnxruntime is to load: the model, or a copy without its final Softmax or Sigmoid."""
    import onnx

    model = onnx.load_model_from_string(given)
    last = find_final_activation(model.graph)
    if last is None:
        return given
    last.op_type = "Identity"
    del last.attribute[:]
    return bytes(model.SerializeToString())
