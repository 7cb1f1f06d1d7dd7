"""From a trained network to model.onnx: float16 weights, float32 arithmetic, checked against the network itself."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from contract.errors import ModelFileError
from contract.model_card import InputSpecification
from federated_learning.architectures import fold_normalisation
from federated_learning.data_source.images import ImageArray
from federated_learning.torch_networks import predict
from plumbing.onnx_runtime import load_onnxruntime

OPERATORS = frozenset({
    "Conv", "Relu", "AveragePool", "MaxPool", "GlobalAveragePool", "ReduceMean", "Gemm", "MatMul", "Add", "Flatten",
    "Reshape", "Cast", "Constant", "Identity",
})  # fmt: skip
"""What an exported model may consist of: all of it is within reach of the encrypted engines."""

MAX_BYTES = 25_000_000
HALF_FROM_ELEMENTS = 256
"""Smaller tensors (biases, statistics) stay in float32: they save nothing and their rounding would cost accuracy."""


def to_onnx(network: nn.Module, specification: InputSpecification) -> onnx.ModelProto:
    """Trace `network` into an ONNX graph `image` (batch, channels, height, width) -> `logits` (batch, classes).

    Normalisation is folded into plain convolutions with biases first; the network itself is left as it was.

    Raises ModelFileError if the graph needs an operator outside `OPERATORS` or exceeds `MAX_BYTES`.
    """
    example = torch.zeros(2, specification.channels, specification.height, specification.width)
    model = trace(fold_normalisation(network), example)
    _clean(model)
    _halve_weights(model)
    _check(model)
    return model


def trace(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """Trace a network in evaluation mode, as it is, with a batch of at least two images; the batch stays free.

    Raises ModelFileError if it cannot be traced.
    """
    try:
        with _silence_torch():
            program = torch.onnx.export(
                network.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
                (example,),
                dynamo=True,
                external_data=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ModelFileError(
            "the network could not be traced into ONNX: use plain tensor operations in it, no choice that depends on "
            "the image, and give images of the size that it takes"
        ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def _silence_torch() -> Iterator[None]:
    """Warnings, logs and printed graphs of the exporter's attempts say nothing that anybody here can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _clean(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about this machine and its source files."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.value_info[:]


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 tensors as float16 and cast them back to float32 at the start of the graph."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < HALF_FROM_ELEMENTS:
            continue
        if not np.abs(values).max() < np.finfo(np.float16).max:
            raise ModelFileError(f"weights '{tensor.name}' exceed the range of float16: train with more weight decay")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        if node.op_type not in OPERATORS or node.domain not in {"", "ai.onnx"}:
            raise ModelFileError(f"node '{node.name}' is a {node.op_type}, which the engines lack: change the network")
    if model.ByteSize() > MAX_BYTES:
        raise ModelFileError(f"the model takes {model.ByteSize()} bytes, more than {MAX_BYTES}: use a smaller network")


def run_onnx(model: Path | onnx.ModelProto, images: ImageArray, *, batch: int = 32) -> NDArray[np.float32]:
    """Logits of onnxruntime on the CPU for normalised images: (n, channels, height, width) -> (n, classes)."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [
        session.run(None, {name: np.ascontiguousarray(images[start : start + batch])})[0]
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


def largest_difference(network: nn.Module, model: Path | onnx.ModelProto, images: NDArray[np.float32]) -> float:
    """Largest absolute gap between the logits of the network and of its exported model: float16 rounding, mostly."""
    return float(np.abs(predict(network, images) - run_onnx(model, images)).max())
