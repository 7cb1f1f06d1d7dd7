"""Outputs and class activation maps in clear, by onnxruntime on the ONNX file: what encrypted ones are held against."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imaging.reading import read_model_input
from plumbing.onnx_runtime import load_onnxruntime
from tests.end_to_end.federation import Federation


def float_maps(model_path: Path, tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    """The last layer's weights at every place of what the global average pool reads: (classes, rows, columns).

    For files that end in average pool, flatten and Gemm, and perhaps a Sigmoid.
    """
    model = onnx.load(model_path)
    (pool,) = [node for node in model.graph.node if node.op_type in {"GlobalAveragePool", "ReduceMean"}][-1:]
    (head,) = [node for node in model.graph.node if node.op_type == "Gemm"][-1:]
    assert {attribute.name: attribute.i for attribute in head.attribute}["transB"] == 1
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    features = pool.input[0]
    model.graph.output.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, None))
    session = load_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([features], {session.get_inputs()[0].name: tensor[None]})
    return np.asarray(np.einsum("kc,cyx->kyx", weights[head.input[1]].astype(np.float64), found[0]), np.float64)


def outputs_of_the_file(federation: Federation, path: Path) -> NDArray[np.float32]:
    """What model.onnx gives for an image by itself."""
    model = (federation.folder / "model" / "model.onnx").read_bytes()
    session = load_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    tensor = read_model_input(path, federation.model.card.input).tensor
    found: NDArray[np.float32] = session.run(None, {"image": tensor[np.newaxis]})[0][0]
    return found
