"""README.md of a published model: its card and figures as Markdown. Every sentence holds for the model at hand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from contract.model_card import FederationRecord, ModelCard, OutputPolicy
from federated_learning.evaluation import DRAWS, confusion_matrix
from federated_learning.metrics import Labels, Probabilities

WANTED_ACCURACY = 0.9
"""Of the answers that are not shown as uncertain, on validation data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """What the README tells of one role besides the card's figures."""

    confusion: NDArray[np.int64]
    """(classes, classes), row: true class."""
    patients: int
    reached: int
    """Answers whose probability reaches the threshold; all if there is none."""
    reached_right: int
    """Of these, how many are right."""

    @classmethod
    def of(cls, probabilities: Probabilities, labels: Labels, *, patients: int, uncertain_below: float | None) -> Self:
        """Of probabilities (examples, classes) and true classes (examples,)."""
        reached = probabilities.max(1) >= (uncertain_below or 0.0)
        right = probabilities.argmax(1) == labels
        return cls(
            confusion=confusion_matrix(probabilities, labels),
            patients=patients,
            reached=int(reached.sum()),
            reached_right=int((reached & right).sum()),
        )

    @property
    def examples(self) -> int:
        """Images."""
        return int(self.confusion.sum())


def readme(card: ModelCard, splits: Mapping[str, Split], *, validation_role: str) -> str:
    """The card's figures and words as Markdown. `splits` by role, the validation role among them."""
    lines = [f"# {card.title}", "", f"`{card.name}` {card.version}. {card.intended_use}", "", "## Results", ""]
    lines += ["| split | images | figure | value | 95 % interval |", "| --- | --- | --- | --- | --- |"]
    for metric in card.metrics:
        interval = "" if metric.interval_95 is None else "{:.3f} to {:.3f}".format(*metric.interval_95)
        lines.append(f"| {metric.split} | {metric.examples} | {metric.name} | {metric.value:.3f} | {interval} |")
    lines += ["", *_paragraphs(card, splits, validation_role)]
    for role, split in splits.items():
        lines += [f"Confusion on {role} (rows: true class):", "", f"| | {' | '.join(card.classes)} |"]
        lines.append("| --- |" + " --- |" * len(card.classes))
        rows = zip(card.classes, split.confusion, strict=True)
        lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows]
        lines.append("")
    lines += ["## Training", "", card.training, ""]
    if card.federation is not None:
        lines += ["| federation | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in _facts(card.federation)]
        lines.append("")
    lines += ["## Data", "", *(f"- {text}" for text in card.citations or _data_sets(card))]
    return "\n".join(lines) + "\n"


def _data_sets(card: ModelCard) -> tuple[str, ...]:
    return tuple(dict.fromkeys(metric.data_set for metric in card.metrics)) or ("Nobody wrote what the data are.",)


def _paragraphs(card: ModelCard, splits: Mapping[str, Split], validation_role: str) -> Iterator[str]:
    """What the figures mean, each paragraph followed by an empty line."""
    if any(metric.interval_95 for metric in card.metrics):
        alone = all(split.patients == split.examples for split in splits.values())
        drawn = "single images, as no two of them name one patient" if alone else "whole patients"
        yield from (f"Figures are of model.onnx itself. Intervals come from {DRAWS:,} draws of {drawn}.", "")
    tests = [role for role in splits if role != validation_role]
    if not tests:
        words = "No test data was looked at. Images that temperature and threshold are fitted on flatter a model."
        yield from (words, "")
    yield from (_calibration(card, validation_role, measured=validation_role in splits), "")
    if validation_role in splits:
        yield from (_uncertainty(card, splits, validation_role, tests), "")


def _calibration(card: ModelCard, validation_role: str, *, measured: bool) -> str:
    if card.calibration_temperature is None and not measured:
        return "Not calibrated."
    if card.calibration_temperature is None:
        return (
            f"Not calibrated: no temperature fits {validation_role}, as where every answer is right "
            "or none says anything. Probabilities are the softmax of the bare logits."
        )
    return f"Calibration temperature: {card.calibration_temperature}, fitted on {validation_role}."


def _uncertainty(card: ModelCard, splits: Mapping[str, Split], validation_role: str, tests: list[str]) -> str:
    """What the threshold of uncertainty does, counted on each split."""
    if card.output_policy is OutputPolicy.LABEL_ONLY:
        return "The model gives its label only: nobody sees a probability, and no answer is shown as uncertain."
    validated, wanted = splits[validation_role], f"{WANTED_ACCURACY:.0%}"
    share = f"{validated.reached_right} of {validated.reached}"
    if card.uncertain_below is None:
        return f"No answer is shown as uncertain: on {validation_role}, {share} are right, and {wanted} were wanted."
    words = f"An answer whose probability is below {card.uncertain_below:g} is shown as uncertain."
    if validated.reached_right >= WANTED_ACCURACY * validated.reached > 0:
        words += (
            f" This threshold was chosen on {validation_role} alone: the smallest, in hundredths, at which {wanted} of "
            f"the answers that reach it are right there ({share})."
        )
    else:
        reached = f"{share} answers that reach it are right" if validated.reached else "no answer reaches it"
        words += (
            f" No threshold makes {wanted} of the answers right on {validation_role}. This one is the highest that was "
            f"tried: there {reached}."
        )
    for role in tests:
        split = splits[role]
        said = f"{split.reached_right} of {split.reached} are right" if split.reached else "no answer reaches it"
        words += f" On {role}, {said}."
    return words


def _facts(federation: FederationRecord) -> Iterator[tuple[str, str]]:
    """What the README tells of a federation, line by line."""
    yield "hospitals", ", ".join(federation.hospitals)
    yield "rounds", f"{federation.rounds}; the weights of round {federation.chosen_round} were kept"
    yield "rounds made again after somebody dropped out", str(federation.restarted_rounds)
    yield "method", federation.method
    batches = federation.local_batches
    yield "between two rounds", "one pass over a hospital's images" if batches is None else f"{batches} batches each"
    if federation.examples is not None:
        yield "images of all hospitals together", str(federation.examples)
    if federation.class_counts is not None:
        yield "of them by class", ", ".join(f"{name} {count}" for name, count in federation.class_counts.items())
    if federation.secure_aggregation is None:
        yield "secure aggregation", "none"
    else:
        for name, value in federation.secure_aggregation.items():
            yield f"secure aggregation: {name}", str(value)
    if federation.software:
        yield "software", ", ".join(f"{name} {version}" for name, version in federation.software.items())
