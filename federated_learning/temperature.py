"""Temperature scaling (Guo et al. 2017): one number that makes probabilities mean what they say."""

import math

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError

SMALLEST, LARGEST = 0.05, 20.0
EDGE = 1.01
"""So near to the end of the range, in proportion, a temperature counts as one that lies outside."""


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits (examples, classes) divided by the temperature."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0
) -> float:
    """Mean over the examples, in nats."""
    scaled = logits.astype(np.float64) / temperature
    largest = scaled.max(1, keepdims=True)
    log_total = np.log(np.exp(scaled - largest).sum(1)) + largest[:, 0]
    return float((log_total - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] with the least negative log-likelihood on validation data.

    The likelihood is convex in 1 / temperature, so a golden-section search finds its minimum.
    """
    if len(logits) == 0 or len(logits) != len(labels):
        raise ConfigurationError("calibration needs at least one validation example, and a label for each")
    ratio = (math.sqrt(5) - 1) / 2
    low, high = 1 / LARGEST, 1 / SMALLEST

    def loss(inverse: float) -> float:
        return negative_log_likelihood(logits, labels, temperature=1 / inverse)

    while high - low > 1e-6:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return 2 / (low + high)


def fit_usable_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """`fit_temperature` to four places; None if the best lies outside the range: such data do not calibrate.

    That is so where every answer is right (the likelihood grows without end) or the logits say nothing.
    """
    found = fit_temperature(logits, labels)
    inside = SMALLEST * EDGE < found < LARGEST / EDGE
    return round(found, 4) if inside else None
