"""Figures of a classifier, each for many weightings of the same examples at once.

A bootstrap draw is a weighting: how often each example was drawn. So one pass over the examples serves all draws, and
two models that are compared get the same draws. scikit-learn has most of these figures, for one weighting at a time;
2,000 draws of each for every run and split would take it minutes. The tests hold its values against ours.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
"""Shape (examples, classes)."""
Labels = NDArray[np.int64]
"""Class indices, shape (examples,)."""
Weightings = NDArray[np.float64]
"""Shape (draws, examples): how often each example counts."""
Values = NDArray[np.float64]
"""Shape (draws,); nan if a figure is not defined on what was drawn."""
Figure = Callable[[Probabilities, Labels, Weightings], Values]

BINS = 15
"""Of confidence, equally wide, for calibration."""


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quotient, nan if the whole is 0."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _mean_defined(values: NDArray[np.float64]) -> Values:
    """Mean over the last axis of what is not nan; nan if all is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1).astype(np.float64))


def accuracy(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
    """Share of examples whose most probable class is the true one."""
    return _ratio(weights @ (probabilities.argmax(1) == labels), weights.sum(1))


def confusion(probabilities: Probabilities, labels: Labels, weights: Weightings) -> NDArray[np.float64]:
    """(draws, classes, classes): row = true class, column = the most probable one."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(1)
    return np.asarray(weights @ np.eye(classes * classes)[pairs]).reshape(-1, classes, classes)


def recalls(probabilities: Probabilities, labels: Labels, weights: Weightings) -> NDArray[np.float64]:
    """(draws, classes): share of each class that was found; nan for a class without examples."""
    matrix = confusion(probabilities, labels, weights)
    return _ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(2))


def macro_recall(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
    """Mean of `recalls` over the classes that occur (balanced accuracy)."""
    return _mean_defined(recalls(probabilities, labels, weights))


def make_recall(label: int) -> Figure:
    """Recall of one class."""
    return lambda probabilities, labels, weights: recalls(probabilities, labels, weights)[:, label]


def matthews_correlation(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
    """Matthews' correlation coefficient for several classes (Gorodkin 2004); 0 if truth or answer never varies."""
    matrix = confusion(probabilities, labels, weights)
    true, answered, total = matrix.sum(2), matrix.sum(1), matrix.sum((1, 2))
    covariance = np.trace(matrix, axis1=1, axis2=2) * total - (true * answered).sum(1)
    spread = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (answered**2).sum(1)))
    return np.asarray(np.divide(covariance, spread, out=np.zeros_like(total), where=spread > 0))


def area_under_curve(scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: Weightings) -> Values:
    """ROC-AUC: the probability that a positive scores above a negative, ties counting half. nan if a side is empty."""
    if len(scores) == 0:
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    groups = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))  # where a run of ties begins
    positives = np.add.reduceat(weights[:, order] * positive[order], groups, axis=1)
    negatives = np.add.reduceat(weights[:, order] * ~positive[order], groups, axis=1)
    below = negatives.cumsum(1) - negatives / 2
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def macro_area_under_curve(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
    """Mean one-versus-rest ROC-AUC over the classes for which it is defined."""
    classes = range(probabilities.shape[1])
    areas = [area_under_curve(probabilities[:, label], labels == label, weights) for label in classes]
    return _mean_defined(np.stack(areas, 1))


def log_loss(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
    """Mean negative log-likelihood of the true class, in nats; a probability of 0 counts as the smallest number."""
    found = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float64).tiny)
    return _ratio(weights @ -np.log(found), weights.sum(1))


def calibration_error(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
    """Expected calibration error: mean gap between confidence and accuracy over equal bins of confidence."""
    confidence = probabilities.max(1)
    surplus = (probabilities.argmax(1) == labels) - confidence
    member = np.eye(BINS)[np.minimum((confidence * BINS).astype(np.int64), BINS - 1)]
    return _ratio(np.abs((weights * surplus) @ member).sum(1), weights.sum(1))


def coverage(uncertain_below: float) -> Figure:
    """Share of examples whose largest probability reaches the threshold."""
    return lambda probabilities, _labels, weights: _ratio(
        weights @ (probabilities.max(1) >= uncertain_below), weights.sum(1)
    )


def selective_accuracy(uncertain_below: float) -> Figure:
    """Accuracy over the examples whose largest probability reaches the threshold; nan if none does."""

    def figure(probabilities: Probabilities, labels: Labels, weights: Weightings) -> Values:
        kept = probabilities.max(1) >= uncertain_below
        return accuracy(probabilities[kept], labels[kept], weights[:, kept])

    return figure


def compute_once(figure: Figure, probabilities: Probabilities, labels: Labels) -> float:
    """The figure with every example counted once."""
    return float(figure(probabilities, labels, np.ones((1, len(labels))))[0])
