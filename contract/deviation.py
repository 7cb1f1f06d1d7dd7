"""What a decoy item found: a data owner that sent something else than the protocol has it send."""

from dataclasses import dataclass
from enum import StrEnum


class DeviationPhase(StrEnum):
    """Which of a data owner's messages deviated."""

    UPLOAD = "upload"
    """Offline: a hidden share of a masked value."""
    ANSWER = "answer"
    """Online: the answer to an opening."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The first message of a decoy that is not the right one. Public to the parties of the session: hashes only."""

    item: str
    """Name of the item of material: 64 hexadecimal digits."""
    move: int
    """Number of the move in the plan's walk, from 0."""
    step: str
    """Name of the plan's step that the move belongs to."""
    phase: DeviationPhase
    expected: bytes
    """SHA-256 of the message that follows from what the data owner was dealt: 32 bytes."""
    received: bytes
    """SHA-256 of the message that came."""
