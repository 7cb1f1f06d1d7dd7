"""Operators that only move elements: Reshape, Transpose, Squeeze, Gather, Slice, Split and the like.

None of them becomes an operation by itself. Each is applied, by ONNX's own reference implementation, to an array of
positions: entry p of `NetworkBuilder.positions[name]` says which element of the value, in row-major order, stands at
that place of the ONNX tensor. So exporters may take axes away, bring them back and change their order as they like.
Only if an operator needs its input in the plain form, (1, channels, height, width) or (1, features), is the tensor
settled: as it is, by a Reshape, by a ChannelMap that picks and orders channels, or cut out (see `cutting`).
"""

import math
from dataclasses import replace

import numpy as np

from model_owner.onnx_import.builder import Array, ChannelMap, Double, NetworkBuilder, Node, Positions
from model_owner.onnx_import.folding import REARRANGING, run_reference
from secure_computation.network import AveragePool, Convolution2d, Reshape, Shape

MAX_MAP_ELEMENTS = 1 << 24
_ADVICE = "only (batch, features) and (batch, channels, height, width) can be computed on"


def find_onnx_shape(builder: NetworkBuilder, node: Node, index: int) -> Shape:
    """Shape of an input that is computed from the image, as ONNX sees it: with the batch, which is 1."""
    builder.value(node, index)
    positions = builder.positions.get(node.inputs[index])
    return (1, *builder.shape(node, index)) if positions is None else positions.shape


def find_positions(builder: NetworkBuilder, node: Node, index: int) -> Positions:
    """Where the elements of an input come from, also where it is in its plain form."""
    positions = builder.positions.get(node.inputs[index])
    if positions is not None:
        return positions
    shape = builder.shape(node, index)
    return np.arange(math.prod(shape)).reshape(1, *shape)


def can_rearrange(builder: NetworkBuilder, node: Node) -> bool:
    """Whether the node only moves elements of one value. A Concat of several values does more."""
    if node.operator not in REARRANGING or not node.inputs or node.inputs[0] not in builder.values:
        return False
    return node.operator != "Concat" or len({builder.values.get(name) for name in node.inputs}) == 1


def rearrange(builder: NetworkBuilder, node: Node) -> None:
    """Give the outputs their positions."""
    given: list[Array] = [find_positions(builder, node, 0)]
    for index in range(1, len(node.inputs)):
        if node.operator == "Concat":
            given.append(find_positions(builder, node, index))
        else:
            constant = builder.optional_constant(node, index)
            given.append(np.empty(0) if constant is None else constant)
    for output, positions in zip(
        node.outputs, run_reference(node, given, builder.opset, limit=builder.left_to_move), strict=True
    ):
        arrange(builder, node, output, builder.value(node, 0), positions)


def arrange(builder: NetworkBuilder, node: Node, output: str, value: str, positions: Positions) -> None:
    """Let an ONNX name stand for the elements of `value` at these positions."""
    builder.values[output] = value
    shape = builder.shapes[value]
    if positions.shape == (1, *shape) and _in_order(positions, math.prod(shape)):
        builder.positions.pop(output, None)
    else:
        builder.remember(node, output, positions)


def keep_arrangement(builder: NetworkBuilder, node: Node) -> Positions | None:
    """For an operator that works element by element: the positions that its output has as well.

    None, with every input settled, if inputs are arranged differently or do not hold each element of their value.
    """
    names = [name for name in node.inputs if name in builder.values]
    found = [builder.positions.get(name) for name in names]
    first = found[0] if found else None
    if first is not None and all(other is not None and np.array_equal(first, other) for other in found[1:]):
        shapes = {builder.shapes[builder.values[name]] for name in names}
        if len(shapes) == 1 and is_permutation(first, math.prod(shapes.pop())):
            return first
    settle_inputs(builder, node)
    return None


def drop_repetition(builder: NetworkBuilder, node: Node) -> Node:
    """The node with inputs that hold each element once if an Expand repeated it along channels or places.

    For operators that repeat such inputs themselves; the node as it is if the result would be smaller then.
    """
    found = {
        name: find_positions(builder, node, index) for index, name in enumerate(node.inputs) if name in builder.values
    }
    small = {name: _collapse(positions) for name, positions in found.items()}
    shapes = [positions.shape for positions in found.values()]
    try:
        is_same = np.broadcast_shapes(*(one.shape for one in small.values())) == np.broadcast_shapes(*shapes)
    except ValueError:
        return node
    if not is_same or len(found) < 2:  # beside a constant, nothing repeats it
        return node
    names = {name: f"{name}\0once" for name in found if small[name].shape != found[name].shape}
    for name, new in names.items():
        builder.values[new] = builder.values[name]
        builder.remember(node, new, small[name])
    return replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))


def _collapse(positions: Positions) -> Positions:
    for axis in range(1, positions.ndim):
        first = positions.take([0], axis=axis)
        if (positions == first).all():
            positions = first
    return positions


def settle_inputs(builder: NetworkBuilder, node: Node) -> None:
    """Bring all inputs into their plain form."""
    for name in node.inputs:
        settle(builder, node, name)


def settle(builder: NetworkBuilder, node: Node, name: str) -> None:
    """Bring one ONNX tensor into its plain form; it stands for the settled value from then on."""
    positions = builder.positions.get(name)
    if positions is None:
        return
    builder.values[name] = make_plain(builder, node, builder.values[name], positions)
    del builder.positions[name]


def make_plain(builder: NetworkBuilder, node: Node, value: str, positions: Positions) -> str:
    """A value that holds, in its plain form, the elements of `value` at these positions."""
    shape = positions.shape
    if shape[:1] != (1,) or len(shape) not in {2, 4}:
        raise node.unsupported(f"its input has shape {shape} for a batch of 1", _ADVICE)
    if not _in_order(positions, math.prod(builder.shapes[value])):
        value = _pick(builder, node, value, positions)
    return _reshape(builder, node, value, shape[1:])


def align_by_channel(builder: NetworkBuilder, node: Node, index: int, constant: Double) -> Double:
    """A constant beside input `index` as one number, or one for each channel (or feature) of the input's value."""
    shape = builder.shape(node, index)
    seen = find_onnx_shape(builder, node, index)
    refusal = node.unsupported(
        f"a constant of shape {constant.shape} beside a value of shape {seen}", "use one constant for each channel"
    )
    if constant.size == 1 and constant.ndim <= len(seen):
        return constant.reshape(1)
    positions = builder.positions.get(node.inputs[index])
    aligned = constant.reshape((1,) * max(len(seen) - constant.ndim, 0) + constant.shape)
    if positions is None:
        if aligned.shape != (1, shape[0], *(1 for _ in shape[1:])):
            raise refusal
        return constant.reshape(shape[0])
    if any(own not in {1, whole} for own, whole in zip(aligned.shape, seen, strict=False)) or aligned.ndim != len(seen):
        raise refusal
    spread = np.empty(math.prod(shape))
    spread[positions] = np.broadcast_to(aligned, seen)
    by_place = spread.reshape(shape[0], -1)
    if not (by_place == by_place[:, :1]).all():
        raise refusal
    return by_place[:, 0]


def order_columns(builder: NetworkBuilder, node: Node, weight: Double) -> tuple[str, Double]:
    """Input 0 as a plain vector, and the weight (outputs, features) with its columns in the order of that vector."""
    positions = find_positions(builder, node, 0)
    value = builder.value(node, 0)
    elements = math.prod(builder.shapes[value])
    if math.prod(positions.shape) != positions.shape[-1]:
        raise node.unsupported(f"its input has shape {positions.shape}", "flatten it to (batch, features) first")
    if weight.shape[1] != positions.size or not is_permutation(positions, elements):
        return make_plain(builder, node, value, positions.reshape(1, -1)), weight
    ordered = np.empty_like(weight)
    ordered[:, positions.reshape(-1)] = weight
    return _reshape(builder, node, value, (elements,)), ordered


def is_permutation(positions: Positions, elements: int) -> bool:
    """Whether each of so many elements stands at one place."""
    return positions.size == elements and bool((np.bincount(positions.reshape(-1), minlength=elements) == 1).all())


def _in_order(positions: Positions, elements: int) -> bool:
    return positions.size == elements and bool((positions.reshape(-1) == np.arange(elements)).all())


def _reshape(builder: NetworkBuilder, node: Node, value: str, shape: Shape) -> str:
    return value if builder.shapes[value] == shape else builder.append(node, Reshape, (value,), shape=shape)


def _pick(builder: NetworkBuilder, node: Node, value: str, positions: Positions) -> str:
    """A value that holds the elements at these positions in their order: channels of `value`, or elements of a vector.

    Raises ModelFileError if whole channels do not make it up, and it is no vector itself.
    """
    channels, *sizes = builder.shapes[value]
    area = math.prod(sizes)
    whole = positions.reshape(-1, area) if positions.size % area == 0 else np.empty((0, area), dtype=np.int64)
    rows = whole[:, 0] // area
    if not whole.size or not (whole == rows[:, None] * area + np.arange(area)).all():
        if (cut := cut_out(builder, node, value, positions)) is not None:
            return cut
        if positions.ndim != 2:
            raise node.unsupported(
                "its input holds the pixels of earlier values in another order",
                "only channels can be picked and reordered: crop, turn or rearrange images before they go into the "
                "model, and export with channels first (batch, channels, height, width)",
            )
        value, rows, channels = _reshape(builder, node, value, (channels * area,)), positions[0], channels * area
    if len(rows) * channels > MAX_MAP_ELEMENTS:
        raise node.unsupported(f"its input is {len(rows)} of {channels} elements in another order", "keep their order")
    matrix = np.zeros((len(rows), channels))
    matrix[np.arange(len(rows)), rows] = 1.0
    return builder.append(node, ChannelMap, (value,), tensors={"matrix": matrix}, outputs=len(rows))


_LARGEST_KERNEL = 32
"""Beyond it, a crop costs more than the network that follows: images are cropped before they go into the model."""
_MAX_WEIGHTS = 1 << 20


def cut_out(builder: NetworkBuilder, node: Node, value: str, positions: Positions) -> str | None:
    """The elements of an image at `positions` (1, channels, height, width), by a layer; None if no grid holds them.

    Output channel o holds, at (i, j), channel c of `value` at (top + i * stride, left + j * stride), where c, top and
    left depend on o alone: a convolution with a kernel that is 1 there and 0 elsewhere.
    """
    shape = builder.shapes[value]
    if positions.ndim != 4 or len(shape) != 3 or not positions.size:
        return None
    channels, height, width = shape
    channel, row, column = np.unravel_index(positions[0], (channels, height, width))
    strides = (_find_stride(row[0, :, 0]), _find_stride(column[0, 0, :]))
    channel, top, left = channel[:, :1, :1], row[:, :1, :1], column[:, :1, :1]
    made, high, wide = positions.shape[1:]
    rows = top + strides[0] * np.arange(high).reshape(1, -1, 1)
    columns = left + strides[1] * np.arange(wide).reshape(1, 1, -1)
    if min(strides) < 1 or not (positions[0] == (channel * height + rows) * width + columns).all():
        return None
    kernel = (
        max(int(top.max()) + 1, height - high * strides[0] + 1),
        max(int(left.max()) + 1, width - wide * strides[1] + 1),
    )
    same_channels = np.array_equal(channel.reshape(-1), np.arange(channels))
    if same_channels and kernel == (1, 1):
        return builder.append(node, AveragePool, (value,), kernel=kernel, stride=strides, count_include_pad=False)
    groups = channels if same_channels else 1
    weight_shape = (made, channels // groups, *kernel)
    if max(kernel) > _LARGEST_KERNEL or np.prod(weight_shape) > _MAX_WEIGHTS:
        return None
    weight = np.zeros(weight_shape)
    weight[np.arange(made), 0 if same_channels else channel.reshape(-1), top.reshape(-1), left.reshape(-1)] = 1.0
    return builder.append(
        node,
        Convolution2d,
        (value,),
        tensors={"weight": weight},
        weight_shape=weight_shape,
        bias=False,
        stride=strides,
        groups=groups,
    )


def _find_stride(places: Positions) -> int:
    return int(places[1] - places[0]) if len(places) > 1 else 1
