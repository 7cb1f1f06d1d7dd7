"""`data-owner verify`: sessions with reference pictures alone, one after the other."""

from collections.abc import Iterator, Sequence
from secrets import SystemRandom
from typing import Final

from contract.api import ModelEntry
from contract.base import Strict
from contract.errors import EncryptedInferenceError, ReferenceMismatch
from contract.model_card import OutputPolicy
from contract.ticket import Engine
from data_owner.progress import Progress
from data_owner.references import FoundReference, read_reference
from data_owner.session import Diagnoser
from plumbing.output import path_bytes, path_text, printable

EXAMPLE_SHARE: Final = 0.1
"""Of sessions, in which a model owner deviates that the summary speaks of."""
_RANDOM: Final = SystemRandom()


class Verified(Strict):
    """One session with a reference picture."""

    file: str
    """Its path, as in a diagnosis."""
    file_bytes: str | None = None
    model: str
    version: str
    matches: bool
    """Whether the answer is the one that the model's owner signed."""
    to_the_last_bit: bool
    """Whether it could be compared so; else within what rounding at random allows."""
    reason: str | None = None
    """What differs."""


def choose_sessions(found: Sequence[FoundReference], sessions: int | None) -> list[FoundReference]:
    """Which pictures are sent, in what order: at random, each as often as the others. None: each once."""
    count = len(found) if sessions is None else sessions
    chosen: list[FoundReference] = []
    while len(chosen) < count:
        chosen += _RANDOM.sample(found, len(found))
    return chosen[:count]


def verify_one(diagnoser: Diagnoser, found: FoundReference, entry: ModelEntry, progress: Progress) -> Verified:
    """Send one reference picture and compare. Raises as a diagnosis does if there is no answer."""
    submission = read_reference(found, entry, diagnoser.catalog.fetch_plan(entry))
    (result,) = diagnoser.submit([submission], entry, engine=Engine.MASKED, progress=progress)
    if isinstance(result, EncryptedInferenceError) and not isinstance(result, ReferenceMismatch):
        raise result
    return Verified(
        file=path_text(found.path),
        file_bytes=path_bytes(found.path),
        model=entry.card.name,
        version=entry.version,
        matches=not isinstance(result, ReferenceMismatch),
        to_the_last_bit=not found.picture.tolerances and entry.card.output_policy is not OutputPolicy.LABEL_ONLY,
        reason=printable(str(result)) if isinstance(result, ReferenceMismatch) else None,
    )


def describe_match(verified: Verified, entry: ModelEntry) -> str:
    """A line for people about an answer that is right."""
    if verified.to_the_last_bit:
        how = "to the last bit"
    elif entry.card.output_policy is OutputPolicy.LABEL_ONLY:
        how = "by its label"
    else:
        how = "within what rounding at random allows"
    return f"{printable(verified.file)}: answered as {entry.model_owner.organisation} signed, {how}"


def summarise(verified: Sequence[Verified], entry: ModelEntry) -> Iterator[str]:
    """What it says about the model, for people."""
    right, owner = sum(one.matches for one in verified), entry.model_owner.organisation
    yield f"{entry.card.name} {entry.version}: {right} of {len(verified)} answers are those that {owner} signed."
    if right == len(verified):
        odds = 1 - (1 - EXAMPLE_SHARE) ** right
        yield (
            f"Had {owner} used another model in one of ten sessions, not knowing which are checked, this would have "
            f"shown it with odds of {odds:.0%}; docs/threat-model.md says what it cannot show."
        )
