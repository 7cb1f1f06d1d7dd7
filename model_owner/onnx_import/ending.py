"""How a model ends, and which tasks of a card go with that: the importer, `check` and `card` all ask here.

A Softmax, LogSoftmax or Sigmoid that ends the model is left out: the data owner works out the card's probabilities
from the logits before it. None of them changes which logit is the largest.
"""

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from contract.errors import ModelFileError
from contract.model_card import ModelCard, Task
from model_owner.onnx_import.builder import Node

if TYPE_CHECKING:
    import onnx

_KEEPING_VALUES = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout"})
_PICKING = frozenset({"Gather", "Slice"})
_MAKING_PROBABILITIES = frozenset({"Sigmoid", "Softmax", "LogSoftmax", "HardSigmoid"})
_CHANGING = frozenset(
    {
        *("Add", "Sub", "Div", "Neg", "Pow", "Abs", "Clip", "Max", "Min", "Sum", "Mean", "Concat", "Split", "Expand"),
        *("Tile", "ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool", "AveragePool"),
        "MaxPool",
    }
)
"""What makes of probabilities something that is no logit either. A layer with weights makes something new."""


class Ending(StrEnum):
    """What the last operator that changes values is."""

    LOGITS = "logits"
    SOFTMAX = "Softmax"
    LOG_SOFTMAX = "LogSoftmax"
    SIGMOID = "Sigmoid"


def find_final_activation(graph: "onnx.GraphProto") -> "onnx.NodeProto | None":
    """The Softmax, LogSoftmax or Sigmoid whose result, apart from its shape, is the model's output and nothing else.

    Some of the numbers of a Sigmoid may be picked: each stands for itself.
    """
    makers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(out.name for out in graph.output)
    name = graph.output[0].name if graph.output else ""
    all_of_them = True
    while name in makers and readers[name] == 1:
        node = makers[name]
        if node.op_type == Ending.SIGMOID or (all_of_them and node.op_type in {Ending.SOFTMAX, Ending.LOG_SOFTMAX}):
            return node
        if node.op_type not in _KEEPING_VALUES | _PICKING:
            return None
        all_of_them &= node.op_type not in _PICKING
        name = node.input[0]
    return None


def check_probabilities(graph: "onnx.GraphProto") -> None:
    """Raise ModelFileError if the output is made of probabilities: they would be taken for logits."""
    if not graph.output or find_final_activation(graph) is not None:
        return
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: entry.t for node in graph.node if node.op_type == "Constant" for entry in node.attribute
    }
    dependent = {entry.name for entry in graph.input if entry.name not in constants}
    sources: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        given = [name for name in node.input if name in dependent]
        if not given:
            continue
        dependent.update(node.output)
        found = [sources[name] for name in given if name in sources]
        if node.op_type in _MAKING_PROBABILITIES or _is_cut_to_probabilities(node, constants):
            sources |= dict.fromkeys(node.output, node)
        elif (node.op_type == "Mul" and len(found) == len(given)) or (
            found and node.op_type in _KEEPING_VALUES | _PICKING | _CHANGING
        ):
            sources |= dict.fromkeys(node.output, found[0])
    source = sources.get(graph.output[0].name)
    if source is not None:
        shown = Node(
            operator=source.op_type, name=source.name or source.output[0], inputs=(), outputs=(), attributes={}
        )
        raise shown.unsupported(
            "the model's output is made of its probabilities, and would be taken for logits",
            "end the model in Softmax or Sigmoid itself, or before it, in logits",
        )


def _is_cut_to_probabilities(node: "onnx.NodeProto", constants: "dict[str, onnx.TensorProto]") -> bool:
    """Whether it is a Clip with bounds between 0 and 1."""
    if node.op_type != "Clip" or len(node.input) != 3 or not all(name in constants for name in node.input[1:]):
        return False
    from onnx import numpy_helper

    low, high = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
    return bool(low.size == high.size == 1 and 0 <= low.reshape(()) < high.reshape(()) <= 1)


def find_ending(graph: "onnx.GraphProto") -> Ending:
    last = find_final_activation(graph)
    return Ending.LOGITS if last is None else Ending(last.op_type)


def list_fitting_tasks(ending: Ending, outputs: int) -> tuple[Task, ...]:
    """The tasks that a model with so many outputs and this ending may have. Raises ModelFileError if none fits."""
    match ending:
        case Ending.SOFTMAX | Ending.LOG_SOFTMAX:
            if outputs == 1:
                raise ModelFileError(
                    f"{_describe_ending(ending, 1)}, which is always the same: end it in Sigmoid, or without either"
                )
            return (Task.CLASSIFICATION,)
        case Ending.SIGMOID:
            return (Task.MULTI_LABEL,) if outputs > 1 else (Task.BINARY,)
        case Ending.LOGITS:
            return (Task.CLASSIFICATION, Task.MULTI_LABEL) if outputs > 1 else (Task.BINARY,)
        case _:
            assert_never(ending)


def check_card(ending: Ending, outputs: int, card: ModelCard) -> None:
    """Raise ModelFileError if the card's task or classes do not go with the model's ending and outputs."""
    fitting = list_fitting_tasks(ending, outputs)
    if card.task not in fitting:
        advice = "; or ".join(f'write "task": "{task}"{_describe_task(task)}' for task in fitting)
        raise ModelFileError(
            f"{_describe_ending(ending, outputs)}, which does not go with the card's task {card.task}: {advice}"
        )
    if outputs != card.outputs:
        raise ModelFileError(
            f"the model has {outputs} outputs, the card {len(card.classes)} classes: correct the card's classes"
        )


def _describe_ending(ending: Ending, outputs: int) -> str:
    numbers = "1 number" if outputs == 1 else f"{outputs} numbers"
    return f"the model ends in {numbers}" if ending is Ending.LOGITS else f"the model ends in {ending} of {numbers}"


def _describe_task(task: Task) -> str:
    match task:
        case Task.CLASSIFICATION:
            return " if exactly one of the classes holds"
        case Task.MULTI_LABEL:
            return " if each class is a finding of its own, with a probability of its own"
        case Task.BINARY:
            return " and two classes: first what holds without the finding, then the finding"
        case _:
            assert_never(task)
