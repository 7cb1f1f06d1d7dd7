"""How products of two values that depend on the image, and activations made of them or of ReLU, become operations.

    HardSigmoid   clip(a x + b, 0, 1)
    HardSwish     x * clip(x / 6 + 1/2, 0, 1)
    LeakyRelu     a x + (1 - a) relu(x)
    PRelu         the same, with an a for each channel
    Abs           relu(x) + relu(-x)
    Max, Min      x + relu(y - x), x - relu(x - y); Min(Max(x, 0), high) is a Clip
    x * y         Multiply: of one shape, or one of them repeated over channels or places (squeeze-and-excite)

Scales and shifts among them join a neighbouring layer, or become a 1 x 1 convolution (see `merging`).
"""

import numpy as np

from model_owner.onnx_import.arranging import align_by_channel
from model_owner.onnx_import.builder import Double, NetworkBuilder, Node
from model_owner.onnx_import.smooth import multiply_smoothly
from secure_computation.network import Add, Clip, Multiply, Relu, repeats_to


def multiply(builder: NetworkBuilder, node: Node) -> None:
    """Two values that depend on the image, in either order; SiLU and GELU are recognised."""
    if multiply_smoothly(builder, node):
        return
    left, right = builder.value(node, 0), builder.value(node, 1)
    if not repeats_to(builder.shapes[right], builder.shapes[left]):
        left, right = right, left
    if not repeats_to(builder.shapes[right], builder.shapes[left]):
        raise node.unsupported(
            f"it multiplies values of shapes {builder.shapes[right]} and {builder.shapes[left]}",
            "both must have one shape, or one of them one element for each channel (channels, 1, 1), or for each place",
        )
    builder.emit(node, Multiply, (left, right))


def power(builder: NetworkBuilder, node: Node) -> None:
    """A square, or the value itself."""
    exponent = builder.constant(node, 1)
    value = builder.value(node, 0)
    if exponent.size == 1 and float(exponent.reshape(())) == 2.0:
        builder.emit(node, Multiply, (value, value))
    elif exponent.size == 1 and float(exponent.reshape(())) == 1.0:
        builder.alias(node)
    else:
        raise node.unsupported("its exponent is not 2", "only squares are computed under encryption")


def hard_sigmoid(builder: NetworkBuilder, node: Node) -> None:
    """The clip of alpha x + beta to [0, 1]."""
    _hard_sigmoid(builder, node, node.number("alpha", 0.2), node.number("beta", 0.5))


def hard_swish(builder: NetworkBuilder, node: Node) -> None:
    """The product of x and the clip of x / 6 + 1/2 to [0, 1]."""
    gate = _hard_sigmoid(builder, node, 1 / 6, 0.5)
    builder.emit(node, Multiply, (builder.value(node, 0), gate))


def _hard_sigmoid(builder: NetworkBuilder, node: Node, slope: float, shift: float) -> str:
    inside = builder.affine(node, builder.value(node, 0), scale=slope, shift=shift)
    return builder.emit(node, Clip, (inside,), high=1.0)


def leaky_relu(builder: NetworkBuilder, node: Node) -> None:
    """A slope for all."""
    _leaky(builder, node, node.number("alpha", 0.01))


def prelu(builder: NetworkBuilder, node: Node) -> None:
    """A slope for all, or one for each channel."""
    _leaky(builder, node, align_by_channel(builder, node, 0, builder.floats(node, 1)))


def _leaky(builder: NetworkBuilder, node: Node, slope: Double | float) -> None:
    """The slope times x, and the rest of 1 times relu(x): right for any slope."""
    value = builder.value(node, 0)
    positive = builder.affine(node, builder.append(node, Relu, (value,)), scale=1.0 - slope)
    builder.emit(node, Add, (builder.affine(node, value, scale=slope), positive))


def absolute(builder: NetworkBuilder, node: Node) -> None:
    """The value, or what is opposite to it."""
    value = builder.value(node, 0)
    positive = builder.append(node, Relu, (value,))
    negative = builder.append(node, Relu, (builder.affine(node, value, scale=-1.0),))
    builder.emit(node, Add, (positive, negative))


def take_outermost(builder: NetworkBuilder, node: Node, *, sign: float) -> None:
    """The largest of any number of values and constants for each channel, the smallest for a `sign` of -1.

    Of x and y, x + sign * relu(sign * (y - x)).
    """
    (first, *others), constants = builder.operands(node)
    best = builder.value(node, first)
    builder.alias(node, first)
    for index in others:
        other = builder.value(node, index)
        difference = builder.append(node, Add, (other, builder.affine(node, best, scale=-1.0)))
        beyond = builder.append(node, Relu, (builder.affine(node, difference, scale=sign),))
        best = builder.emit(node, Add, (best, builder.affine(node, beyond, scale=sign)))
    for index in constants:
        bound = align_by_channel(builder, node, first, builder.floats(node, index))
        best = _bounded(builder, node, best, bound, sign)


def _bounded(builder: NetworkBuilder, node: Node, value: str, bound: Double, sign: float) -> str:
    """The value, or the bound if it lies beyond that; a bound above a ReLU makes both a Clip."""
    made = builder.maker(value)
    high = float(bound[0]) if sign < 0 and not np.ptp(bound) else 0.0
    if isinstance(made, Relu) and high > 0:
        return builder.emit(node, Clip, (made.inputs[0],), high=high)
    if sign > 0 and not bound.any():
        return builder.emit(node, Relu, (value,))
    beyond = builder.append(node, Relu, (builder.affine(node, value, scale=sign, shift=-sign * bound),))
    return builder.affine(node, beyond, scale=sign, shift=bound)
