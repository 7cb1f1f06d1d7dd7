"""How each ONNX operator becomes operations of the public network. One function for each operator."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from model_owner.onnx_import import smooth
from model_owner.onnx_import.draft import ChannelAffine, Double, Draft, Node
from secure_computation.network import (
    NO_PADDING,
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Pad,
    Padding,
    Pair,
    Relu,
    Reshape,
    Shape,
)

Handler = Callable[[Draft, Node], None]

_SIMPLIFY = "change the model and export it again"


def _image_size(draft: Draft, node: Node) -> Pair:
    shape = draft.shape(node, 0)
    if len(shape) != 3:
        raise node.unsupported(f"its input has shape {shape}, not (channels, height, width)", _SIMPLIFY)
    return shape[1], shape[2]


def _window_padding(node: Node, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
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


def _convolution(draft: Draft, node: Node) -> None:
    weight = draft.floats(node, 1)
    if weight.ndim != 4:
        raise node.unsupported(f"its weight has {weight.ndim} axes", "only two-dimensional convolutions are supported")
    kernel = (weight.shape[2], weight.shape[3])
    stride, dilation = node.pair("strides", (1, 1)), node.pair("dilations", (1, 1))
    has_bias = draft.optional_constant(node, 2) is not None
    draft.emit(
        node,
        Convolution2d,
        (draft.value(node, 0),),
        tensors={"weight": weight} | ({"bias": draft.floats(node, 2)} if has_bias else {}),
        weight_shape=weight.shape,
        bias=has_bias,
        stride=stride,
        padding=_window_padding(node, _image_size(draft, node), kernel, stride, dilation),
        dilation=dilation,
        groups=node.integer("group", 1),
    )


def _batch_normalization(draft: Draft, node: Node) -> None:
    if node.integer("training_mode", 0):
        raise node.unsupported("it is in training mode", "export the model in evaluation mode")
    gain, offset, mean, variance = (draft.floats(node, index) for index in range(1, 5))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = gain / np.sqrt(variance + node.number("epsilon", 1e-5))
        shift = offset - mean * scale
    _affine(draft, node, draft.value(node, 0), scale, shift)


def _affine(draft: Draft, node: Node, value: str, scale: Double, shift: Double) -> None:
    """The value times `scale` plus `shift`, for constants that are one number, or one for each channel or feature."""
    shape = draft.shapes[value]
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise node.unsupported("a constant is not finite", "train or export the model again")
    tensors = {
        "scale": np.broadcast_to(scale, (shape[0],)).astype(np.float64),
        "shift": np.broadcast_to(shift, (shape[0],)).astype(np.float64),
    }
    draft.emit(node, ChannelAffine, (value,), tensors=tensors)


def _by_channel(node: Node, constant: Double, shape: Shape) -> Double:
    """A constant operand as one number, or one for each channel of a value of this shape (without batch)."""
    aligned = constant.reshape((1,) * max(len(shape) + 1 - constant.ndim, 0) + constant.shape)
    if constant.size == 1 and constant.ndim <= len(shape) + 1:
        return constant.reshape(1)
    if aligned.shape != (1, shape[0], *(1 for _ in shape[1:])):
        raise node.unsupported(
            f"a constant of shape {constant.shape} beside a value of shape {shape}", "use one constant for each channel"
        )
    return constant.reshape(shape[0])


def _constant_index(draft: Draft, node: Node) -> int | None:
    return next((index for index, name in enumerate(node.inputs) if name in draft.constants), None)


def _add(draft: Draft, node: Node) -> None:
    constant_index = _constant_index(draft, node)
    if constant_index is None:
        draft.emit(node, Add, (draft.value(node, 0), draft.value(node, 1)))
        return
    value = draft.value(node, 1 - constant_index)
    shift = _by_channel(node, draft.floats(node, constant_index), draft.shapes[value])
    _affine(draft, node, value, np.ones(1), shift)


def _subtract(draft: Draft, node: Node) -> None:
    constant_index = _constant_index(draft, node)
    if constant_index is None:
        raise node.unsupported("both operands depend on the image", "only Add may combine two such values")
    value = draft.value(node, 1 - constant_index)
    constant = _by_channel(node, draft.floats(node, constant_index), draft.shapes[value])
    value_first = constant_index == 1
    _affine(draft, node, value, np.full(1, 1.0 if value_first else -1.0), -constant if value_first else constant)


def _multiply(draft: Draft, node: Node) -> None:
    constant_index = _constant_index(draft, node)
    if constant_index is None:
        smooth.multiply_by_gate(draft, node)
        return
    value = draft.value(node, 1 - constant_index)
    scale = _by_channel(node, draft.floats(node, constant_index), draft.shapes[value])
    _affine(draft, node, value, scale, np.zeros(1))


def _divide(draft: Draft, node: Node) -> None:
    value = draft.value(node, 0)
    with np.errstate(divide="ignore"):
        scale = 1.0 / _by_channel(node, draft.floats(node, 1), draft.shapes[value])
    _affine(draft, node, value, scale, np.zeros(1))


def _matrix_product(draft: Draft, node: Node) -> None:
    weight = draft.floats(node, 1)
    if weight.ndim != 2:
        raise node.unsupported(f"its weight has {weight.ndim} axes", "only a matrix of two axes is supported")
    _fully_connected(draft, node, weight.T)


def _gemm(draft: Draft, node: Node) -> None:
    if node.integer("transA", 0):
        raise node.unsupported("transA is set", _SIMPLIFY)
    weight = draft.floats(node, 1) * node.number("alpha", 1.0)
    bias = None
    if draft.optional_constant(node, 2) is not None:
        bias = draft.floats(node, 2) * node.number("beta", 1.0)
    _fully_connected(draft, node, weight if node.integer("transB", 0) else weight.T, bias)


def _fully_connected(draft: Draft, node: Node, weight: Double, bias: Double | None = None) -> None:
    outputs, inputs = weight.shape
    tensors = {"weight": weight}
    if bias is not None:
        tensors["bias"] = np.broadcast_to(_by_channel(node, bias, (outputs,)), (outputs,))
    draft.emit(
        node,
        FullyConnected,
        (draft.value(node, 0),),
        tensors=tensors,
        in_features=inputs,
        out_features=outputs,
        bias=bias is not None,
    )


def _relu(draft: Draft, node: Node) -> None:
    draft.emit(node, Relu, (draft.value(node, 0),))


def _clip(draft: Draft, node: Node) -> None:
    low, high = draft.optional_constant(node, 1), draft.optional_constant(node, 2)
    if low is None or low.size != 1 or float(low.reshape(())) != 0.0:
        raise node.unsupported(
            "its lower bound is not 0", "only ReLU and ReLU6-like bounds (0 to a maximum) are supported"
        )
    if high is None:
        _relu(draft, node)
    else:
        draft.emit(node, Clip, (draft.value(node, 0),), high=float(high.reshape(-1)[0]))


def _max_pool(draft: Draft, node: Node) -> None:
    if node.pair("dilations", (1, 1)) != (1, 1):
        raise node.unsupported("it is dilated", _SIMPLIFY)
    size, kernel, stride = _image_size(draft, node), node.pair("kernel_shape"), node.pair("strides", (1, 1))
    padding = _window_padding(node, size, kernel, stride, (1, 1))
    if node.integer("ceil_mode", 0) and node.text("auto_pad", "NOTSET") == "NOTSET":
        padding = _rounded_up(size, kernel, stride, padding)
    draft.emit(node, MaxPool, (draft.value(node, 0),), kernel=kernel, stride=stride, padding=padding)


def _rounded_up(size: Pair, kernel: Pair, stride: Pair, padding: Padding) -> Padding:
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


def _average_pool(draft: Draft, node: Node) -> None:
    if node.integer("ceil_mode", 0) or node.pair("dilations", (1, 1)) != (1, 1):
        raise node.unsupported("ceil_mode or dilations are set", "use an average pool without them")
    kernel, stride = node.pair("kernel_shape"), node.pair("strides", (1, 1))
    padding = _window_padding(node, _image_size(draft, node), kernel, stride, (1, 1))
    draft.emit(
        node,
        AveragePool,
        (draft.value(node, 0),),
        kernel=kernel,
        stride=stride,
        padding=padding,
        count_include_pad=bool(node.integer("count_include_pad", 0)),
    )


def _global_average_pool(draft: Draft, node: Node) -> None:
    draft.emit(node, GlobalAveragePool, (draft.value(node, 0),))


def _reduce_mean(draft: Draft, node: Node) -> None:
    """The mean over height and width is what torch's dynamo exporter writes for AdaptiveAvgPool2d(1)."""
    axes = node.attributes.get("axes") if draft.opset < 18 else draft.optional_constant(node, 1)
    rank = len(draft.shape(node, 0)) + 1
    given = sorted(int(axis) % rank for axis in np.asarray(axes if axes is not None else ()).reshape(-1))
    if rank != 4 or given != [2, 3]:
        raise node.unsupported(f"it reduces axes {given}", "only the mean over height and width is supported")
    pooled = draft.emit(node, GlobalAveragePool, (draft.value(node, 0),))
    if not node.integer("keepdims", 1):
        draft.emit(node, Reshape, (pooled,), shape=draft.shapes[pooled][:1])


def _concat(draft: Draft, node: Node) -> None:
    inputs = tuple(draft.value(node, index) for index in range(len(node.inputs)))
    if node.integer("axis", 1) not in {1, -len(draft.shapes[inputs[0]])}:
        raise node.unsupported("its axis is not that of the channels", _SIMPLIFY)
    if len(inputs) == 1:
        draft.alias(node)
    else:
        draft.emit(node, Concat, inputs)


def _pad(draft: Draft, node: Node) -> None:
    if node.text("mode", "constant") != "constant":
        raise node.unsupported(f"its mode is {node.text('mode', '')}", "only padding by a constant is supported")
    _image_size(draft, node)
    pads = [int(value) for value in draft.constant(node, 1).reshape(-1)]
    axes_given = draft.optional_constant(node, 3)
    axes = [int(axis) % 4 for axis in (axes_given.reshape(-1) if axes_given is not None else range(4))]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise node.unsupported("its pads and axes disagree", _SIMPLIFY)
    before, after = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    if any(border.get(axis, 0) for border in (before, after) for axis in (0, 1)):
        raise node.unsupported("it pads batch or channels", "only height and width may be padded")
    value = draft.optional_constant(node, 2)
    draft.emit(
        node,
        Pad,
        (draft.value(node, 0),),
        padding=tuple(border.get(axis, 0) for border in (before, after) for axis in (2, 3)),
        value=0.0 if value is None or value.size == 0 else float(value.reshape(-1)[0]),
    )


def _flatten(draft: Draft, node: Node) -> None:
    shape = draft.shape(node, 0)
    if node.integer("axis", 1) not in {1, -len(shape)}:
        raise node.unsupported("its axis is not 1", "keep the batch apart")
    _reshape_to(draft, node, (1, math.prod(shape)))


def _reshape(draft: Draft, node: Node) -> None:
    source = (1, *draft.shape(node, 0))
    target = [int(size) for size in draft.constant(node, 1).reshape(-1)]
    if not node.integer("allowzero", 0):
        target = [source[i] if size == 0 and i < len(source) else size for i, size in enumerate(target)]
    known = math.prod(size for size in target if size != -1)
    if target.count(-1) > 1 or min(target, default=-1) < -1 or known == 0:
        raise node.unsupported("its target shape is not valid", "export the model again")
    _reshape_to(draft, node, tuple(math.prod(source) // known if size == -1 else size for size in target))


def _reshape_to(draft: Draft, node: Node, target: Shape) -> None:
    """Give the value this shape (with a batch of 1)."""
    if target[:1] != (1,) or len(target) not in {2, 4}:
        raise node.unsupported(
            f"it makes shape {target} of a batch of 1", "only (batch, features) and (batch, channels, height, width)"
        )
    if target[1:] == draft.shape(node, 0):
        draft.alias(node)
    else:
        draft.emit(node, Reshape, (draft.value(node, 0),), shape=target[1:])


def _dropout(draft: Draft, node: Node) -> None:
    training = draft.optional_constant(node, 2)
    if training is not None and bool(training.any()):
        raise node.unsupported("it is in training mode", "export the model in evaluation mode")
    draft.alias(node)


def _cast(draft: Draft, node: Node) -> None:
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    if node.integer("to", 0) not in floats:
        raise node.unsupported("it turns an activation into something else than a float", _SIMPLIFY)
    draft.alias(node)


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "Add": _add,
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalization,
        "Cast": _cast,
        "Clip": _clip,
        "Concat": _concat,
        "Conv": _convolution,
        "Div": _divide,
        "Dropout": _dropout,
        "Flatten": _flatten,
        "Gelu": smooth.gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "Identity": Draft.alias,
        "LogSoftmax": smooth.log_softmax,
        "MatMul": _matrix_product,
        "MaxPool": _max_pool,
        "Mul": _multiply,
        "Pad": _pad,
        "ReduceMean": _reduce_mean,
        "Relu": _relu,
        "Reshape": _reshape,
        "Sigmoid": smooth.sigmoid,
        "Softmax": smooth.softmax,
        "Sub": _subtract,
        "Tanh": smooth.tanh,
    }
)
