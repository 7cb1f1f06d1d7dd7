"""Small ONNX models for the tests, and the comparison of a compiled one with onnxruntime."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.model_card import ModelCard
from model_owner.onnx_import.compiling import lower
from model_owner.onnx_import.reading import read_onnx
from secure_computation.float_reference import evaluate
from secure_computation.network import Network
from secure_computation.private_weights import PrivateWeights

Tensors = Mapping[str, Any]
"""Arrays and NumPy scalars by name."""


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=f"node_{output}", **attributes)


def build(
    nodes: Sequence[onnx.NodeProto],
    tensors: Tensors,
    *,
    size: Sequence[int | str] = (1, 6, 7),
    opset: int = 17,
    batch: int | str = "batch",
    flatten: str | None = None,
) -> onnx.ModelProto:
    """A model from `image` to `logits`; `flatten` names a value that a last Flatten turns into the logits."""
    nodes = [*nodes, *([node("Flatten", [flatten], "logits")] if flatten else [])]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "classes"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compiled(model: onnx.ModelProto) -> tuple[Network, PrivateWeights]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return lower(read_onnx(path))[:2]


def agree(model: onnx.ModelProto) -> Network:
    """Compile, compare with onnxruntime on two images, and return the network."""
    network, weights = compiled(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    images = floats(1 if fixed else 2, *network.input_shape, seed=1)
    expected = session.run(None, {"image": images})[0]
    actual = evaluate(network, weights, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    return network


def kinds(network: Network) -> list[str]:
    return [operation.kind for operation in network.operations]


def card_for(path: Path, *, height: int, width: int, class_count: int, **changes: Any) -> ModelCard:
    """A card that fits the file at `path`, apart from `changes`."""
    return ModelCard.model_validate(
        {
            "name": "tiny",
            "version": "1.0.0",
            "title": "Tiny",
            "intended_use": "tests",
            "input": {
                "modalities": ["DX"],
                "height": height,
                "width": width,
                "mean": [0.5],
                "standard_deviation": [0.25],
            },
            "classes": [f"class{index}" for index in range(class_count)],
            "training": "none",
            "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        | changes
    )
