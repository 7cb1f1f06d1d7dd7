"""Temperature scaling (Guo et al. 2017): one number that makes probabilities mean what they say."""

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize_scalar

from contract.errors import ConfigurationError

SMALLEST, LARGEST = 0.05, 20.0
EDGE = 1.01
"""So near to the end of the range, in proportion, a temperature counts as one that lies outside."""


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits (examples, classes) divided by the temperature."""
    return np.asarray(special.softmax(logits.astype(np.float64) / temperature, axis=1))


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0
) -> float:
    """Mean over the examples, in nats."""
    logarithms = special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] with the least negative log-likelihood on validation data.

    The likelihood is convex in 1 / temperature, so its only minimum is found.
    """
    if len(logits) == 0 or len(logits) != len(labels):
        raise ConfigurationError("calibration needs at least one validation example, and a label for each")

    def loss(inverse: float) -> float:
        return negative_log_likelihood(logits, labels, temperature=1 / inverse)

    bounds = 1 / LARGEST, 1 / SMALLEST
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    # A bound goes first: where every answer is right, the likelihood is flat before it.
    return 1 / min((*bounds[::-1], float(found.x)), key=loss)


def fit_usable_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """`fit_temperature` to four places; None if the best lies outside the range: such data do not calibrate.

    That is so where every answer is right (the likelihood grows without end) or the logits say nothing.
    """
    found = fit_temperature(logits, labels)
    inside = SMALLEST * EDGE < found < LARGEST / EDGE
    return round(found, 4) if inside else None
