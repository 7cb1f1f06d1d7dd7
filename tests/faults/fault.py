"""What can go wrong between two processes, and where: one fault is one thing done to one message of one link."""

from dataclasses import dataclass
from enum import StrEnum


class Link(StrEnum):
    """Who dials whom. The parties' links carry TLS inside WebSocket; the front end's carry HTTP."""

    OWNERS = "data owner to model owner"
    DEALING_TO_DATA_OWNER = "data owner to crypto provider"
    DEALING_TO_MODEL_OWNER = "model owner to crypto provider"
    FRONT_END = "data owner to front end"
    REPORTS = "model owner to front end"


class Way(StrEnum):
    """Which of a link's two streams."""

    OUT = "from who dialled"
    BACK = "to who dialled"


class Kind(StrEnum):
    """What happens to the message."""

    CUT = "cut"
    """The connection ends without a word, in the place of the message."""
    STALL = "stall"
    """The message and all that follow it never arrive; the connection stays open."""
    DELAY = "delay"
    """The message, and with it all behind it, arrives late, well within every deadline."""
    DROP = "drop"
    """The message never arrives; those behind it do."""
    DUPLICATE = "duplicate"
    """The message arrives twice."""
    REORDER = "reorder"
    """The message arrives after the one behind it."""
    CORRUPT = "corrupt"
    """One bit of the message is another."""


HARMLESS = frozenset({Kind.DELAY})
"""After these a session must end as if nothing had happened."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`number` counts the messages that passed on the link, that way, since the scenario began, from 0."""

    kind: Kind
    link: Link
    way: Way
    number: int

    def __str__(self) -> str:
        """For people: `cut, message 3 from who dialled, data owner to model owner`."""
        return f"{self.kind.value}, message {self.number} {self.way.value}, {self.link.value}"
