"""What a decoy item found: a data owner that sent something else than the protocol has it send."""

from dataclasses import dataclass, field

from contract.api import Voucher
from contract.errors import PeerViolation
from contract.violation import Found, Message


@dataclass(frozen=True, kw_only=True)
class StatedDecoy:
    """What the crypto provider said of a decoy when it dealt it: all messages, in the order of `DecoyStatement`."""

    messages: tuple[Message, ...]
    at: int
    """Seconds since 1970 (UTC)."""
    voucher: Voucher | None = field(repr=False)
    """Its signature; None if it deals without a certificate, as in tests within one process."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The first message of a decoy that is not the right one. Hashes only: nothing here is secret."""

    item: str
    """Name of the item of material: 64 hexadecimal digits."""
    found: Found
    position: int
    """Of the wrong message: in `messages` or in `uploads`."""
    expected: str
    """SHA-256 of the right message."""
    uploads: tuple[Message, ...]
    """What the data owner sent ahead."""
    messages: tuple[Message, ...]
    """What it got and answered, up to the session's end or to where it broke off."""
    stated: StatedDecoy

    @property
    def wrong(self) -> Message:
        """The message that is not the right one."""
        return (self.uploads if self.found is Found.UPLOAD else self.messages)[self.position]


class DeviationError(PeerViolation, code="deviation"):
    """A decoy found that the data owner did not follow the protocol. It gets no answer."""

    def __init__(self, message: str, *, deviation: Deviation) -> None:
        """`deviation`: what was found, for the model owner's record."""
        super().__init__(message)
        self.deviation = deviation
