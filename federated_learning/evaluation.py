"""Figures with intervals that respect that a patient has several images, and differences between two models."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import Metric
from federated_learning import metrics as figures
from federated_learning.metrics import Figure, Labels, Probabilities, Weightings, once

DRAWS = 2000
BLOCK = 1 << 23
"""Weights (draws x examples) that are in memory at a time."""


def confusion_matrix(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts, shape (classes, classes): row = true class, column = the most probable one."""
    return np.asarray(figures.confusion(probabilities, labels, np.ones((1, len(labels))))[0], np.int64)


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of examples whose most probable class is the true one."""
    return once(figures.accuracy, probabilities, labels)


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Expected calibration error over `figures.BINS` equal bins of confidence."""
    return once(figures.calibration_error, probabilities, labels)


def selective_accuracy(probabilities: Probabilities, labels: Labels, *, uncertain_below: float) -> float:
    """Accuracy over the examples whose largest probability reaches the threshold; nan where none does."""
    return once(figures.selective_accuracy(uncertain_below), probabilities, labels)


def uncertainty_threshold(probabilities: Probabilities, labels: Labels, *, wanted: float) -> float | None:
    """From which largest probability on answers are right often enough: the card's `uncertain_below`.

    The smallest of 0.01, 0.02, ..., 0.99 at which the share `wanted` of the answers that reach it is right, on
    calibrated probabilities of validation data. Hundredths, because the order of a few examples means nothing. None
    if all answers together are right often enough; 0.99 if no threshold does, so that hardly any answer counts.
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


FIGURES: tuple[tuple[str, Figure], ...] = (
    ("accuracy", figures.accuracy),
    ("Matthews correlation coefficient", figures.matthews_correlation),
    ("macro recall", figures.macro_recall),
    ("macro one-versus-rest ROC-AUC", figures.macro_area_under_curve),
)


def certain_figures(uncertain_below: float) -> tuple[tuple[str, Figure], ...]:
    """What a threshold does: how many answers it leaves, and how often those are right."""
    return (
        (f"share of answers with a probability of at least {uncertain_below:g}", figures.coverage(uncertain_below)),
        ("accuracy of those answers", figures.selective_accuracy(uncertain_below)),
    )


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


def _draws(patients: Sequence[str], *, draws: int, seed: int) -> Iterator[Weightings]:
    """Blocks of weightings: whole patients drawn with replacement, as many as there are."""
    names = sorted(set(patients))
    position = {name: index for index, name in enumerate(names)}
    owner = np.asarray([position[name] for name in patients])
    generator = np.random.default_rng(seed)
    left, block = draws, max(1, BLOCK // len(owner))
    while left > 0:
        now = min(left, block)
        drawn = [generator.integers(len(names), size=len(names)) for _ in range(now)]
        counts = np.stack([np.bincount(one, minlength=len(names)) for one in drawn])
        yield counts[:, owner].astype(np.float64)
        left -= now


def _estimates(
    figure: Callable[[Weightings], NDArray[np.float64]], patients: Sequence[str], *, draws: int, seed: int
) -> tuple[Estimate, ...]:
    """Of several figures at once: `figure` gives (draws, figures)."""
    values = figure(np.ones((1, len(patients))))[0]
    drawn = np.concatenate([figure(weights) for weights in _draws(patients, draws=draws, seed=seed)])
    drawn[:, np.isnan(values)] = 0  # what is not defined has no interval
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    low, high = (np.where(np.isnan(values), np.nan, one) for one in (low, high))
    return tuple(
        Estimate(value=float(value), low=float(one), high=float(other))
        for value, one, other in zip(values, low, high, strict=True)
    )


def patient_bootstrap(
    wanted: Sequence[Figure],
    probabilities: Probabilities,
    labels: Labels,
    patients: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Percentile intervals over resampled patients: whole patients are drawn with replacement, all their images along.

    Images of one patient resemble each other, so that resampling images would give intervals that are too narrow.
    """
    _check_lengths(labels, patients, probabilities)
    return _estimates(
        lambda weights: np.stack([figure(probabilities, labels, weights) for figure in wanted], 1),
        patients,
        draws=draws,
        seed=seed,
    )


def paired_difference(
    wanted: Sequence[Figure],
    first: Probabilities,
    second: Probabilities,
    labels: Labels,
    patients: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Figures of `first` less those of `second` on the same examples, both with the same draws of patients.

    What is hard for both falls out, so that the interval is narrower than two intervals side by side suggest.
    """
    _check_lengths(labels, patients, first, second)

    def difference(weights: Weightings) -> NDArray[np.float64]:
        return np.stack([figure(first, labels, weights) - figure(second, labels, weights) for figure in wanted], 1)

    return _estimates(difference, patients, draws=draws, seed=seed)


def _check_lengths(labels: Labels, patients: Sequence[str], *probabilities: Probabilities) -> None:
    if not len(patients) == len(labels) > 0 or any(len(one) != len(labels) for one in probabilities):
        raise ConfigurationError("evaluation needs as many labels and patients as predictions, and at least one")


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Answers of about the same confidence."""

    confidence: float
    """Their mean largest probability."""
    accuracy: float
    count: int


def reliability(probabilities: Probabilities, labels: Labels, *, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """How often answers are right, by how confident they are: equal bins of confidence, without the empty ones."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return tuple(
        ReliabilityBin(
            confidence=float(confidence[inside].mean()), accuracy=float(right[inside].mean()), count=int(inside.sum())
        )
        for inside in (place == number for number in range(bins))
        if inside.any()
    )


def metrics(
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
    names, wanted = zip(*(FIGURES + (certain_figures(uncertain_below) if uncertain_below else ())), strict=True)
    estimates = patient_bootstrap(wanted, probabilities, labels, patients, draws=draws)
    return tuple(
        Metric(
            name=name,
            value=round(estimate.value, 4),
            interval_95=(round(estimate.low, 4), round(estimate.high, 4)),
            data_set=data_set,
            split=split,
            examples=len(labels),
        )
        for name, estimate in zip(names, estimates, strict=True)
        if not np.isnan(estimate.value)
    )
