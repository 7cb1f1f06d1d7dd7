"""What is constant is computed at import, by ONNX's own reference implementation."""

import math

import numpy as np

from model_owner.onnx_import.draft import Array, Node
from secure_computation.network import MAX_WEIGHT_ELEMENTS

_ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Sqrt", "Neg", "Reciprocal", "Max", "Min", "Mod", "Pow", "Abs", "Floor", "Ceil"),
        *("Equal", "Less", "Greater", "Not", "And", "Or", "Where"),
    }
)
_REARRANGING = frozenset(
    {
        *("Cast", "Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Gather", "Slice"),
        *("Split", "Expand", "Tile"),
    }
)
_MAKING = frozenset({"ConstantOfShape", "Range"})
FOLDABLE = _ELEMENTWISE | _REARRANGING | _MAKING | {"ReduceMean", "ReduceProd", "ReduceSum", "Shape", "Size"}
"""Operators that are computed at import where all their inputs are constants."""


def run_reference(node: Node, inputs: list[Array], opset: int, limit: int = MAX_WEIGHT_ELEMENTS) -> list[Array]:
    """Outputs of a node in FOLDABLE for these inputs, by onnx's own reference implementation.

    Raises ModelFileError where an output would have more than `limit` elements, before any is made.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    _check_size(node, inputs, limit)
    proto = onnx.helper.make_node(node.operator, node.inputs, node.outputs, **node.attributes)
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto, opsets={"": opset}).run(None, given)
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        raise node.unsupported("its shapes or indices do not fit", "export the model again") from error
    return [np.asarray(result) for result in results]


def _check_size(node: Node, inputs: list[Array], limit: int) -> None:
    try:
        elements = _elements(node, inputs)
    except (ValueError, TypeError, OverflowError, IndexError, ZeroDivisionError) as error:
        raise node.unsupported("its constants have shapes that do not fit", "export the model again") from error
    if elements > limit:
        raise node.unsupported(f"it makes {elements} elements", "the model is too large")


def _elements(node: Node, inputs: list[Array]) -> int:
    """The most elements that the node can make of these inputs."""
    if node.operator in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(value.shape for value in inputs)))
    sizes = [value.size for value in inputs]
    if node.operator == "Gather":
        data = inputs[0]
        return int(data.size) // max(int(data.shape[node.integer("axis", 0)]), 1) * int(sizes[1])
    if node.operator in {"ConstantOfShape", "Expand", "Tile"}:
        made = math.prod(max(int(size), 1) for size in inputs[-1].reshape(-1))
        return made if node.operator == "ConstantOfShape" else made * int(sizes[0])
    if node.operator == "Range":
        start, end, step = (float(value.reshape(())) for value in inputs)
        return math.ceil(abs(end - start) / abs(step))
    return sum(sizes)
