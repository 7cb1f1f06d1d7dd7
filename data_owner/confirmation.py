"""What the data owner has to say about a picture before it is submitted from the command line."""

from contract.errors import NeedsConfirmation
from imaging import ImageFacts
from imaging.polarity import POLARITY_QUESTIONS

DECIDE_POLARITY = "look at it with `data-owner inspect FILE --preview seen.png`, then add --as-is or --invert"


def require_confirmed(image: ImageFacts, *, force: bool) -> None:
    """Raise NeedsConfirmation, which says what to do, for a picture with open questions and no `force`."""
    doubts = [warning for warning in image.warnings if warning.needs_confirmation]
    if not doubts or force:
        return
    only_polarity = all(warning.code in POLARITY_QUESTIONS for warning in doubts)
    way_out = DECIDE_POLARITY if image.asks_polarity else "submit it anyway with --force"
    if image.asks_polarity and not only_polarity:
        way_out = f"{DECIDE_POLARITY}, and --force if you mean this image"
    raise NeedsConfirmation("; ".join((*(warning.text for warning in doubts), way_out)))
