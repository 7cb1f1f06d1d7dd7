"""How far two evaluations of a model lie apart, as the clinician would notice it: in logits, probabilities, answers."""

from typing import Self, assert_never

import numpy as np
from numpy.typing import NDArray

from contract.base import Strict
from contract.model_card import ModelCard, Task


class Agreement(Strict):
    """Over some samples; an encrypted or rounded evaluation beside onnxruntime's."""

    max_abs_error: float
    """Largest difference of a logit."""
    largest_logit: float
    """Largest absolute logit of onnxruntime's: what `max_abs_error` is measured against."""
    max_probability_error: float
    """Largest difference of a probability, by the card's task and temperature."""
    labels_agree: int
    """Samples on which both give one answer: the same class, or the same side of every threshold."""

    @property
    def relative_error(self) -> float:
        """The largest difference of a logit by the largest logit."""
        return self.max_abs_error / self.largest_logit if self.largest_logit else self.max_abs_error

    @classmethod
    def of(cls, card: ModelCard, found: NDArray[np.floating], expected: NDArray[np.floating]) -> Self:
        """Compare logits (samples, classes), at least one sample, by a card."""
        return cls(
            max_abs_error=float(np.abs(found - expected).max()),
            largest_logit=float(np.abs(expected).max()),
            max_probability_error=float(
                np.abs(_compute_probabilities(card, found) - _compute_probabilities(card, expected)).max()
            ),
            labels_agree=int((choose_answers(card, found) == choose_answers(card, expected)).all(axis=1).sum()),
        )


def choose_answers(card: ModelCard, logits: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which classes are the answer, (samples, classes): the most probable one, or each that reaches its threshold."""
    probabilities = _compute_probabilities(card, logits)
    match card.task:
        case Task.CLASSIFICATION | Task.BINARY:
            return np.asarray(np.eye(len(card.classes), dtype=bool)[probabilities.argmax(axis=1)])
        case Task.MULTI_LABEL:
            return np.asarray(probabilities >= [card.threshold(name) for name in card.classes])
        case _:
            assert_never(card.task)


def _compute_probabilities(card: ModelCard, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = [tuple(card.probabilities(tuple(float(value) for value in row)).values()) for row in logits]
    return np.array(rows, dtype=np.float64)
