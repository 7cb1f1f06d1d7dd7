"""Compile an ONNX model: walk its nodes in order, fold what is constant, lower the rest, check the result whole."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

import numpy as np
from pydantic import ValidationError

from contract.errors import ModelFileError
from contract.model_card import ModelCard
from model_owner.onnx_import.arranging import (
    can_rearrange,
    drop_repetition,
    find_positions,
    keep_arrangement,
    rearrange,
    settle,
    settle_inputs,
)
from model_owner.onnx_import.builder import MADE_BESIDE, MADE_FOR_EACH, Array, ChannelMap, NetworkBuilder, Node
from model_owner.onnx_import.ending import Ending, check_card, check_probabilities, find_ending, find_final_activation
from model_owner.onnx_import.folding import FOLDABLE, run_reference
from model_owner.onnx_import.fusion import finish
from model_owner.onnx_import.operators import OPERATORS, Inputs
from model_owner.onnx_import.reading import OnnxModel, explain_hash, read_onnx
from model_owner.onnx_import.unsupported import explain_unsupported
from secure_computation.network import MAX_TENSOR_ELEMENTS, Network, describe_invalid, parse_network
from secure_computation.plan_costs import values_at_once
from secure_computation.private_weights import PrivateWeights

if TYPE_CHECKING:
    import onnx

MAX_AT_ONCE = 1 << 27
"""Elements of values of one image: import and check evaluate four together, 2 GiB."""
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
            f"write a card with a new version and this hash, {explain_hash(model.files)}"
        )
    network, weights, outputs = lower(model)
    if values_at_once(network) > MAX_AT_ONCE:
        raise ModelFileError(
            f"an evaluation of the model has {values_at_once(network)} values in memory at once, more than the "
            f"{MAX_AT_ONCE} that are supported: use smaller images or a smaller model"
        )
    ending = find_ending(model.graph)
    check_card(ending, outputs, card)
    asked = (card.input.channels, card.input.height, card.input.width)
    if network.input_shape != asked:
        raise ModelFileError(f"the model takes {network.input_shape}, the card says {asked}: correct the card's input")
    if ending is not Ending.LOGITS:
        _LOG.warning(
            "the model ends in %s, which is left out: its output is logits, from which the data owner computes "
            "probabilities itself",
            ending,
        )
    return CompiledModel(network=network, weights=weights, onnx=bytes(model.proto.SerializeToString()))


class Lowered(NamedTuple):
    """Public network, private weights, and how many numbers the ONNX model ends in."""

    network: Network
    weights: PrivateWeights
    outputs: int


def lower(model: OnnxModel) -> Lowered:
    """Lower a model that was read. One that ends in one number z becomes the two logits (0, z).

    Raises ModelFileError for anything that cannot be served.
    """
    builder = _start_builder(model)
    for node in _read_nodes(model.graph):
        _lower_node(builder, node)
    output, outputs = _finish_output(builder, model.graph)
    operations, name, tensors = finish(builder, output)
    try:
        network = Network(
            input_shape=builder.input_shape, operations=operations, output=name, classes=builder.shapes[output][0]
        )
    except ValidationError as error:
        raise ModelFileError(f"the model cannot be served: {describe_invalid(error)}") from error
    network = parse_network(network.canonical_bytes())
    return Lowered(network, PrivateWeights(network, tensors), outputs)


def _start_builder(model: OnnxModel) -> NetworkBuilder:
    constants = {tensor.name: _read_array(tensor) for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ModelFileError(
            f"the model has {len(inputs)} inputs and {len(model.graph.output)} outputs: export it with one input, the "
            "image, and one output, the logits (auxiliary outputs go away in evaluation mode: model.eval())"
        )
    last = find_final_activation(model.graph)
    check_probabilities(model.graph)
    return NetworkBuilder(
        opset=model.opset,
        input_name=inputs[0].name,
        input_shape=_read_input_shape(inputs[0]),
        constants=constants,
        final_activation=None if last is None else last.output[0],
        most_made=MADE_FOR_EACH * model.elements + MADE_BESIDE,
    )


def _read_input_shape(entry: "onnx.ValueInfoProto") -> tuple[int, int, int]:
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
    if fixed[0] not in {1, 3} and fixed[2] in {1, 3}:
        raise ModelFileError(
            f"the model takes (batch, height, width, channels), {sizes}: export it with channels first, as with "
            "tf2onnx --inputs-as-nchw"
        )
    if math.prod(fixed) > MAX_TENSOR_ELEMENTS:
        raise ModelFileError(f"the model's images have {math.prod(fixed)} values, which is too large: use smaller ones")
    return fixed[0], fixed[1], fixed[2]


def _read_array(tensor: "onnx.TensorProto") -> Array:
    import onnx

    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError("a tensor of the model holds too few or too many bytes: export the model again") from error


def _read_nodes(graph: "onnx.GraphProto") -> list[Node]:
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


def _lower_node(builder: NetworkBuilder, node: Node) -> None:
    if node.operator == "Constant":
        builder.constants[node.outputs[0]] = _read_constant(node)
    elif node.operator in {"Shape", "Size"} and node.inputs[0] in builder.values:
        _fold(builder, node, [find_positions(builder, node, 0)])
    elif node.operator in FOLDABLE and all(name in builder.constants for name in node.inputs if name):
        _fold(builder, node, [builder.constants[name] if name else np.empty(0) for name in node.inputs])
    elif can_rearrange(builder, node):
        rearrange(builder, node)
    elif node.operator in OPERATORS:
        _lower_by_table(builder, node)
    else:
        raise explain_unsupported(node)


def _fold(builder: NetworkBuilder, node: Node, inputs: list[Array]) -> None:
    results = run_reference(node, inputs, builder.opset, limit=builder.left_to_fold)
    made = dict(zip((name for name in node.outputs if name), results, strict=True))
    builder.count_folded(sum(array.size for array in made.values()))
    builder.constants.update(made)


def _lower_by_table(builder: NetworkBuilder, node: Node) -> None:
    operator, arrangement = OPERATORS[node.operator], None
    if node.operator == "Mul":
        node = drop_repetition(builder, node)
    match operator.inputs:
        case Inputs.ELEMENTWISE:
            arrangement = keep_arrangement(builder, node)
        case Inputs.PLAIN:
            settle_inputs(builder, node)
        case Inputs.AS_ARRANGED:
            pass
        case _:
            assert_never(operator.inputs)
    operator.lower(builder, node)
    if arrangement is not None:
        builder.remember(node, node.outputs[0], arrangement)


def _read_constant(node: Node) -> Array:
    attributes = dict(node.attributes)
    if "value" in attributes:
        return _read_array(attributes["value"])
    for name, kind in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in attributes:
            return np.asarray(attributes[name], dtype=kind)
    raise node.unsupported("it holds neither a tensor nor numbers", "export the model again")


def _finish_output(builder: NetworkBuilder, graph: "onnx.GraphProto") -> tuple[str, int]:
    """The value of the logits, at least two, and how many the ONNX model itself has."""
    name = graph.output[0].name
    if name not in builder.values:
        raise ModelFileError("the model's output does not depend on its input: export the model again")
    last = Node(operator="Identity", name=name, inputs=(name,), outputs=(name,), attributes={})
    positions = find_positions(builder, last, 0)
    outputs = positions.size
    if not positions.shape:
        raise ModelFileError("the model's output is one number for a whole batch: keep its first axis, the batch")
    if outputs != max(positions.shape):
        raise ModelFileError(
            f"the model's output has shape {positions.shape[1:]}, not one number for each class: add a Flatten"
        )
    builder.positions[name] = positions.reshape(1, -1)
    settle(builder, last, name)
    value = builder.values[name]
    if outputs == 1:
        second = {"matrix": np.array([[0.0], [1.0]])}
        value = builder.append(last, ChannelMap, (value,), tensors=second, outputs=2)
    return value, outputs
