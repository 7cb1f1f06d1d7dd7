"""README.md of a published model: its card and figures as Markdown. Every sentence holds for the model at hand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from contract.model_card import FederatedTraining, ModelCard, OutputPolicy
from federated_learning.evaluation import DRAWS, confusion_matrix
from federated_learning.metrics import Labels, Probabilities
from federated_learning.report.writing import table

WANTED_ACCURACY = 0.9
"""Of the answers that are not shown as uncertain, on validation data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """What the README says of one role besides the card's figures."""

    confusion: NDArray[np.int64]
    """(classes, classes), row: true class."""
    patients: int
    reached: int
    """Answers whose probability reaches the threshold; all if there is none."""
    reached_right: int
    """Of these, how many are right."""

    @classmethod
    def count(
        cls, probabilities: Probabilities, labels: Labels, *, patients: int, uncertain_below: float | None
    ) -> Self:
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


def write_readme(card: ModelCard, splits: Mapping[str, Split], *, validation_role: str) -> str:
    """The card's figures and words as Markdown. `splits` by role, the validation role among them."""
    figures = [
        (
            metric.split,
            str(metric.examples),
            metric.name,
            f"{metric.value:.3f}",
            "" if metric.interval_95 is None else "{:.3f} to {:.3f}".format(*metric.interval_95),
        )
        for metric in card.metrics
    ]
    parts = [f"# {card.title}", f"`{card.name}` {card.version}. {card.intended_use}", "## Results"]
    parts += [table(("split", "images", "figure", "value", "95 % interval"), figures)]
    parts += _explain_figures(card, splits, validation_role)
    for role, split in splits.items():
        rows = [(name, *map(str, row)) for name, row in zip(card.classes, split.confusion, strict=True)]
        parts += [f"Confusion on {role} (rows: true class):", table(("", *card.classes), rows)]
    parts += ["## Training", card.training]
    if card.federation is not None:
        parts.append(table(("federated training", ""), list(_describe_training(card.federation))))
    data = card.citations or dict.fromkeys(metric.data_set for metric in card.metrics) or ("Nobody wrote what it is.",)
    parts += ["## Data", "\n".join(f"- {text}" for text in data)]
    return "\n\n".join(parts) + "\n"


def _explain_figures(card: ModelCard, splits: Mapping[str, Split], validation_role: str) -> Iterator[str]:
    """What the figures mean, by paragraph."""
    if any(metric.interval_95 for metric in card.metrics):
        alone = all(split.patients == split.examples for split in splits.values())
        drawn = "single images, as no two of them name one patient" if alone else "whole patients"
        yield f"Figures are of model.onnx itself. Intervals come from {DRAWS:,} draws of {drawn}."
    tests = [role for role in splits if role != validation_role]
    if not tests:
        yield "No test data was looked at. Images that temperature and threshold are fitted on flatter a model."
    yield _explain_calibration(card, validation_role, measured=validation_role in splits)
    if validation_role in splits:
        yield _explain_uncertainty(card, splits, validation_role, tests)


def _explain_calibration(card: ModelCard, validation_role: str, *, measured: bool) -> str:
    if card.calibration_temperature is None and not measured:
        return "Not calibrated."
    if card.calibration_temperature is None:
        return (
            f"Not calibrated: no temperature fits {validation_role}, as happens if every answer is right "
            "or none says anything. Probabilities are the softmax of the bare logits."
        )
    return f"Calibration temperature: {card.calibration_temperature}, fitted on {validation_role}."


def _explain_uncertainty(card: ModelCard, splits: Mapping[str, Split], validation_role: str, tests: list[str]) -> str:
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
        found = f"{split.reached_right} of {split.reached} are right" if split.reached else "no answer reaches it"
        words += f" On {role}, {found}."
    return words


def _describe_training(training: FederatedTraining) -> Iterator[tuple[str, str]]:
    """What the README says of a federated training, line by line."""
    yield "hospitals", ", ".join(training.hospitals)
    yield "rounds", f"{training.rounds}; the weights of round {training.chosen_round} were kept"
    yield "rounds made again after somebody dropped out", str(training.restarted_rounds)
    yield "method", training.method
    batches = training.local_batches
    yield "between two rounds", "one pass over a hospital's images" if batches is None else f"{batches} batches each"
    if training.examples is not None:
        yield "images of all hospitals together", str(training.examples)
    if training.class_counts is not None:
        yield "of them by class", ", ".join(f"{name} {count}" for name, count in training.class_counts.items())
    if training.secure_aggregation is None:
        yield "secure aggregation", "none"
    else:
        for name, value in training.secure_aggregation.items():
            yield f"secure aggregation: {name}", str(value)
    if training.software:
        yield "software", ", ".join(f"{name} {version}" for name, version in training.software.items())
