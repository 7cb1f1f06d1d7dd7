"""What a model says about an image: one class of several, or findings that are present or not, each on its own.

A closed union; `task` says which of the two it is. The two share no field that holds an answer, so that a program that
was written for one cannot read the other as if it were its own.
"""

from typing import Annotated, Literal, Self, assert_never

from pydantic import Field, model_validator

from contract.base import Strict
from contract.model_card import ModelCard, Task

ClassTask = Literal[Task.CLASSIFICATION, Task.BINARY]
NO_FINDING = "no finding above its threshold"


class ClassAnswer(Strict):
    """Of a model that names one of its classes."""

    task: ClassTask = Task.CLASSIFICATION
    label: str
    probabilities: Annotated[dict[str, float] | None, Field(repr=False)]
    """By class, in the card's order; they add up to 1. None for a model that gives its label only."""
    uncertain: bool = False
    """Whether the largest probability is below the card's `uncertain_below`: then `label` is no answer to rely on."""

    @property
    def words(self) -> str:
        """The answer in one line."""
        return f"uncertain, most like {self.label}" if self.uncertain else self.label

    @property
    def mapped(self) -> tuple[str, ...]:
        """The class whose heat map belongs to the answer; of a binary model the finding: the other has a blank one."""
        return (list(self.probabilities)[-1],) if self.task is Task.BINARY and self.probabilities else (self.label,)


class Finding(Strict):
    """What a multi-label model says of one of its findings."""

    name: str
    probability: Annotated[float, Field(ge=0, le=1, repr=False)]
    """Of this finding alone: those of several are independent, and add up to nothing in particular."""
    threshold: float
    """The card's: from it on the finding counts as present."""
    present: Annotated[bool, Field(repr=False)]

    @model_validator(mode="after")
    def _present_is_what_the_threshold_says(self) -> Self:
        if self.present != (self.probability >= self.threshold):
            raise ValueError("present differs from what probability and threshold say")
        return self


class FindingsAnswer(Strict):
    """Of a multi-label model, which names none, one or several findings."""

    task: Literal[Task.MULTI_LABEL] = Task.MULTI_LABEL
    findings: tuple[Finding, ...] = Field(min_length=1)
    """All of them, in the card's order."""

    @property
    def present(self) -> tuple[Finding, ...]:
        """Those that reach their thresholds, the most probable first."""
        return tuple(sorted((one for one in self.findings if one.present), key=lambda one: -one.probability))

    @property
    def words(self) -> str:
        """The answer in one line."""
        return ", ".join(finding.name for finding in self.present) or NO_FINDING

    @property
    def mapped(self) -> tuple[str, ...]:
        """The findings whose heat maps belong to the answer."""
        return tuple(finding.name for finding in self.present)


ModelAnswer = ClassAnswer | FindingsAnswer


def answer_from_logits(card: ModelCard, logits: tuple[float, ...]) -> ModelAnswer:
    """Read logits, one for each class, as a model's card says."""
    probabilities = card.probabilities(logits)
    match card.task:
        case Task.CLASSIFICATION | Task.BINARY:
            return ClassAnswer(
                task=_class_task(card),
                label=max(probabilities, key=lambda name: probabilities[name]),
                probabilities=probabilities,
                uncertain=card.is_uncertain(probabilities),
            )
        case Task.MULTI_LABEL:
            return FindingsAnswer(
                findings=tuple(
                    Finding(
                        name=name,
                        probability=probability,
                        threshold=card.threshold(name),
                        present=probability >= card.threshold(name),
                    )
                    for name, probability in probabilities.items()
                )
            )
        case _:
            assert_never(card.task)


def answer_from_label(card: ModelCard, index: int) -> ClassAnswer:
    """Name the label of a model that gives nothing else; a multi-label model never does (`ModelCard`)."""
    return ClassAnswer(task=_class_task(card), label=card.classes[index], probabilities=None)


def _class_task(card: ModelCard) -> ClassTask:
    return Task.BINARY if card.task is Task.BINARY else Task.CLASSIFICATION
