"""What coordinator and hospitals say to each other: a step's name, a JSON header, and named byte strings.

How Flower carries it stands in `flower/records.py`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, assert_never

from contract.errors import PeerViolation

ERROR = "error"
"""Key of the header of an answer that has no other content: a `Trouble`."""
POSITION_BYTES = 8


class Part(StrEnum):
    """Names of the parts of messages."""

    ADVERTISEMENT = "advertisement"
    DIRECTORY = "directory"
    SHARES = "shares"
    DELIVERY = "delivery"
    MASKED = "masked"
    SURVIVORS = "survivors"
    CONFIRMATION = "confirmation"
    CONFIRMATIONS = "confirmations"
    UNMASKING = "unmasking"
    UPDATE = "update"
    EXACT = "exact"
    IN_SUM = "in-sum"
    POSITION = "position"


class Step(StrEnum):
    """What the coordinator asks for. The value is Flower's message type."""

    SURVEY = "query.survey"
    """Count: examples, classes, pixels."""
    TRAIN = "train.batches"
    """Train from the global weights, which each hospital computes itself."""
    EVALUATE = "evaluate.model"
    """Evaluate their average on the hospital's own validation images."""
    SHARES = "query.shares"
    MASKED = "query.masked"
    CONFIRM = "query.confirm"
    UNMASK = "query.unmask"
    PLAIN = "query.plain"
    """The update in the clear: only if the hospital's own settings allow it."""
    FOLLOW = "query.follow"
    """Open a sum again, as the coordinator opened it, and go on to the next global weights."""
    FINISH = "query.finish"
    """The run is over: hospitals may end."""


class Trouble(StrEnum):
    """Why a hospital has no answer. This is all that leaves it: words may say something of its data or its files."""

    REFUSED = "refused"
    OUT_OF_TURN = "out-of-turn"
    FAILED = "failed"

    def __str__(self) -> str:
        """As the coordinator's people read it, after the hospital's name."""
        match self:
            case Trouble.REFUSED:
                return "refuses this order; its own screen says which of its settings forbids it"
            case Trouble.OUT_OF_TURN:
                return (
                    "did not expect this message: it started again in the middle of the round, or runs another version"
                )
            case Trouble.FAILED:
                return "could not do this; its own screen says why"
            case _:
                assert_never(self)


def read_trouble(letter: "Letter") -> Trouble | None:
    """Why there is no answer, or None if there is one. Raises PeerViolation for anything else."""
    if ERROR not in letter.header:
        return None
    try:
        return Trouble(letter.header[ERROR])
    except ValueError:
        raise PeerViolation("an answer names an unknown reason: run the same version on both sides") from None


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One message or its answer, without who sent it: Flower knows that from the sender's key."""

    header: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)

    def byte_count(self) -> int:
        """Bytes of all parts and of the header, without Flower's and TLS's framing."""
        return len(json.dumps(self.header)) + sum(map(len, self.parts.values()))

    def part(self, name: str) -> bytes:
        """Raises PeerViolation if it is missing."""
        try:
            return self.parts[name]
        except KeyError:
            raise PeerViolation(f"a message lacks its part '{name}': run the same version on both sides") from None


class Exchange(Protocol):
    """One question to some hospitals, and the answers that come in time."""

    def ask(
        self, step: Step, letters: Mapping[str, Letter], *, seconds: float, answered: Callable[[str], None]
    ) -> "Answers":
        """Send each hospital its letter and wait for the answers; `answered` gets each name."""

    def online(self) -> frozenset[str]:
        """The hospitals that are connected now."""


@dataclass(kw_only=True)
class Answers:
    """What came back."""

    letters: dict[str, Letter] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why a hospital has none, in this side's words: details stand on its own screen."""
    refused: set[str] = field(default_factory=set)
    """Hospitals that answered that they cannot, rather than not at all."""

    def add(self, name: str, letter: Letter, trouble: Trouble | None) -> None:
        """What a hospital answered."""
        if trouble is None:
            self.letters[name] = letter
        else:
            self.failures[name] = str(trouble)
            self.refused.add(name)
