"""What the data owner has to say about a picture before it is submitted from the command line."""

from contract.errors import NeedsConfirmation
from imaging import ImageFacts
from imaging.polarity import POLARITY_QUESTIONS

LOOK = "with `data-owner inspect FILE --preview seen.png`"


def require_confirmed(image: ImageFacts, *, force: bool) -> None:
    """Raise NeedsConfirmation, which says what to do, for a picture with open questions and no `force`."""
    doubts = [warning for warning in image.warnings if warning.needs_confirmation]
    if not doubts or force:
        return
    raise NeedsConfirmation("; ".join((*(warning.text for warning in doubts), way_out({one.code for one in doubts}))))


def way_out(asked: set[str], *, look: str = LOOK) -> str:
    """What to add to the command line for a picture with warnings of these codes that ask."""
    if not asked & POLARITY_QUESTIONS:
        return "submit it anyway with --force"
    more = ", and --force if you mean this image" if asked - POLARITY_QUESTIONS else ""
    return f"look at it {look}, then add --as-is or --invert{more}"
