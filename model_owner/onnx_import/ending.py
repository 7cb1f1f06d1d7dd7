"""How a model ends, and which tasks of a card go with that: the importer, `check` and `card` all ask here.

A Softmax, LogSoftmax or Sigmoid that ends the model is left out: the data owner works out the card's probabilities
from the logits before it. None of them changes which logit is the largest.
"""

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from contract.errors import ModelFileError
from contract.model_card import ModelCard, Task

if TYPE_CHECKING:
    import onnx

_KEEPING_VALUES = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout"})


class Ending(StrEnum):
    """What the last operator that changes values is."""

    LOGITS = "logits"
    SOFTMAX = "Softmax"
    LOG_SOFTMAX = "LogSoftmax"
    SIGMOID = "Sigmoid"


def final_activation(graph: "onnx.GraphProto") -> "onnx.NodeProto | None":
    """The Softmax, LogSoftmax or Sigmoid whose result, but for its shape, is the model's output and nothing else."""
    makers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(out.name for out in graph.output)
    name = graph.output[0].name if graph.output else ""
    while name in makers and readers[name] == 1:
        node = makers[name]
        if node.op_type in {Ending.SOFTMAX, Ending.LOG_SOFTMAX, Ending.SIGMOID}:
            return node
        if node.op_type not in _KEEPING_VALUES:
            return None
        name = node.input[0]
    return None


def ending_of(graph: "onnx.GraphProto") -> Ending:
    """How the model ends."""
    last = final_activation(graph)
    return Ending.LOGITS if last is None else Ending(last.op_type)


def fitting_tasks(ending: Ending, outputs: int) -> tuple[Task, ...]:
    """The tasks that a model with so many outputs and this ending may have."""
    match ending:
        case Ending.SOFTMAX | Ending.LOG_SOFTMAX:
            return (Task.CLASSIFICATION,) if outputs > 1 else ()
        case Ending.SIGMOID:
            return (Task.MULTI_LABEL,) if outputs > 1 else (Task.BINARY,)
        case Ending.LOGITS:
            return (Task.CLASSIFICATION, Task.MULTI_LABEL) if outputs > 1 else (Task.BINARY,)
        case _:
            assert_never(ending)


def check_card(ending: Ending, outputs: int, card: ModelCard) -> None:
    """Raise ModelFileError where the card's task or classes do not go with the model's ending and outputs."""
    fitting = fitting_tasks(ending, outputs)
    numbers = "1 number" if outputs == 1 else f"{outputs} numbers"
    ends = f"the model ends in {numbers}" if ending is Ending.LOGITS else f"the model ends in {ending} of {numbers}"
    if not fitting:
        raise ModelFileError(f"{ends}, which is always the same: end it in Sigmoid, or without either")
    if card.task not in fitting:
        advice = "; or ".join(f'write "task": "{task}"{_meaning(task)}' for task in fitting)
        raise ModelFileError(f"{ends}, which does not go with the card's task {card.task}: {advice}")
    if outputs != card.outputs:
        raise ModelFileError(
            f"the model has {outputs} outputs, the card {len(card.classes)} classes: correct the card's classes"
        )


def _meaning(task: Task) -> str:
    match task:
        case Task.CLASSIFICATION:
            return " if exactly one of the classes holds"
        case Task.MULTI_LABEL:
            return " if each class is a finding of its own, with a probability of its own"
        case Task.BINARY:
            return " and two classes: first what holds without the finding, then the finding"
        case _:
            assert_never(task)
