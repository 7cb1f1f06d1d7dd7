"""Windows over images: padding, pools, and the reductions that stand for pools over the whole image."""

import math

import numpy as np

from model_owner.onnx_import.arranging import MAX_MAP_ELEMENTS, arrange, find_positions, is_permutation, make_plain
from model_owner.onnx_import.builder import ChannelMap, NetworkBuilder, Node, PadBelow, Positions
from secure_computation.network import NO_PADDING, AveragePool, GlobalAveragePool, MaxPool, Pad, Padding, Pair

_LOWEST = -1e6
"""What is padded with less is meant to lose against everything, as minus infinity does."""
_SIMPLIFY = "change the model and export it again"


def find_image_size(builder: NetworkBuilder, node: Node) -> Pair:
    """Height and width of input 0. Raises ModelFileError if it is no image."""
    shape = builder.shape(node, 0)
    if len(shape) != 3:
        raise node.unsupported(f"its input has shape {shape}, not (channels, height, width)", _SIMPLIFY)
    return shape[1], shape[2]


def find_padding(node: Node, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
    """The node's padding, explicit or automatic (ONNX `auto_pad`)."""
    automatic = node.text("auto_pad", "NOTSET")
    if automatic == "NOTSET":
        pads = tuple(int(value) for value in node.attributes.get("pads", NO_PADDING))
        if len(pads) != 4:
            raise node.unsupported("'pads' must have four values", "only two-dimensional images are supported")
        return pads[0], pads[1], pads[2], pads[3]
    if automatic == "VALID":
        return NO_PADDING
    if min(stride) < 1 or automatic not in {"SAME_UPPER", "SAME_LOWER"}:
        raise node.unsupported(f"auto_pad {automatic} with stride {stride}", _SIMPLIFY)
    before, after = [], []
    for extent, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((math.ceil(extent / s) - 1) * s + (k - 1) * d + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        before.append(small if automatic == "SAME_UPPER" else large)
        after.append(large if automatic == "SAME_UPPER" else small)
    return before[0], before[1], after[0], after[1]


def _read_windows(builder: NetworkBuilder, node: Node) -> tuple[Pair, Pair, Pair, Padding]:
    """Image size, kernel, stride and padding of a pool, before it rounds up."""
    if node.pair("dilations", (1, 1)) != (1, 1):
        raise node.unsupported("it is dilated", _SIMPLIFY)
    size, kernel, stride = find_image_size(builder, node), node.pair("kernel_shape"), node.pair("strides", (1, 1))
    return size, kernel, stride, find_padding(node, size, kernel, stride, (1, 1))


def max_pool(builder: NetworkBuilder, node: Node) -> None:
    size, kernel, stride, padding = _read_windows(builder, node)
    if _rounds_up(node):
        padding = _round_up(size, kernel, stride, padding)
    value = builder.value(node, 0)
    if isinstance(made := builder.maker(value), PadBelow):
        value, padding = made.inputs[0], _add_paddings(padding, made.padding)
    builder.emit(node, MaxPool, (value,), kernel=kernel, stride=stride, padding=padding)


def _add_paddings(one: Padding, other: Padding) -> Padding:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def _rounds_up(node: Node) -> bool:
    """Whether a last window that reaches beyond the image counts; onnxruntime has it so for auto_pad VALID too."""
    return bool(node.integer("ceil_mode", 0)) and node.text("auto_pad", "NOTSET") in {"NOTSET", "VALID"}


def _round_up(size: Pair, kernel: Pair, stride: Pair, padding: Padding) -> Padding:
    """Padding with which rounding down gives what `ceil_mode` asks for: a last window that starts inside counts."""
    after = [padding[2], padding[3]]
    for axis in range(2):
        before = padding[axis]
        rest = size[axis] + before + after[axis] - kernel[axis]
        windows = math.ceil(rest / max(stride[axis], 1)) + 1
        if (windows - 1) * stride[axis] >= size[axis] + before:
            windows -= 1
        after[axis] += max((windows - 1) * stride[axis] - rest, 0)
    return padding[0], padding[1], after[0], after[1]


def average_pool(builder: NetworkBuilder, node: Node) -> None:
    """AveragePool; a window that `ceil_mode` lets reach beyond the padding is averaged over what it holds."""
    size, kernel, stride, padding = _read_windows(builder, node)
    value, counted = builder.value(node, 0), bool(node.integer("count_include_pad", 0))
    if _rounds_up(node):
        reaching = _round_up(size, kernel, stride, padding)
        if counted and reaching != padding:  # the padding counts, what lies beyond it does not
            value, counted = builder.append(node, Pad, (value,), padding=padding), False
            reaching = (0, 0, reaching[2] - padding[2], reaching[3] - padding[3])
        padding = reaching
    builder.emit(node, AveragePool, (value,), kernel=kernel, stride=stride, padding=padding, count_include_pad=counted)


def global_max_pool(builder: NetworkBuilder, node: Node) -> None:
    """GlobalMaxPool: a window as large as the image."""
    size = find_image_size(builder, node)
    builder.emit(node, MaxPool, (builder.value(node, 0),), kernel=size, stride=size)


def reduce_sum(builder: NetworkBuilder, node: Node) -> None:
    """ReduceSum over height and width: their mean times the number of places."""
    elements = math.prod(builder.shape(node, 0))
    mean = reduce(builder, node, since=13)
    builder.affine(node, mean, scale=elements / math.prod(builder.shapes[mean]))


def reduce(builder: NetworkBuilder, node: Node, *, since: int, largest: bool = False) -> str:
    """The mean or maximum over height and width, at once or one after the other, whatever the order of axes.

    Emits the pool that this is; returns the pooled value. `since`: the opset that made axes an input.
    """
    positions, value = find_positions(builder, node, 0), builder.value(node, 0)
    axes = _read_axes(builder, node, since, positions.ndim)
    shape = builder.shapes[value]
    channels, height, width = (*shape, 1, 1)[:3]
    for extent in ((1, 1), (height, width), (1, width), (height, 1)):
        found = _pool_positions(positions, (channels, height, width), extent, axes)
        if found is not None:
            pooled = _pool_over(builder, node, value, extent, largest=largest)
            kept = found if node.integer("keepdims", 1) else found.squeeze(axes)
            arrange(builder, node, node.outputs[0], pooled, kept)
            return pooled
    raise node.unsupported(
        f"it reduces axes {list(axes)} of a value of shape {positions.shape}",
        "only the mean, sum or maximum over height and width is supported; over channels it is mostly part of a "
        "LayerNorm: train the model with BatchNorm instead",
    )


def _read_axes(builder: NetworkBuilder, node: Node, since: int, rank: int) -> tuple[int, ...]:
    given = node.attributes.get("axes") if builder.opset < since else builder.optional_constant(node, 1)
    axes = [int(axis) for axis in np.asarray(range(rank) if given is None else given).reshape(-1)]
    if any(not -rank <= axis < rank for axis in axes):
        raise node.unsupported(f"it reduces axes {axes} of {rank}", "export the model again")
    return tuple(sorted({axis % rank for axis in axes}))


def _pool_positions(
    positions: Positions, shape: tuple[int, int, int], extent: Pair, axes: tuple[int, ...]
) -> Positions | None:
    """Positions, with the reduced axes kept, in the value pooled over windows of `extent`; None if it is not that.

    Each element belongs to one window. The reduction is that pool if what it takes together are whole windows.
    """
    channels, height, width = shape
    small = (channels, height // extent[0], width // extent[1])
    windows = np.broadcast_to(np.arange(math.prod(small)).reshape(small), shape).reshape(-1)[positions]
    first = windows.min(axis=axes, keepdims=True)
    is_pool = first.size == math.prod(small) and bool((windows == first).all())
    return first if is_pool and is_permutation(positions, math.prod(shape)) else None


def _pool_over(builder: NetworkBuilder, node: Node, value: str, extent: Pair, *, largest: bool) -> str:
    if extent == (1, 1):
        return value
    whole = extent == builder.shapes[value][1:]
    if largest:
        return builder.append(node, MaxPool, (value,), kernel=extent, stride=extent)
    if whole:
        return builder.append(node, GlobalAveragePool, (_undo_partial_mean(builder, value),))
    return builder.append(node, AveragePool, (value,), kernel=extent, stride=extent, count_include_pad=False)


def _undo_partial_mean(builder: NetworkBuilder, value: str) -> str:
    """What was averaged over one whole axis to make the value: the mean over both is one pool."""
    made = builder.maker(value)
    if not isinstance(made, AveragePool):
        return value
    height, width = builder.shapes[made.inputs[0]][1:]
    is_partial = made.padding == NO_PADDING and made.kernel in {(1, width), (height, 1)}
    return made.inputs[0] if is_partial else value


def pad(builder: NetworkBuilder, node: Node) -> None:
    """Pad by a constant in height and width, by zeros in channels; negative padding cuts off."""
    if node.text("mode", "constant") != "constant":
        raise node.unsupported(f"its mode is {node.text('mode', '')}", "only padding by a constant is supported")
    find_image_size(builder, node)
    pads = [int(value) for value in builder.constant(node, 1).reshape(-1)]
    axes_given = builder.optional_constant(node, 3)
    named = [int(axis) for axis in (axes_given.reshape(-1) if axes_given is not None else range(4))]
    axes = [axis % 4 for axis in named]
    if any(not -4 <= axis < 4 for axis in named) or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise node.unsupported("its pads and axes disagree", _SIMPLIFY)
    before, after = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    given = builder.optional_constant(node, 2)
    constant = 0.0 if given is None or given.size == 0 else float(given.reshape(-1)[0])
    if before.get(0, 0) or after.get(0, 0):
        raise node.unsupported("it pads the batch", "only channels, height and width may be padded")
    value = _cut_borders(builder, node, before, after)
    if before.get(1, 0) > 0 or after.get(1, 0) > 0:
        if constant:
            raise node.unsupported(f"it pads channels with {constant:g}", "pad channels with 0")
        value = _pad_channels(builder, node, value, (max(before.get(1, 0), 0), max(after.get(1, 0), 0)))
    padding = tuple(max(border.get(axis, 0), 0) for border in (before, after) for axis in (2, 3))
    if constant < _LOWEST:
        builder.emit(node, PadBelow, (value,), padding=padding, source=node.shown_name)
        return
    builder.emit(node, Pad, (value,), padding=padding, value=constant)


def _cut_borders(builder: NetworkBuilder, node: Node, before: dict[int, int], after: dict[int, int]) -> str:
    """Negative padding cuts off."""
    value = builder.value(node, 0)
    if min(*before.values(), *after.values(), 0) == 0:
        return value
    positions = find_positions(builder, node, 0)
    ends = [
        (max(-before.get(axis, 0), 0), size + min(after.get(axis, 0), 0)) for axis, size in enumerate(positions.shape)
    ]
    if any(end <= start for start, end in ends):
        raise node.unsupported("it cuts off all that there is", _SIMPLIFY)
    return make_plain(builder, node, value, positions[tuple(slice(start, end) for start, end in ends)])


def _pad_channels(builder: NetworkBuilder, node: Node, value: str, borders: Pair) -> str:
    """Channels of zeros, as a shortcut without weights has them."""
    channels = builder.shapes[value][0]
    outputs = channels + sum(borders)
    if outputs * channels > MAX_MAP_ELEMENTS:
        raise node.unsupported(f"it makes {outputs} channels of {channels}", "the model is too large")
    matrix = np.eye(outputs, channels, -borders[0])
    return builder.append(node, ChannelMap, (value,), tensors={"matrix": matrix}, outputs=outputs)
