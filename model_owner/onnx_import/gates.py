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

from model_owner.onnx_import.arranging import by_channel
from model_owner.onnx_import.draft import Double, Draft, Node
from model_owner.onnx_import.smooth import multiply_smoothly
from secure_computation.network import Add, Clip, Multiply, Relu, repeats_to


def multiply(draft: Draft, node: Node) -> None:
    """Two values that depend on the image, in either order; SiLU and GELU are recognised."""
    if multiply_smoothly(draft, node):
        return
    left, right = draft.value(node, 0), draft.value(node, 1)
    if not repeats_to(draft.shapes[right], draft.shapes[left]):
        left, right = right, left
    if not repeats_to(draft.shapes[right], draft.shapes[left]):
        raise node.unsupported(
            f"it multiplies values of shapes {draft.shapes[right]} and {draft.shapes[left]}",
            "both must have one shape, or one of them one element for each channel (channels, 1, 1), or for each place",
        )
    draft.emit(node, Multiply, (left, right))


def power(draft: Draft, node: Node) -> None:
    """A square, or the value itself."""
    exponent = draft.constant(node, 1)
    value = draft.value(node, 0)
    if exponent.size == 1 and float(exponent.reshape(())) == 2.0:
        draft.emit(node, Multiply, (value, value))
    elif exponent.size == 1 and float(exponent.reshape(())) == 1.0:
        draft.alias(node)
    else:
        raise node.unsupported("its exponent is not 2", "only squares are computed under encryption")


def hard_sigmoid(draft: Draft, node: Node) -> None:
    """The clip of alpha x + beta to [0, 1]."""
    _hard_sigmoid(draft, node, node.number("alpha", 0.2), node.number("beta", 0.5))


def hard_swish(draft: Draft, node: Node) -> None:
    """The product of x and the clip of x / 6 + 1/2 to [0, 1]."""
    gate = _hard_sigmoid(draft, node, 1 / 6, 0.5)
    draft.emit(node, Multiply, (draft.value(node, 0), gate))


def _hard_sigmoid(draft: Draft, node: Node, slope: float, shift: float) -> str:
    inside = draft.affine(node, draft.value(node, 0), scale=slope, shift=shift)
    return draft.emit(node, Clip, (inside,), high=1.0)


def leaky_relu(draft: Draft, node: Node) -> None:
    """A slope for all."""
    _leaky(draft, node, node.number("alpha", 0.01))


def prelu(draft: Draft, node: Node) -> None:
    """A slope for all, or one for each channel."""
    _leaky(draft, node, by_channel(draft, node, 0, draft.floats(node, 1)))


def _leaky(draft: Draft, node: Node, slope: Double | float) -> None:
    """The slope times x, and the rest of 1 times relu(x): right for any slope."""
    value = draft.value(node, 0)
    positive = draft.affine(node, draft.append(node, Relu, (value,)), scale=1.0 - slope)
    draft.emit(node, Add, (draft.affine(node, value, scale=slope), positive))


def absolute(draft: Draft, node: Node) -> None:
    """The value, or what is opposite to it."""
    value = draft.value(node, 0)
    positive = draft.append(node, Relu, (value,))
    negative = draft.append(node, Relu, (draft.affine(node, value, scale=-1.0),))
    draft.emit(node, Add, (positive, negative))


def maximum(draft: Draft, node: Node) -> None:
    """The largest of any number of values and constants for each channel."""
    _outermost(draft, node, 1.0)


def minimum(draft: Draft, node: Node) -> None:
    """The smallest."""
    _outermost(draft, node, -1.0)


def _outermost(draft: Draft, node: Node, sign: float) -> None:
    """Of x and y, x + sign * relu(sign * (y - x))."""
    (first, *others), constants = draft.operands(node)
    best = draft.value(node, first)
    draft.alias(node, first)
    for index in others:
        other = draft.value(node, index)
        difference = draft.append(node, Add, (other, draft.affine(node, best, scale=-1.0)))
        beyond = draft.append(node, Relu, (draft.affine(node, difference, scale=sign),))
        best = draft.emit(node, Add, (best, draft.affine(node, beyond, scale=sign)))
    for index in constants:
        bound = by_channel(draft, node, first, draft.floats(node, index))
        best = _bounded(draft, node, best, bound, sign)


def _bounded(draft: Draft, node: Node, value: str, bound: Double, sign: float) -> str:
    """The value, or the bound where it lies beyond that; a bound above a ReLU makes both a Clip."""
    made = draft.maker(value)
    high = float(bound[0]) if sign < 0 and not np.ptp(bound) else 0.0
    if isinstance(made, Relu) and high > 0:
        return draft.emit(node, Clip, (made.inputs[0],), high=high)
    if sign > 0 and not bound.any():
        return draft.emit(node, Relu, (value,))
    beyond = draft.append(node, Relu, (draft.affine(node, value, scale=sign, shift=-sign * bound),))
    return draft.affine(node, beyond, scale=sign, shift=bound)
