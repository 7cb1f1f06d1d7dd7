"""What is constant is computed at import, by ONNX's own reference implementation."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from model_owner.onnx_import.builder import Array, Node

_ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Sqrt", "Neg", "Reciprocal", "Max", "Min", "Mod", "Pow", "Abs", "Floor", "Ceil"),
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Where"),
        *("Clip", "Exp", "Log", "Mean", "Round", "Sign", "Sum"),
    }
)
REARRANGING = frozenset(
    {
        *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Gather", "Slice", "Split"),
        *("Expand", "Tile"),
    }
)
"""Operators that only move elements."""
_MAKING = frozenset({"ConstantOfShape", "Range"})
_REDUCING = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Shape", "Size"})
FOLDABLE = _ELEMENTWISE | REARRANGING | _MAKING | _REDUCING | {"BatchNormalization", "Cast", "Identity"}
"""Operators that are computed at import if all their inputs are constants."""
_AXES_ARE_AN_INPUT: Final = 13
"""The opset from which Squeeze and Unsqueeze take their axes as an input."""


def run_reference(node: Node, inputs: list[Array], opset: int, *, limit: int) -> list[Array]:
    """Outputs of a node in FOLDABLE for these inputs, by onnx's own reference implementation.

    Raises ModelFileError if an output would have more than `limit` elements, before any is made.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    _check_size(node, inputs, limit)
    node = _sort_axes(node, inputs, opset)
    proto = onnx.helper.make_node(node.operator, node.inputs, node.outputs, **node.attributes)
    describe = onnx.helper.make_empty_tensor_value_info
    given_values, made_values = ([describe(name) for name in some if name] for some in (node.inputs, node.outputs))
    graph = onnx.helper.make_graph([proto], "one", given_values, made_values)
    # A model, not the node alone: for a node alone the evaluator follows the newest opset, whatever it is told.
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, given)
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        raise node.unsupported("its shapes or indices do not fit", "export the model again") from error
    return [np.asarray(result) for result in results]


def _sort_axes(node: Node, inputs: list[Array], opset: int) -> Node:
    """Axes of Squeeze and Unsqueeze before opset 13 from the first to the last: the evaluator takes one by one."""
    axes = node.attributes.get("axes")
    if opset >= _AXES_ARE_AN_INPUT or node.operator not in {"Squeeze", "Unsqueeze"} or not axes:
        return node
    rank = inputs[0].ndim + (len(axes) if node.operator == "Unsqueeze" else 0)
    in_order = sorted(axis % rank if -rank <= axis < rank else axis for axis in axes)
    return replace(node, attributes=dict(node.attributes) | {"axes": in_order})


def _check_size(node: Node, inputs: list[Array], limit: int) -> None:
    try:
        elements = _count_elements(node, inputs)
    except (ValueError, TypeError, OverflowError, IndexError, ZeroDivisionError) as error:
        raise node.unsupported("its constants have shapes that do not fit", "export the model again") from error
    if elements > limit:
        raise node.unsupported(
            f"it makes {elements} elements, with those before many times what the model holds", "the model is too large"
        )


def _count_elements(node: Node, inputs: list[Array]) -> int:
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
