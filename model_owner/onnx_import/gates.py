"""How products of two values that depend on the image, and activations made of them or of ReLU, become operations.

    HardSigmoid   clip(a x + b, 0, 1)
    HardSwish     x * clip(x / 6 + 1/2, 0, 1)
    LeakyRelu     a x + (1 - a) relu(x)
    PRelu         the same, with an a for each channel
    x * y         Multiply: of one shape, or one of them repeated over channels or places (squeeze-and-excite)

Scales and shifts among them join a neighbouring layer, or become a 1 x 1 convolution (see `merging`).
"""

import numpy as np

from model_owner.onnx_import.arranging import by_channel
from model_owner.onnx_import.draft import Double, Draft, Node
from model_owner.onnx_import.smooth import multiply_smoothly
from secure_computation.network import Add, Clip, Multiply, Relu, Shape

_ONE, _NOTHING = np.ones(1), np.zeros(1)
_GATE_SLOPE, _GATE_SHIFT = np.full(1, 1 / 6), np.full(1, 0.5)


def multiply(draft: Draft, node: Node) -> None:
    """Two values that depend on the image, in either order; SiLU and GELU are recognised."""
    if multiply_smoothly(draft, node):
        return
    left, right = draft.value(node, 0), draft.value(node, 1)
    if not _repeats(draft.shapes[right], draft.shapes[left]):
        left, right = right, left
    if not _repeats(draft.shapes[right], draft.shapes[left]):
        raise node.unsupported(
            f"it multiplies values of shapes {draft.shapes[right]} and {draft.shapes[left]}",
            "both must have one shape, or one of them one element for each channel (channels, 1, 1), or for each place",
        )
    draft.emit(node, Multiply, (left, right))


def _repeats(small: Shape, large: Shape) -> bool:
    """Whether a value can be repeated along axes on which it has one element."""
    return len(small) == len(large) and all(one in {1, other} for one, other in zip(small, large, strict=True))


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
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    _hard_sigmoid(draft, node, np.full(1, alpha), np.full(1, beta))


def hard_swish(draft: Draft, node: Node) -> None:
    """The product of x and the clip of x / 6 + 1/2 to [0, 1]."""
    gate = _hard_sigmoid(draft, node, _GATE_SLOPE, _GATE_SHIFT)
    draft.emit(node, Multiply, (draft.value(node, 0), gate))


def _hard_sigmoid(draft: Draft, node: Node, slope: Double, shift: Double) -> str:
    inside = draft.affine(node, draft.value(node, 0), slope, shift)
    return draft.emit(node, Clip, (inside,), high=1.0)


def leaky_relu(draft: Draft, node: Node) -> None:
    """A slope for all."""
    _leaky(draft, node, np.full(1, node.number("alpha", 0.01)))


def prelu(draft: Draft, node: Node) -> None:
    """A slope for all, or one for each channel."""
    _leaky(draft, node, by_channel(draft, node, 0, draft.floats(node, 1)))


def _leaky(draft: Draft, node: Node, slope: Double) -> None:
    """The slope times x, and the rest of 1 times relu(x): right for any slope."""
    value = draft.value(node, 0)
    positive = draft.affine(node, draft.append(node, Relu, (value,)), _ONE - slope, _NOTHING)
    draft.emit(node, Add, (draft.affine(node, value, slope, _NOTHING), positive))
