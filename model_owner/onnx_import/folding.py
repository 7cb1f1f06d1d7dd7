"""What disappears at import: constants are computed, channel-wise scales and shifts join the layer before them."""

import math
from collections import Counter
from typing import cast

import numpy as np

from model_owner.onnx_import.draft import Array, ChannelAffine, Double, Draft, Node
from secure_computation.network import (
    INPUT,
    MAX_WEIGHT_ELEMENTS,
    BaseOperation,
    Convolution2d,
    FullyConnected,
    Operation,
    Reshape,
)

Tensors = dict[str, dict[str, Double]]

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Neg", "Reciprocal", "Max"})
_REARRANGING = frozenset(
    {"Cast", "Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Gather", "Slice"}
)
FOLDABLE = _ELEMENTWISE | _REARRANGING | {"ReduceMean"}
_STEMS = {"convolution2d": "convolution"}


def fold_constant(node: Node, inputs: list[Array], opset: int) -> Array:
    """Value of a node in FOLDABLE whose inputs are all constants, by onnx's own reference implementation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    _check_folded_size(node, inputs)
    proto = onnx.helper.make_node(node.operator, node.inputs, node.outputs[:1], **node.attributes)
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(proto, opsets={"": opset}).run(None, given)
    except (ValueError, IndexError, TypeError, RuntimeError, NotImplementedError) as error:
        raise node.unsupported("its constant cannot be computed", "export the model again") from error
    return np.asarray(result)


def _check_folded_size(node: Node, inputs: list[Array]) -> None:
    if node.operator in _ELEMENTWISE:
        try:
            elements = math.prod(np.broadcast_shapes(*(value.shape for value in inputs)))
        except ValueError as error:
            raise node.unsupported("its constants have shapes that do not fit", "export the model again") from error
    elif node.operator == "Gather":
        elements = math.prod(value.size for value in inputs)
    else:
        elements = sum(value.size for value in inputs)
    if elements > MAX_WEIGHT_ELEMENTS:
        raise node.unsupported(f"its constant has {elements} elements", "the model is too large")


def finish(draft: Draft, output: str) -> tuple[tuple[Operation, ...], str, dict[str, Double]]:
    """Operations with their final names, the output's name, and the private tensors by their full names."""
    live = _live(draft.operations, output)
    folded, tensors, output = _fold_affines(live, draft.tensors, output)
    plain, tensors = _without_affines(folded, tensors)
    return _renamed(plain, tensors, output)


def _live(operations: list[BaseOperation], output: str) -> list[BaseOperation]:
    needed, live = {output}, []
    for operation in reversed(operations):
        if operation.output in needed:
            needed.update(operation.inputs)
            live.append(operation)
    return live[::-1]


def _fold_affines(
    operations: list[BaseOperation], tensors: Tensors, output: str
) -> tuple[list[BaseOperation], Tensors, str]:
    """Merge each ChannelAffine into the layer that it alone reads, if that layer is linear."""
    uses = Counter(name for operation in operations for name in operation.inputs)
    uses[output] += 1
    kept: dict[str, BaseOperation] = {}
    merged_tensors: Tensors = {}
    replaced: dict[str, str] = {}
    for original in operations:
        inputs = tuple(replaced.get(name, name) for name in original.inputs)
        operation = original.model_copy(update={"inputs": inputs})
        producer = kept.get(inputs[0])
        mergeable = isinstance(producer, Convolution2d | FullyConnected | ChannelAffine) and uses[inputs[0]] == 1
        if producer is not None and mergeable and isinstance(operation, ChannelAffine):
            kept[producer.name] = _with_bias(producer)
            merged_tensors[producer.name] = _merged(merged_tensors[producer.name], tensors[operation.name])
            replaced[operation.name] = producer.name
            uses[producer.name] = uses[operation.name]
        else:
            kept[operation.name] = operation
            merged_tensors[operation.name] = tensors[operation.name]
    return list(kept.values()), merged_tensors, replaced.get(output, output)


def _with_bias(producer: BaseOperation) -> BaseOperation:
    return producer if isinstance(producer, ChannelAffine) else producer.model_copy(update={"bias": True})


def _merged(producer: dict[str, Double], affine: dict[str, Double]) -> dict[str, Double]:
    """The producer's scale * (weight x + bias) + shift, as new tensors of the producer."""
    main, offset = ("scale", "shift") if "scale" in producer else ("weight", "bias")
    weight = producer[main]
    scale = affine["scale"]
    return {
        main: weight * scale.reshape(-1, *(1 for _ in weight.shape[1:])),
        offset: producer.get(offset, np.zeros_like(scale)) * scale + affine["shift"],
    }


def _without_affines(operations: list[BaseOperation], tensors: Tensors) -> tuple[list[BaseOperation], Tensors]:
    """What could not be merged becomes a depthwise 1 x 1 convolution (of a 1 x 1 image, for features)."""
    plain: list[BaseOperation] = []
    kept: Tensors = {}
    for operation in operations:
        if not isinstance(operation, ChannelAffine):
            plain.append(operation)
            kept[operation.name] = tensors[operation.name]
            continue
        channels = operation.shape[0]
        is_vector = len(operation.shape) == 1
        names = (f"{operation.name}_image", f"{operation.name}_scaled") if is_vector else (None, operation.name)
        image_shape = (channels, 1, 1) if is_vector else operation.shape
        if names[0]:
            plain.append(Reshape(name=names[0], inputs=operation.inputs, shape=image_shape))
        plain.append(
            Convolution2d(
                name=names[1],
                inputs=(names[0],) if names[0] else operation.inputs,
                shape=image_shape,
                weight_shape=(channels, 1, 1, 1),
                bias=True,
                groups=channels,
            )
        )
        affine = tensors[operation.name]
        kept[names[1]] = {"weight": affine["scale"].reshape(channels, 1, 1, 1), "bias": affine["shift"]}
        if is_vector:
            plain.append(Reshape(name=operation.name, inputs=(names[1],), shape=operation.shape))
    return plain, kept


def _renamed(
    operations: list[BaseOperation], tensors: Tensors, output: str
) -> tuple[tuple[Operation, ...], str, dict[str, Double]]:
    """Names that say what a layer is and tell nothing of the ONNX file: convolution1, relu1, convolution2, ..."""
    names = {INPUT: INPUT}
    counts: Counter[str] = Counter()
    final: list[Operation] = []
    weights: dict[str, Double] = {}
    for operation in operations:
        made = cast("Operation", operation)  # ChannelAffine is gone by now
        counts[made.kind] += 1
        name = f"{_STEMS.get(made.kind, made.kind)}{counts[made.kind]}"
        names[made.name] = name
        final.append(made.model_copy(update={"name": name, "inputs": tuple(names[value] for value in made.inputs)}))
        weights |= {f"{name}.{role}": tensor for role, tensor in tensors.get(made.name, {}).items()}
    return tuple(final), names[output], weights
