"""How ONNX operators that CrypTen's tensors compute become operations of the public network: smooth functions, softmax.

A Softmax or LogSoftmax that ends the model is left out: the card's probabilities are the softmax of its logits, worked
out by the data owner, and neither changes which class is the largest.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING

from model_owner.onnx_import.draft import Draft, Node
from secure_computation.network import Activation, Softmax

if TYPE_CHECKING:
    import onnx

_SOFTMAX_OF_ONE_AXIS = 13
"""The opset from which a Softmax runs over its axis alone; before, over that and all that follow."""
_KEEPING_VALUES = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Cast", "Dropout"})


def final_softmax(graph: "onnx.GraphProto") -> "onnx.NodeProto | None":
    """The Softmax or LogSoftmax whose result, but for its shape, is the model's output and nothing else; or None."""
    makers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(out.name for out in graph.output)
    name = graph.output[0].name if graph.output else ""
    while name in makers and readers[name] == 1:
        node = makers[name]
        if node.op_type in {"Softmax", "LogSoftmax"}:
            return node
        if node.op_type not in _KEEPING_VALUES:
            return None
        name = node.input[0]
    return None


def multiply_by_gate(draft: Draft, node: Node) -> None:
    """X * sigmoid(x) is SiLU; no other product of two values that depend on the image is supported."""
    sigmoids = {
        made.output: made.inputs[0]
        for made in draft.operations
        if isinstance(made, Activation) and made.function == "sigmoid"
    }
    for value, gate in ((draft.value(node, 0), draft.value(node, 1)), (draft.value(node, 1), draft.value(node, 0))):
        if sigmoids.get(gate) == value:
            draft.emit(node, Activation, (value,), function="silu")
            return
    raise node.unsupported(
        "both operands depend on the image", "only Add may combine two such values, or x * Sigmoid(x)"
    )


def sigmoid(draft: Draft, node: Node) -> None:
    """Sigmoid."""
    draft.emit(node, Activation, (draft.value(node, 0),), function="sigmoid")


def tanh(draft: Draft, node: Node) -> None:
    """Hyperbolic tangent."""
    draft.emit(node, Activation, (draft.value(node, 0),), function="tanh")


def gelu(draft: Draft, node: Node) -> None:
    """Both forms as the tanh form: they differ by less than 0.0005, which is less than the encrypted one's error."""
    draft.emit(node, Activation, (draft.value(node, 0),), function="gelu")


def softmax(draft: Draft, node: Node) -> None:
    """Over the channels of an image or the features of a vector; left out where it ends the model."""
    _check_axis(draft, node)
    if node.outputs[0] == draft.final_softmax:
        _leave_out(draft, node)
    else:
        draft.emit(node, Softmax, (draft.value(node, 0),))


def log_softmax(draft: Draft, node: Node) -> None:
    """Left out where it ends the model; refused elsewhere."""
    _check_axis(draft, node)
    if node.outputs[0] != draft.final_softmax:
        raise node.unsupported(
            "a logarithm is not supported under encryption", "use Softmax here, or end the model in LogSoftmax"
        )
    _leave_out(draft, node)


def _check_axis(draft: Draft, node: Node) -> None:
    shape = (1, *draft.shape(node, 0))
    runs_on = draft.opset < _SOFTMAX_OF_ONE_AXIS
    axis = node.integer("axis", 1 if runs_on else -1)
    if axis not in {1, 1 - len(shape)} or (runs_on and math.prod(shape) != shape[1]):
        beyond = " and all that follow, as before opset 13" if runs_on else ""
        raise node.unsupported(
            f"it runs over axis {axis}{beyond} of a value of shape {shape}",
            "only a softmax over the channels of an image or over the features of a vector is supported",
        )


def _leave_out(draft: Draft, node: Node) -> None:
    shape = draft.shape(node, 0)
    if math.prod(shape) != shape[0]:
        raise node.unsupported(
            f"it ends the model with a value of shape {shape}", "the output must be one number for each class"
        )
    draft.alias(node)
