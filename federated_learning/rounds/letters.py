"""What coordinator and hospitals say to each other: a step's name, a JSON header, and named byte strings.

Flower carries it as a `RecordDict` of two `ConfigRecord`s. Everything received is checked here before it is used:
types, number and total length. No pickle, no arrays whose shape the sender chooses.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, assert_never

from contract.errors import PeerViolation

if TYPE_CHECKING:
    from flwr.app import RecordDict

HEADER, PARTS, TEXT = "header", "parts", "json"
MAX_HEADER_BYTES = 1 << 20
MAX_PARTS = 1000
ERROR = "error"
"""Key of the header of an answer that has no other content: a `Trouble`."""
ADVERTISEMENT, DIRECTORY, SHARES, DELIVERY, MASKED, SURVIVORS, CONFIRMATION, CONFIRMATIONS, UNMASKING = (
    "advertisement",
    "directory",
    "shares",
    "delivery",
    "masked",
    "survivors",
    "confirmation",
    "confirmations",
    "unmasking",
)
UPDATE, EXACT, IN_SUM = "update", "exact", "in-sum"
POSITION = "position"
"""Names of the parts of messages."""


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
    """The update in the clear: only where the hospital's own settings allow it."""
    FOLLOW = "query.follow"
    """Open a sum again, as the coordinator opened it, and go on to the next global weights."""
    FINISH = "query.finish"
    """The run is over: hospitals may end."""


class Trouble(StrEnum):
    """Why a hospital has no answer. This is all that it tells: words may say something of its data or its files."""

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
                    "did not expect this message: it started anew in the middle of the round, or runs another version"
                )
            case Trouble.FAILED:
                return "could not do this; its own screen says why"
            case _:
                assert_never(self)


def trouble_of(letter: "Letter") -> Trouble | None:
    """Why there is no answer, or None where there is one. Raises PeerViolation for anything else."""
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
        """Raises PeerViolation where it is missing."""
        try:
            return self.parts[name]
        except KeyError:
            raise PeerViolation(f"a message lacks its part '{name}': run the same version on both sides") from None


def to_records(letter: Letter) -> "RecordDict":
    """As Flower's content."""
    from flwr.app import ConfigRecord, RecordDict

    header = ConfigRecord({TEXT: json.dumps(letter.header)})
    return RecordDict({HEADER: header, PARTS: ConfigRecord(dict(letter.parts))})


def from_records(records: "RecordDict", *, max_bytes: int) -> Letter:
    """Check and unpack. Raises PeerViolation: `max_bytes` is for all parts together."""
    from flwr.app import ConfigRecord

    header, parts = records.get(HEADER), records.get(PARTS)
    if set(records) != {HEADER, PARTS} or not (isinstance(header, ConfigRecord) and isinstance(parts, ConfigRecord)):
        raise PeerViolation("a message has another form than this version's: run the same version on both sides")
    text, received = header.get(TEXT), dict(parts)
    if not isinstance(text, str) or len(text) > MAX_HEADER_BYTES or len(received) > MAX_PARTS:
        raise PeerViolation("a message's header is missing or too long: run the same version on both sides")
    checked: dict[str, bytes] = {}
    for name, value in received.items():
        if not isinstance(value, bytes):
            raise PeerViolation("a message's part is not bytes: run the same version on both sides")
        checked[name] = value
    if sum(map(len, checked.values())) > max_bytes:
        raise PeerViolation(f"a message is longer than the {max_bytes} bytes that this model needs")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise PeerViolation("a message's header is not JSON: run the same version on both sides") from None
    if not isinstance(content, dict):
        raise PeerViolation("a message's header is not an object: run the same version on both sides")
    return Letter(header=content, parts=checked)
