"""Whether an answer's probabilities may be called calibrated: the one place that decides it, and says it in words."""

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from contract.model_card import ModelCard

if TYPE_CHECKING:  # takes long to load, and the page is up before it
    from imaging.formats import ImageWarning


class Calibration(StrEnum):
    """What is known of an answer's probabilities."""

    CALIBRATED = "calibrated"
    """Somebody measured on pictures of this kind how often such an answer is right (the card's temperature)."""
    NOT_MEASURED = "not-measured"
    """The card names no calibration."""
    OUTSIDE_RANGE = "outside-range"
    """It names one, measured on pictures that this one is, or may be, none of: a warning asked for confirmation."""
    RANGE_UNKNOWN = "range-unknown"
    """It names one, and nobody can say whether it holds here: the file does not say what it shows, or for which age."""

    @property
    def reason(self) -> str:
        """Why probabilities are not called calibrated, as a sentence; empty if they are."""
        match self:
            case Calibration.CALIBRATED:
                return ""
            case Calibration.NOT_MEASURED:
                return "Not calibrated: the model's card names no calibration."
            case Calibration.OUTSIDE_RANGE:
                return "Not calibrated for this picture: it is, or may be, outside what the model was made for."
            case Calibration.RANGE_UNKNOWN:
                return "Not calibrated for this picture: nobody can say whether it is what the model was made for."
            case _:
                assert_never(self)


def judge_calibration(card: ModelCard, warnings: Iterable["ImageWarning"]) -> Calibration:
    """Of the probabilities for a picture with these warnings, by a model's card.

    Each warning that asks for confirmation (another modality, body part, view or age, unsettled polarity, not meant for
    viewing, nothing on it) doubts that the picture is of the kind that the temperature was measured on.
    """
    from imaging.suitability import FIT_UNKNOWN

    noticed = tuple(warnings)
    if card.calibration_temperature is None:
        return Calibration.NOT_MEASURED
    if any(warning.needs_confirmation for warning in noticed):
        return Calibration.OUTSIDE_RANGE
    if any(warning.code in FIT_UNKNOWN for warning in noticed):
        return Calibration.RANGE_UNKNOWN
    return Calibration.CALIBRATED
