"""Figures with intervals that respect that a patient has several images, and differences between two models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import Metric
from federated_learning import metrics as figures
from federated_learning.metrics import Figure, Labels, Probabilities, Weightings, compute_once

DRAWS = 2000
BLOCK = 1 << 23
"""Weights (draws x examples) that are in memory at a time."""


def confusion_matrix(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts, shape (classes, classes): row = true class, column = the most probable one."""
    return np.asarray(figures.confusion(probabilities, labels, np.ones((1, len(labels))))[0], np.int64)


def choose_threshold(probabilities: Probabilities, labels: Labels, *, wanted: float) -> float | None:
    """From which largest probability on answers are right often enough: the card's `uncertain_below`.

    The smallest of 0.01, 0.02, ..., 0.99 at which the share `wanted` of the answers that reach it is right, on
    calibrated probabilities of validation data. Hundredths, because the order of a few examples means nothing. None
    if all answers together are right often enough; 0.99 if no threshold does, so that hardly any answer counts.
    Raises ConfigurationError without examples. Source: selective classification (Geifman and El-Yaniv 2017), without
    its guarantee.
    """
    if not len(probabilities) == len(labels) > 0:
        raise ConfigurationError("a threshold needs at least one validation example, and a label for each")
    if compute_once(figures.accuracy, probabilities, labels) >= wanted:
        return None
    for hundredth in range(1, 99):
        if compute_once(figures.selective_accuracy(hundredth / 100), probabilities, labels) >= wanted:
            return hundredth / 100
    return 0.99


FIGURES: Mapping[str, Figure] = MappingProxyType({
    "accuracy": figures.accuracy,
    "Matthews correlation coefficient": figures.matthews_correlation,
    "macro recall": figures.macro_recall,
    "macro one-versus-rest ROC-AUC": figures.macro_area_under_curve,
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether it is significant at 5 %."""
        return not self.low <= 0 <= self.high


def _draw(patients: Sequence[str], *, draws: int, seed: int) -> Iterator[Weightings]:
    """Blocks of weightings: whole patients drawn with replacement, as many as there are."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    generator = np.random.default_rng(seed)
    left, block = draws, max(1, BLOCK // len(owner))
    while left > 0:
        now = min(left, block)
        drawn = [generator.integers(len(names), size=len(names)) for _ in range(now)]
        counts = np.stack([np.bincount(one, minlength=len(names)) for one in drawn])
        yield counts[:, owner].astype(np.float64)
        left -= now


def bootstrap_patients(
    wanted: Sequence[Figure],
    probabilities: Probabilities,
    labels: Labels,
    patients: Sequence[str],
    *,
    less: Probabilities | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Percentile intervals over resampled patients: whole patients are drawn with replacement, all their images along.

    Images of one patient resemble each other, so that resampling images would give intervals that are too narrow.

    With `less`, of the figures less those of another model on the same examples, both with the same draws of patients:
    what is hard for both falls out, so that the interval is narrower than two intervals side by side suggest.
    """
    both = (probabilities,) if less is None else (probabilities, less)
    if not len(patients) == len(labels) > 0 or any(len(one) != len(labels) for one in both):
        raise ConfigurationError("evaluation needs as many labels and patients as predictions, and at least one")

    def compute(weights: Weightings) -> NDArray[np.float64]:
        first, *second = (np.stack([figure(one, labels, weights) for figure in wanted], 1) for one in both)
        return np.asarray(first - second[0] if second else first)

    values = compute(np.ones((1, len(patients))))[0]
    drawn = np.concatenate([compute(weights) for weights in _draw(patients, draws=draws, seed=seed)])
    drawn[:, np.isnan(values)] = 0  # what is not defined has no interval
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    low, high = (np.where(np.isnan(values), np.nan, one) for one in (low, high))
    return tuple(
        Estimate(value=float(value), low=float(one), high=float(other))
        for value, one, other in zip(values, low, high, strict=True)
    )


class ReliabilityBin(NamedTuple):
    """Answers of about the same confidence: their mean largest probability, how many of them are right, how many."""

    confidence: float
    accuracy: float
    answers: int


def compute_reliability(probabilities: Probabilities, labels: Labels, *, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """How often answers are right, by how confident they are: equal bins of confidence, without the empty ones."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return tuple(
        ReliabilityBin(float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (place == number for number in range(bins))
        if inside.any()
    )


def measure(
    probabilities: Probabilities,
    labels: Labels,
    patients: Sequence[str],
    *,
    data_set: str,
    split: str,
    uncertain_below: float | None = None,
    draws: int = DRAWS,
) -> tuple[Metric, ...]:
    """Every figure of `FIGURES`, and of the threshold if there is one, as the model card has them, to four places.

    A figure that is not defined on these examples is left out.
    """
    wanted = dict(FIGURES)
    if uncertain_below:  # what a threshold does: how many answers it leaves, and how often those are right
        wanted |= {
            f"share of answers with a probability of at least {uncertain_below:g}": figures.coverage(uncertain_below),
            "accuracy of those answers": figures.selective_accuracy(uncertain_below),
        }
    estimates = bootstrap_patients(tuple(wanted.values()), probabilities, labels, patients, draws=draws)
    return tuple(
        Metric(
            name=name,
            value=round(estimate.value, 4),
            interval_95=(round(estimate.low, 4), round(estimate.high, 4)),
            data_set=data_set,
            split=split,
            examples=len(labels),
        )
        for name, estimate in zip(wanted, estimates, strict=True)
        if not np.isnan(estimate.value)
    )
