"""How ONNX operators that CrypTen's tensors compute become operations of the public network: smooth functions, softmax.

One that ends the model is left out (see `ending`).
"""

import math

import numpy as np

from model_owner.onnx_import.arranging import find_onnx_shape, settle
from model_owner.onnx_import.builder import ChannelAffine, ErrorFunction, NetworkBuilder, Node
from secure_computation.network import Activation, Softmax

_SOFTMAX_OF_ONE_AXIS = 13
"""The opset from which a Softmax runs over its axis alone; before, over that and all that follow."""
_ROUNDING = 1e-5
"""Relative: constants of a GELU were rounded to float32, some of them to what a person typed."""


def multiply_smoothly(builder: NetworkBuilder, node: Node) -> bool:
    """Whether the product is a smooth function: x * sigmoid(x) is SiLU, x * (1 + erf(x / sqrt(2))) twice GELU."""
    if _try_gelu(builder, node):
        return True
    return any(_try_silu(builder, node, builder.value(node, index), builder.value(node, 1 - index)) for index in (0, 1))


def _try_silu(builder: NetworkBuilder, node: Node, value: str, gate: str) -> bool:
    """Swish with any slope: for u = a x, the product x * sigmoid(u) is silu(u) / a."""
    made = builder.maker(gate)
    if not isinstance(made, Activation) or made.function != "sigmoid":
        return False
    base, scale, shift = _follow_affines(builder, value)
    inside, inner_scale, inner_shift = _follow_affines(builder, made.inputs[0])
    is_multiple = math.isclose(scale * inner_shift, shift * inner_scale, rel_tol=_ROUNDING)
    if inside != base or not is_multiple or scale == 0 or inner_scale == 0:
        return False
    silu = builder.append(node, Activation, (made.inputs[0],), function="silu")
    builder.affine(node, silu, scale=_round(scale / inner_scale))
    return True


def _try_gelu(builder: NetworkBuilder, node: Node) -> bool:
    """Before opset 20 exporters write a GELU out, as factors a x and b (1 + erf(x / sqrt(2))) in any order."""
    for index in (0, 1):
        outer, scale, shift = _follow_affines(builder, builder.value(node, index))
        made = builder.maker(outer)
        if not isinstance(made, ErrorFunction) or not math.isclose(scale, shift, rel_tol=_ROUNDING):
            continue
        inside, inner_scale, inner_shift = _follow_affines(builder, made.inputs[0])
        factor, factor_scale, factor_shift = _follow_affines(builder, builder.value(node, 1 - index))
        is_half = math.isclose(inner_scale, math.sqrt(0.5), rel_tol=_ROUNDING)
        if inside == factor and is_half and inner_shift == factor_shift == 0.0:
            gelu = builder.append(node, Activation, (inside,), function="gelu")
            builder.affine(node, gelu, scale=_round(2 * scale * factor_scale))
            return True
    return False


def _follow_affines(builder: NetworkBuilder, value: str) -> tuple[str, float, float]:
    """The value that this one is one scale and one shift of, with both."""
    scale, shift = 1.0, 0.0
    while isinstance(operation := builder.maker(value), ChannelAffine):
        tensors = builder.tensors[operation.name]
        if np.ptp(tensors["scale"]) or np.ptp(tensors["shift"]):
            break
        shift += scale * float(tensors["shift"][0])
        scale *= float(tensors["scale"][0])
        value = operation.inputs[0]
    return value, scale, shift


def _round(scale: float) -> float:
    """1 if only rounding kept it from that."""
    return 1.0 if math.isclose(scale, 1.0, rel_tol=_ROUNDING) else scale


def error_function(builder: NetworkBuilder, node: Node) -> None:
    """Erf, until the product is met that it is a factor of."""
    builder.emit(node, ErrorFunction, (builder.value(node, 0),), source=node.shown_name)


def sigmoid(builder: NetworkBuilder, node: Node) -> None:
    """Sigmoid; left out if it ends the model."""
    if node.outputs[0] == builder.final_activation:
        _leave_out(builder, node)
        return
    builder.emit(node, Activation, (builder.value(node, 0),), function="sigmoid")


def softmax(builder: NetworkBuilder, node: Node) -> None:
    """Over the channels of an image or the features of a vector; left out if it ends the model."""
    _check_axis(builder, node)
    if node.outputs[0] == builder.final_activation:
        _leave_out(builder, node)
    else:
        settle(builder, node, node.inputs[0])
        builder.emit(node, Softmax, (builder.value(node, 0),))


def log_softmax(builder: NetworkBuilder, node: Node) -> None:
    """Left out if it ends the model; refused elsewhere."""
    _check_axis(builder, node)
    if node.outputs[0] != builder.final_activation:
        raise node.unsupported(
            "a logarithm is not supported under encryption", "use Softmax here, or end the model in LogSoftmax"
        )
    _leave_out(builder, node)


def _check_axis(builder: NetworkBuilder, node: Node) -> None:
    shape = find_onnx_shape(builder, node, 0)
    runs_on = builder.opset < _SOFTMAX_OF_ONE_AXIS
    axis = node.integer("axis", 1 if runs_on else -1) % len(shape)
    is_vector = math.prod(shape) == shape[axis]
    if not is_vector and (axis != 1 or runs_on):
        beyond = " and all that follow, as before opset 13" if runs_on else ""
        raise node.unsupported(
            f"it runs over axis {node.integer('axis', 1 if runs_on else -1)}{beyond} of a value of shape {shape}",
            "only a softmax over the channels of an image or over the features of a vector is supported",
        )


def _leave_out(builder: NetworkBuilder, node: Node) -> None:
    shape = find_onnx_shape(builder, node, 0)
    if math.prod(shape) != max(shape):
        raise node.unsupported(
            f"it ends the model with a value of shape {shape[1:]}", "the output must be one number for each class"
        )
    builder.alias(node)
