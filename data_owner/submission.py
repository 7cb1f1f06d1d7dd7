"""A file that was read and may be submitted, and what must be settled before it is.

Apart from what draws (`inspection`, `heat_map`), which most answers need not load.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import CallerError, NeedsConfirmation, Refused
from contract.model_card import ModelCard, OutputPolicy
from contract.references import ReferencePicture
from contract.ticket import Engine
from imaging.polarity import POLARITY_QUESTIONS
from imaging.reading import ImageFacts, ModelInput

LOOK: Final = "with `data-owner inspect FILE --preview seen.png`"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A file that was read and may be submitted."""

    path: Path
    image: ModelInput
    heat_map: Path | None = None
    """A new PNG file for the picture with the heat map over it."""
    reference: ReferencePicture | None = None
    """Of a picture that is sent to check the model: what the answer must be."""


def require_heat_map(card: ModelCard, engine: Engine) -> None:
    """Raise Refused or CallerError if a diagnosis would bring no heat map."""
    if card.output_policy is not OutputPolicy.LOGITS_AND_HEAT_MAP:
        raise Refused(f"the model's owner does not allow heat maps of {card.name} {card.version}; leave out --heat-map")
    if engine is not Engine.MASKED:
        raise CallerError(f"the engine '{engine.value}' opens no heat maps; use --engine masked")


def require_confirmed(image: ImageFacts, *, force: bool) -> None:
    """Raise NeedsConfirmation, which says what to do, for a picture with open questions and no `force`."""
    doubts = [warning for warning in image.warnings if warning.needs_confirmation]
    if not doubts or force:
        return
    raise NeedsConfirmation(
        "; ".join((*(warning.text for warning in doubts), list_ways_out({one.code for one in doubts})))
    )


def list_ways_out(asked: set[str], *, look: str = LOOK) -> str:
    """What to add to the command line for a picture with warnings of these codes that ask."""
    if not asked & POLARITY_QUESTIONS:
        return "submit it anyway with --force"
    more = ", and --force if you mean this image" if asked - POLARITY_QUESTIONS else ""
    return f"look at it {look}, then add --as-is or --invert{more}"
