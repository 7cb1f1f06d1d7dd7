"""What parties sign about one item of material, and the record of a data owner that did not follow the protocol.

Three parties say something about an item, each with the key of its certificate:

    D     `DecoyStatement`     this item is a decoy: these are the openings that P0 gets, and P0's right answers to them
    P0    `SessionStatement`   these are the openings that I got, and the answers that I sent
    P1    `ViolationRecord`    all of the above, put together, and where the two differ

Each message is told by its SHA-256 alone, so that nothing here can hold an image, a share or a seed. The masked image
is not among the messages: what P0 sends before the first opening depends on the image, and no one could check it.
"""

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from contract.api import Voucher
from contract.base import Name, Sha256, Strict, Version, canonical_json

MOST_AUDITED: Final = 0.5
"""Of a model owner's items, the largest share that may be decoys."""
MAX_RECORD_BYTES: Final = 8 << 20
MAX_MESSAGES: Final = 16_384
"""Of one item: a network of a thousand layers has some 2,000."""

LAST_MOMENT: Final = 1 << 37
"""In the year 6325: every moment before has a date."""

Moment = Annotated[int, Field(ge=0, lt=LAST_MOMENT)]
"""Seconds since 1970 (UTC)."""
StepName = Annotated[str, Field(pattern=r"^[ -~]{1,240}$")]
"""Of a message: what both parties call it on the wire."""
DealTag = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""16 bytes that D derives from both seeds of an item and tells both parties."""
AccountId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class Sender(StrEnum):
    """Who sent a message."""

    DATA_OWNER = "data-owner"
    MODEL_OWNER = "model-owner"


class Message(Strict):
    """One message between P0 and P1, without what it says."""

    sender: Sender
    step: StepName
    sha256: Sha256
    """Of its body."""


Messages = Annotated[tuple[Message, ...], Field(max_length=MAX_MESSAGES)]


def hash_messages(messages: Iterable[Message]) -> str:
    """The hash of messages in their order."""
    running = hashlib.sha256()
    for message in messages:  # no step's name has a line feed, so no two lists of messages are written alike
        running.update(f"{message.sender.value}\n{message.step}\n{message.sha256}\n".encode("ascii"))
    return running.hexdigest()


class ItemOfParties(Strict):
    """Which item of material, of whom, for what. Every statement begins with it."""

    item: Sha256
    """The item's name."""
    deal_tag: DealTag
    """Tells two dealings of one item apart, which have different seeds and so different answers."""
    model: Name
    version: Version
    plan_hash: Sha256
    data_owner: Name
    model_owner: Name
    crypto_provider: Name


class DecoyStatement(Strict):
    """D, of a decoy that it dealt: every opening that P0 gets and every answer that is right, in P0's order."""

    item: ItemOfParties
    at: Moment
    messages: Messages

    def statement(self) -> bytes:
        """What D signs."""
        return canonical_json(self)


class SessionStatement(Strict):
    """P0, at its last answer: what it sent ahead, and what it got and sent in the session."""

    item: ItemOfParties
    session: UUID
    """That spends the item."""
    ticket: UUID
    at: Moment
    uploads: Sha256
    """`hash_messages` of what P0 sent ahead for this item."""
    messages: Sha256
    """`hash_messages` of openings and answers, in P0's order: each opening stands before its answer."""

    def statement(self) -> bytes:
        """What P0 signs."""
        return canonical_json(self)


class Found(StrEnum):
    """Of what kind the message is that was wrong."""

    ANSWER = "answer"
    """P0's answer to an opening: D says which is right."""
    UPLOAD = "upload"
    """What P0 sent ahead: only P1, which has the weights, can say what is right."""


class ViolationRecord(Strict):
    """P1: in this session, this data owner sent something else than the protocol asks for."""

    form: Literal["encrypted-inference-violation/1"] = "encrypted-inference-violation/1"
    at: Moment
    account: AccountId
    """That opened the session, as the front end's ticket has it."""
    item: ItemOfParties
    session: UUID
    ticket: UUID
    found: Found
    position: Annotated[int, Field(ge=0, lt=MAX_MESSAGES)]
    """Of the wrong message: in `messages`, or in `uploads`."""
    uploads: Messages
    """What P1 got ahead."""
    messages: Messages
    """What P1 sent and got in the session, up to its end or to where it broke off, in P0's order."""
    decoy: DecoyStatement
    decoy_voucher: Voucher | None
    """D's, for `decoy`; None if it did not sign: then the record shows nothing."""
    signed: SessionStatement | None
    """None: P0 broke the session off before it had signed."""
    signed_voucher: Voucher | None
    """P0's, for `signed`."""
    voucher: Voucher | None = None
    """P1's own, for everything above."""

    @model_validator(mode="after")
    def _the_position_is_of_a_message(self) -> Self:
        listed = self.messages if self.found is Found.ANSWER else self.uploads
        if self.position >= len(listed) or listed[self.position].sender is not Sender.DATA_OWNER:
            raise ValueError("the position is not that of a message of the data owner")
        if (self.signed is None) != (self.signed_voucher is None):
            raise ValueError("a statement and its signature go together")
        return self

    @property
    def step(self) -> str:
        """Name of the wrong message."""
        return (self.messages if self.found is Found.ANSWER else self.uploads)[self.position].step

    def statement(self) -> bytes:
        """What P1 signs."""
        return canonical_json(self.model_copy(update={"voucher": None}))

    def encode(self) -> bytes:
        """The one way in which a record is written to a file."""
        return canonical_json(self) + b"\n"

    def hash(self) -> str:
        """SHA-256 of its file, which stands in the model owner's audit log."""
        return hashlib.sha256(self.encode()).hexdigest()
