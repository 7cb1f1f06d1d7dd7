"""How each ONNX operator becomes operations of the public network: one line of the table `OPERATORS` for each.

The functions of those with weights and of the simple ones are here, the others in `pooling`, `gates` and `smooth`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from model_owner.onnx_import import gates, pooling, smooth
from model_owner.onnx_import.arranging import (
    align_by_channel,
    arrange,
    find_onnx_shape,
    find_positions,
    make_plain,
    order_columns,
    settle,
)
from model_owner.onnx_import.builder import Double, NetworkBuilder, Node
from model_owner.onnx_import.pooling import find_image_size, find_padding
from secure_computation.network import (
    Activation,
    Add,
    BaseOperation,
    Clip,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    Pair,
    Relu,
)


class Inputs(Enum):
    """The form in which the function of an operator takes the inputs that depend on the image (see `arranging`)."""

    PLAIN = auto()
    """Settled before: (1, channels, height, width) or (1, features)."""
    ELEMENTWISE = auto()
    """As they are arranged, if all alike: the function works element by element, and the output is arranged so too."""
    AS_ARRANGED = auto()
    """As they are: the function itself asks how."""


class Operator(NamedTuple):
    """What becomes of an ONNX operator: one line of `OPERATORS`."""

    lower: Callable[[NetworkBuilder, Node], object]
    """Adds the operations that compute the node's outputs."""
    inputs: Inputs


_SIMPLIFY = "change the model and export it again"
_LARGEST_BOUND = 3e38
"""Exporters write float32's largest number if a bound was left out."""


def _convolution(builder: NetworkBuilder, node: Node) -> None:
    weight = builder.floats(node, 1)
    if weight.ndim == 3:
        _convolve_one_axis(builder, node, weight)
        return
    if weight.ndim != 4:
        raise node.unsupported(f"its weight has {weight.ndim} axes", "convolutions of one or two axes are supported")
    settle(builder, node, node.inputs[0])
    _convolve(builder, node, builder.value(node, 0), find_image_size(builder, node), weight)


def _convolve_one_axis(builder: NetworkBuilder, node: Node, weight: Double) -> None:
    """(batch, channels, length), as an image of height 1: efficient channel attention runs so over the channels."""
    positions = find_positions(builder, node, 0)
    if positions.ndim != 3 or positions.shape[0] != 1:
        raise node.unsupported(f"its input has shape {positions.shape}, its weight three axes", _SIMPLIFY)
    value = make_plain(builder, node, builder.value(node, 0), positions[:, :, np.newaxis, :])
    wider: dict[str, Any] = dict(node.attributes)
    for name in ("strides", "dilations", "kernel_shape"):
        if name in wider:
            wider[name] = [1, *wider[name]]
    if "pads" in wider:
        wider["pads"] = [side for pad in wider["pads"] for side in (0, pad)]
    made = _convolve(
        builder, replace(node, attributes=wider), value, (1, positions.shape[2]), weight[:, :, np.newaxis, :]
    )
    channels, _, length = builder.shapes[made]
    arrange(builder, node, node.outputs[0], made, np.arange(channels * length).reshape(1, channels, length))


def _convolve(builder: NetworkBuilder, node: Node, value: str, size: Pair, weight: Double) -> str:
    kernel = (weight.shape[2], weight.shape[3])
    stride, dilation = node.pair("strides", (1, 1)), node.pair("dilations", (1, 1))
    has_bias = builder.optional_constant(node, 2) is not None
    return builder.emit(
        node,
        Convolution2d,
        (value,),
        tensors={"weight": weight} | ({"bias": builder.floats(node, 2)} if has_bias else {}),
        weight_shape=weight.shape,
        bias=has_bias,
        stride=stride,
        padding=find_padding(node, size, kernel, stride, dilation),
        dilation=dilation,
        groups=node.integer("group", 1),
    )


def _batch_normalization(builder: NetworkBuilder, node: Node) -> None:
    if node.integer("training_mode", 0):
        raise node.unsupported("it is in training mode", "export the model in evaluation mode")
    gain, offset, mean, variance = (builder.floats(node, index) for index in range(1, 5))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = gain / np.sqrt(variance + node.number("epsilon", 1e-5))
        shift = offset - mean * scale
    builder.affine(node, builder.value(node, 0), scale=scale, shift=shift)


def _find_constant(builder: NetworkBuilder, node: Node) -> int | None:
    return next((index for index, name in enumerate(node.inputs) if name in builder.constants), None)


def _align_constant(builder: NetworkBuilder, node: Node, index: int) -> tuple[str, Double]:
    """The value that is computed from the image, of two inputs, and the other, a constant, by its channels."""
    return builder.value(node, 1 - index), align_by_channel(builder, node, 1 - index, builder.floats(node, index))


def _add(builder: NetworkBuilder, node: Node) -> None:
    index = _find_constant(builder, node)
    if index is None:
        builder.emit(node, Add, (builder.value(node, 0), builder.value(node, 1)))
        return
    value, shift = _align_constant(builder, node, index)
    builder.affine(node, value, shift=shift)


def _subtract(builder: NetworkBuilder, node: Node) -> None:
    index = _find_constant(builder, node)
    if index is None:
        minuend, subtrahend = builder.value(node, 0), builder.value(node, 1)
        builder.emit(node, Add, (minuend, builder.affine(node, subtrahend, scale=-1.0)))
        return
    value, constant = _align_constant(builder, node, index)
    scale, shift = (1.0, -constant) if index == 1 else (-1.0, constant)
    builder.affine(node, value, scale=scale, shift=shift)


def _negative(builder: NetworkBuilder, node: Node) -> None:
    builder.affine(node, builder.value(node, 0), scale=-1.0)


def _sum(builder: NetworkBuilder, node: Node) -> None:
    """Of any number of values and constants for each channel; their mean, for Mean."""
    (first, *others), constants = builder.operands(node)
    total = builder.value(node, first)
    for index in others:
        total = builder.append(node, Add, (total, builder.value(node, index)))
    shifts = [align_by_channel(builder, node, first, builder.floats(node, index)) for index in constants]
    scale = 1.0 / len(node.inputs) if node.operator == "Mean" else 1.0
    builder.affine(node, total, scale=scale, shift=scale * sum(shifts, np.zeros(1)))


def _multiply(builder: NetworkBuilder, node: Node) -> None:
    index = _find_constant(builder, node)
    if index is None:
        gates.multiply(builder, node)
        return
    value, scale = _align_constant(builder, node, index)
    builder.affine(node, value, scale=scale)


def _divide(builder: NetworkBuilder, node: Node) -> None:
    if _find_constant(builder, node) != 1:
        raise node.unsupported(
            "it divides by a value that depends on the image, which is not computed under encryption",
            "divide by constants only; pixels are brought to the card's mean and standard_deviation before the model",
        )
    with np.errstate(divide="ignore"):
        scale = 1.0 / align_by_channel(builder, node, 0, builder.floats(node, 1))
    builder.affine(node, builder.value(node, 0), scale=scale)


def _matrix_product(builder: NetworkBuilder, node: Node) -> None:
    weight = builder.floats(node, 1)
    if weight.ndim != 2:
        raise node.unsupported(f"its weight has {weight.ndim} axes", "only a matrix of two axes is supported")
    _fully_connected(builder, node, weight.T)


def _gemm(builder: NetworkBuilder, node: Node) -> None:
    if node.integer("transA", 0):
        raise node.unsupported("transA is set", _SIMPLIFY)
    weight = builder.floats(node, 1) * node.number("alpha", 1.0)
    bias = None
    if builder.optional_constant(node, 2) is not None:
        bias = builder.floats(node, 2) * node.number("beta", 1.0)
    _fully_connected(builder, node, weight if node.integer("transB", 0) else weight.T, bias)


def _fully_connected(builder: NetworkBuilder, node: Node, weight: Double, bias: Double | None = None) -> None:
    seen = find_onnx_shape(builder, node, 0)
    value, weight = order_columns(builder, node, weight)
    outputs, inputs = weight.shape
    tensors = {"weight": weight}
    if bias is not None:
        if bias.size not in {1, outputs} or bias.shape[-1:] not in {(), (1,), (outputs,)}:
            raise node.unsupported(f"its bias has shape {bias.shape}", f"give it {outputs} elements")
        tensors["bias"] = np.broadcast_to(bias.reshape(-1), (outputs,))
    sizes = {"in_features": inputs, "out_features": outputs}
    made = builder.emit(node, FullyConnected, (value,), tensors=tensors, bias=bias is not None, **sizes)
    arrange(builder, node, node.outputs[0], made, np.arange(outputs).reshape(*seen[:-1], outputs))


def _emit_one(builder: NetworkBuilder, node: Node, *, kind: type[BaseOperation], **attributes: Any) -> None:
    """One operation of input 0 alone."""
    builder.emit(node, kind, (builder.value(node, 0),), **attributes)


def _clip(builder: NetworkBuilder, node: Node) -> None:
    """Any bounds: moved so that the lower one is 0, or turned round if there is only an upper one."""
    low, high = _read_bound(builder, node, 1), _read_bound(builder, node, 2)
    value = builder.value(node, 0)
    if low is None and high is None:
        builder.alias(node)
    elif low is None and high is not None:
        below = builder.append(node, Relu, (builder.affine(node, value, scale=-1.0, shift=high),))
        builder.affine(node, below, scale=-1.0, shift=high)
    elif low is not None:
        moved = builder.affine(node, value, shift=-low) if low else value
        bound = {} if high is None else {"high": high - low}
        cut = builder.emit(node, Clip if bound else Relu, (moved,), **bound)
        if low:
            builder.affine(node, cut, shift=low)


def _read_bound(builder: NetworkBuilder, node: Node, index: int) -> float | None:
    """A bound of Clip; None if there is none, or none that a float could pass."""
    given = builder.optional_constant(node, index)
    if given is None or given.size == 0:
        return None
    if given.size != 1 or np.isnan(given).any():
        raise node.unsupported("a bound is not one number", "give one number")
    bound = float(given.reshape(()))
    return bound if abs(bound) < _LARGEST_BOUND else None


def _concat(builder: NetworkBuilder, node: Node) -> None:
    inputs = tuple(builder.value(node, index) for index in range(len(node.inputs)))
    if node.integer("axis", 1) not in {1, -len(builder.shapes[inputs[0]])}:
        raise node.unsupported("its axis is not that of the channels", _SIMPLIFY)
    builder.emit(node, Concat, inputs)


def _dropout(builder: NetworkBuilder, node: Node) -> None:
    training = builder.optional_constant(node, 2)
    if training is not None and bool(training.any()):
        raise node.unsupported("it is in training mode", "export the model in evaluation mode")
    builder.alias(node)


def _cast(builder: NetworkBuilder, node: Node) -> None:
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    if node.integer("to", 0) not in floats:
        raise node.unsupported("it turns an activation into something else than a float", _SIMPLIFY)
    builder.alias(node)


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "Abs": Operator(gates.absolute, Inputs.ELEMENTWISE),
        "Add": Operator(_add, Inputs.ELEMENTWISE),
        "AveragePool": Operator(pooling.average_pool, Inputs.PLAIN),
        "BatchNormalization": Operator(_batch_normalization, Inputs.PLAIN),
        "Cast": Operator(_cast, Inputs.ELEMENTWISE),
        "Clip": Operator(_clip, Inputs.ELEMENTWISE),
        "Concat": Operator(_concat, Inputs.PLAIN),
        "Conv": Operator(_convolution, Inputs.AS_ARRANGED),
        "Div": Operator(_divide, Inputs.ELEMENTWISE),
        "Dropout": Operator(_dropout, Inputs.ELEMENTWISE),
        "Erf": Operator(smooth.error_function, Inputs.ELEMENTWISE),
        # Both forms as the tanh form: they differ by less than 0.0005, which is less than the encrypted one's error.
        "Gelu": Operator(partial(_emit_one, kind=Activation, function="gelu"), Inputs.ELEMENTWISE),
        "Gemm": Operator(_gemm, Inputs.AS_ARRANGED),
        "GlobalAveragePool": Operator(partial(_emit_one, kind=GlobalAveragePool), Inputs.PLAIN),
        "GlobalMaxPool": Operator(pooling.global_max_pool, Inputs.PLAIN),
        "HardSigmoid": Operator(gates.hard_sigmoid, Inputs.ELEMENTWISE),
        "HardSwish": Operator(gates.hard_swish, Inputs.ELEMENTWISE),
        "Identity": Operator(NetworkBuilder.alias, Inputs.ELEMENTWISE),
        "LeakyRelu": Operator(gates.leaky_relu, Inputs.ELEMENTWISE),
        "LogSoftmax": Operator(smooth.log_softmax, Inputs.AS_ARRANGED),
        "MatMul": Operator(_matrix_product, Inputs.AS_ARRANGED),
        "Max": Operator(partial(gates.take_outermost, sign=1.0), Inputs.ELEMENTWISE),
        "MaxPool": Operator(pooling.max_pool, Inputs.PLAIN),
        "Mean": Operator(_sum, Inputs.ELEMENTWISE),
        "Min": Operator(partial(gates.take_outermost, sign=-1.0), Inputs.ELEMENTWISE),
        "Mul": Operator(_multiply, Inputs.ELEMENTWISE),
        "Neg": Operator(_negative, Inputs.ELEMENTWISE),
        "PRelu": Operator(gates.prelu, Inputs.ELEMENTWISE),
        "Pad": Operator(pooling.pad, Inputs.PLAIN),
        "Pow": Operator(gates.power, Inputs.ELEMENTWISE),
        "ReduceMax": Operator(partial(pooling.reduce, since=18, largest=True), Inputs.AS_ARRANGED),
        "ReduceMean": Operator(partial(pooling.reduce, since=18), Inputs.AS_ARRANGED),
        "ReduceSum": Operator(pooling.reduce_sum, Inputs.AS_ARRANGED),
        "Relu": Operator(partial(_emit_one, kind=Relu), Inputs.ELEMENTWISE),
        "Sigmoid": Operator(smooth.sigmoid, Inputs.ELEMENTWISE),
        "Softmax": Operator(smooth.softmax, Inputs.AS_ARRANGED),
        "Sub": Operator(_subtract, Inputs.ELEMENTWISE),
        "Sum": Operator(_sum, Inputs.ELEMENTWISE),
        "Tanh": Operator(partial(_emit_one, kind=Activation, function="tanh"), Inputs.ELEMENTWISE),
    }
)
"""Every operator of ONNX that is lowered. Those that `folding` lists are computed, or only move elements, instead."""
