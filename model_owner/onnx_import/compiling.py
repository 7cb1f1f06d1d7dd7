"""Compile an ONNX model: walk its nodes in order, fold what is constant, lower the rest, check the result whole."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from contract.errors import ModelFileError
from contract.model_card import ModelCard
from model_owner.onnx_import.draft import Array, Draft, Node
from model_owner.onnx_import.folding import FOLDABLE, finish, fold_constant
from model_owner.onnx_import.operators import HANDLERS
from model_owner.onnx_import.reading import OnnxModel, read_onnx
from model_owner.onnx_import.smooth import final_softmax
from secure_computation.network import Network, describe_invalid, parse_network
from secure_computation.private_weights import PrivateWeights

if TYPE_CHECKING:
    import onnx

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """The two halves of a model, with the ONNX model that they came from, in one piece."""

    network: Network
    weights: PrivateWeights
    onnx: bytes = field(repr=False)


def compile_model(path: Path, card: ModelCard) -> CompiledModel:
    """Compile model.onnx and hold it against its card.

    Raises:
        ModelFileError: the file is damaged, changed since its card was written, or asks for something unsupported.
    """
    model = read_onnx(path)
    if model.sha256 != card.model_sha256:
        raise ModelFileError(
            f"{path.name} is not the file that the card describes (its SHA-256 is {model.sha256}): restore it, or "
            "write a card with a new version and this hash"
        )
    network, weights = lower(model)
    _check_card(network, card)
    last = final_softmax(model.graph)
    if last is not None:
        _LOG.warning(
            "the model ends in %s, which is left out: its output is logits, of which the data owner computes "
            "probabilities itself",
            last.op_type,
        )
    return CompiledModel(network=network, weights=weights, onnx=bytes(model.proto.SerializeToString()))


def lower(model: OnnxModel) -> tuple[Network, PrivateWeights]:
    """Public network and private weights of a model that was read. Raises ModelFileError."""
    draft = _start(model)
    for node in _nodes(model.graph):
        _lower_node(draft, node)
    output = _output(draft, model.graph)
    operations, name, tensors = finish(draft, output)
    shape, image = draft.shapes[output], draft.input_shape
    if len(shape) != 1:
        raise ModelFileError(f"the model's output has shape {shape}, not one number for each class: add a Flatten")
    try:
        network = Network(input_shape=image, operations=operations, output=name, classes=shape[0])
    except ValidationError as error:
        raise ModelFileError(f"the model cannot be served: {describe_invalid(error)}") from error
    network = parse_network(network.canonical_bytes())
    return network, PrivateWeights(network, tensors)


def _check_card(network: Network, card: ModelCard) -> None:
    asked = (card.input.channels, card.input.height, card.input.width)
    if network.input_shape != asked:
        raise ModelFileError(f"the model takes {network.input_shape}, the card says {asked}: correct the card's input")
    if network.classes != len(card.classes):
        raise ModelFileError(
            f"the model has {network.classes} outputs, the card {len(card.classes)} classes: correct the card's classes"
        )


def _start(model: OnnxModel) -> Draft:
    constants = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ModelFileError("the model must have one input (the image) and one output (the logits): export it so")
    last = final_softmax(model.graph)
    return Draft(
        opset=model.opset,
        input_name=inputs[0].name,
        input_shape=_input_shape(inputs[0]),
        constants=constants,
        final_softmax=None if last is None else last.output[0],
    )


def _input_shape(entry: "onnx.ValueInfoProto") -> tuple[int, int, int]:
    import onnx

    kind = entry.type.tensor_type
    if kind.elem_type not in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}:
        raise ModelFileError("the model's input is not a float image: export it with a float32 input")
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if len(sizes) != 4 or sizes[0] not in {None, 1}:
        raise ModelFileError(
            f"the model's input must be (batch, channels, height, width), batch free or 1; got {sizes}"
        )
    fixed = tuple(size for size in sizes[1:] if size)
    if len(fixed) != 3:
        raise ModelFileError("the model leaves channels, height or width open: export it with a fixed image size")
    return fixed[0], fixed[1], fixed[2]


def _array(tensor: "onnx.TensorProto") -> Array:
    import onnx

    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError("a tensor of the model holds too few or too many bytes: export the model again") from error


def _nodes(graph: "onnx.GraphProto") -> list[Node]:
    import onnx

    return [
        Node(
            operator=proto.op_type,
            name=proto.name or (proto.output[0] if proto.output else ""),
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes={entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.attribute},
        )
        for proto in graph.node
    ]


def _lower_node(draft: Draft, node: Node) -> None:
    if node.operator == "Constant":
        draft.constants[node.outputs[0]] = _constant(node)
    elif node.operator == "Shape" and node.inputs[0] in draft.values:
        whole = (1, *draft.shape(node, 0))
        draft.constants[node.outputs[0]] = np.asarray(
            whole[node.attributes.get("start", 0) : node.attributes.get("end", len(whole))], dtype=np.int64
        )
    elif node.operator in FOLDABLE and all(name in draft.constants for name in node.inputs if name):
        inputs = [draft.constants[name] if name else np.empty(0) for name in node.inputs]
        draft.constants[node.outputs[0]] = fold_constant(node, inputs, draft.opset)
    elif node.operator in HANDLERS:
        HANDLERS[node.operator](draft, node)
    else:
        raise node.unsupported(
            "not supported under encryption",
            f"replace it before the export by supported operators ({', '.join(sorted(HANDLERS))})",
        )


def _constant(node: Node) -> Array:
    attributes = dict(node.attributes)
    if "value" in attributes:
        return _array(attributes["value"])
    for name, kind in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in attributes:
            return np.asarray(attributes[name], dtype=kind)
    raise node.unsupported("it holds neither a tensor nor numbers", "export the model again")


def _output(draft: Draft, graph: "onnx.GraphProto") -> str:
    name = graph.output[0].name
    if name not in draft.values:
        raise ModelFileError("the model's output does not depend on its input: export the model again")
    return draft.values[name]
