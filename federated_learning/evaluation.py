"""Figures of a classifier from its probabilities, with intervals that respect that a patient has several images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import Metric

Probabilities = NDArray[np.floating]
"""Shape (examples, classes)."""
Labels = NDArray[np.int64]
"""Class indices, shape (examples,)."""


def confusion_matrix(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts, shape (classes, classes): row = true class, column = the most probable one."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of examples whose most probable class is the true one."""
    return float((probabilities.argmax(1) == labels).mean())


def macro_recall(probabilities: Probabilities, labels: Labels) -> float:
    """Mean over the classes that occur of the share found (balanced accuracy)."""
    matrix = confusion_matrix(probabilities, labels)
    totals = matrix.sum(1)
    present = totals > 0
    return float((matrix.diagonal()[present] / totals[present]).mean())


def area_under_curve(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """ROC-AUC: the probability that a positive scores above a negative, ties counting half. nan if a side is empty."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    ranks = (last_rank - (counts - 1) / 2)[inverse]  # tied scores share their mean rank
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def macro_area_under_curve(probabilities: Probabilities, labels: Labels) -> float:
    """Mean one-versus-rest ROC-AUC over the classes for which it is defined."""
    areas = [area_under_curve(probabilities[:, index], labels == index) for index in range(probabilities.shape[1])]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def calibration_error(probabilities: Probabilities, labels: Labels, *, bins: int = 15) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal-width bins of confidence."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    weight = np.bincount(index, minlength=bins)
    gap = np.abs(np.bincount(index, correct, bins) - np.bincount(index, confidence, bins))
    return float(gap.sum() / weight.sum())


def coverage(probabilities: Probabilities, *, uncertain_below: float) -> float:
    """Share of examples whose largest probability reaches the threshold."""
    return float((probabilities.max(1) >= uncertain_below).mean())


def selective_accuracy(probabilities: Probabilities, labels: Labels, *, uncertain_below: float) -> float:
    """Accuracy over the examples whose largest probability reaches the threshold; nan where none does."""
    kept = probabilities.max(1) >= uncertain_below
    return accuracy(probabilities[kept], labels[kept]) if kept.any() else float("nan")


def uncertainty_threshold(probabilities: Probabilities, labels: Labels, *, wanted: float) -> float | None:
    """From which largest probability on answers are right often enough: the card's `uncertain_below`.

    The smallest of 0.01, 0.02, ..., 0.99 at which the share `wanted` of the answers that reach it is right, on
    calibrated probabilities of validation data. Hundredths, because the order of a few examples means nothing. None
    where all answers together are right often enough; 0.99 where no threshold does, so that hardly any answer counts.
    Raises ConfigurationError without examples. Source: selective classification (Geifman and El-Yaniv 2017), without
    its guarantee.
    """
    if not len(probabilities) == len(labels) > 0:
        raise ConfigurationError("a threshold needs at least one validation example, and a label for each")
    if accuracy(probabilities, labels) >= wanted:
        return None
    thresholds = [hundredth / 100 for hundredth in range(1, 100)]
    reached = (
        threshold
        for threshold in thresholds
        if selective_accuracy(probabilities, labels, uncertain_below=threshold) >= wanted
    )
    return next(reached, thresholds[-1])


Figure = Callable[[Probabilities, Labels], float]

FIGURES: tuple[tuple[str, Figure], ...] = (
    ("accuracy", accuracy),
    ("macro recall", macro_recall),
    ("macro one-versus-rest ROC-AUC", macro_area_under_curve),
)


def certain_figures(uncertain_below: float) -> tuple[tuple[str, Figure], ...]:
    """What a threshold does: how many answers it leaves, and how often those are right."""
    return (
        (
            f"share of answers with a probability of at least {uncertain_below:g}",
            lambda probabilities, _labels: coverage(probabilities, uncertain_below=uncertain_below),
        ),
        (
            "accuracy of those answers",
            lambda probabilities, labels: selective_accuracy(probabilities, labels, uncertain_below=uncertain_below),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def patient_bootstrap(
    figure: Figure,
    probabilities: Probabilities,
    labels: Labels,
    patients: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Percentile interval over resampled patients: whole patients are drawn with replacement, all their images along.

    Images of one patient resemble each other, so that resampling images would give intervals that are too narrow.
    """
    if not len(probabilities) == len(labels) == len(patients) > 0:
        raise ConfigurationError("evaluation needs as many labels and patients as predictions, and at least one")
    names = sorted(set(patients))
    position = {name: index for index, name in enumerate(names)}
    owner = np.asarray([position[name] for name in patients])
    images_of = [np.flatnonzero(owner == index) for index in range(len(names))]
    generator = np.random.default_rng(seed)
    value = figure(probabilities, labels)
    if np.isnan(value):
        return Estimate(value=value, low=value, high=value)
    values = []
    for _ in range(draws):
        drawn = generator.integers(len(names), size=len(names))
        chosen = np.concatenate([images_of[index] for index in drawn])
        values.append(figure(probabilities[chosen], labels[chosen]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))


def metrics(
    probabilities: Probabilities,
    labels: Labels,
    patients: Sequence[str],
    *,
    data_set: str,
    split: str,
    uncertain_below: float | None = None,
    draws: int = 2000,
) -> tuple[Metric, ...]:
    """Every figure of `FIGURES`, and of the threshold if there is one, as the model card has them, to four places.

    A figure that is not defined on these examples is left out.
    """
    reported = []
    for name, figure in FIGURES if uncertain_below is None else FIGURES + certain_figures(uncertain_below):
        estimate = patient_bootstrap(figure, probabilities, labels, patients, draws=draws)
        if np.isnan(estimate.value):
            continue
        reported.append(
            Metric(
                name=name,
                value=round(estimate.value, 4),
                interval_95=(round(estimate.low, 4), round(estimate.high, 4)),
                data_set=data_set,
                split=split,
                examples=len(labels),
            )
        )
    return tuple(reported)
