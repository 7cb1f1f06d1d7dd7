"""What an engine does in a session, for the parties that run it. Every engine has these three sides.

    offline    dealer.deal                 data_owner.prepare           model_owner.prepare
    online                                 data_owner.run               model_owner.run

A side is made for one plan and may serve any number of sessions; it keeps nothing of them. A session evaluates one
image or, with an engine that can (`choosing.require_room`), several. Each takes an item of material of its own; items
are prepared one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.api import Voucher
from contract.identity import Role
from contract.violation import Message
from secure_computation.channel.channel import Channel
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.session_statements import SessionSigning, SessionWitness

OnLayer = Callable[[int, int, str], None]
"""Progress: (index, total, name of the operation), called before each operation."""


@dataclass(frozen=True)
class Label:
    """The answer of a model that gives labels only."""

    index: int | None = field(repr=False)
    """Of the class; None if what was opened is no label, because a party deviated. Not an error, because the model
    owner would see it, and it could depend on the image: refuse it after the session has ended like any other."""


SignDecoy: TypeAlias = Callable[[tuple[Message, ...]], tuple[int, Voucher]]
"""D: sign what the messages of a decoy are; when (seconds since 1970), and the signature."""

Answer: TypeAlias = NDArray[np.float64] | Label
"""Logits, shape (classes,), or a label: the plan says which."""


@dataclass(frozen=True)
class Audited:
    """In place of an answer: the item was a decoy, by which the model owner checked this party, and all was right.

    The image was not evaluated: have it evaluated again, with another item.
    """


Reply: TypeAlias = Answer | Audited
"""What a session gives for an image."""


def require_answers(replies: Sequence[Reply]) -> tuple[Answer, ...]:
    """The answers of a session that was to have no decoys. Raises TypeError if it had one."""
    answers = tuple(reply for reply in replies if not isinstance(reply, Audited))
    if len(answers) != len(replies):
        raise TypeError("the item of an image was a decoy, which gives no answer")
    return answers


OnAudits: TypeAlias = Callable[[int], None]
"""Told, before the data owner is, how many images of a session got no answer because their items were decoys."""

OnHeatMap: TypeAlias = Callable[[NDArray[np.float64]], None]
"""Given the class activation maps, shape (classes, height, width), as they were opened: truncated."""

Prepared = TypeVar("Prepared")
"""One party's material of one item. Used for one image."""


class DealerSide(Protocol):
    """D."""

    def deal(
        self, channel: Channel, *, to: Role, item: ItemName, seeds: DealtSeeds, sign: SignDecoy | None = None
    ) -> None:
        """Send the data owner or the model owner its half of an item.

        `sign`: vouches for what a decoy's messages have to be, with an engine that has decoys.
        """
        ...


class DataOwnerSide(Protocol, Generic[Prepared]):
    """P0."""

    def get_ready(self, model_owner: str) -> None:
        """Before a session with this organisation in which material is prepared: do what needs no peer.

        May run in a thread of its own until `prepare` is called.
        """
        ...

    def prepare(self, *, item: ItemName, dealer: Channel, model_owner: Channel, patience_seconds: float) -> Prepared:
        """Offline: receive and make what the online phase needs. No image is needed for it.

        `patience_seconds`: how long a wait may take that includes dealing to the model owner.
        """
        ...

    def draw_ahead(self, prepared: Prepared) -> None:
        """Offline, if it is known that an image follows: do what would otherwise be done in its way."""
        ...

    def run(
        self,
        images: Sequence[NDArray[np.float32]],
        prepared: Sequence[Prepared],
        *,
        model_owner: Channel,
        on_layer: OnLayer,
        on_heat_map: OnHeatMap | None = None,
        signing: SessionSigning | None = None,
    ) -> tuple[Reply, ...]:
        """Online: the answers for images of the network's input shape, at least one, each with its own material.

        `on_heat_map` is given the heat map of each image that has an answer, in their order, if this engine and plan
        open one. `signing` signs what crossed, with an engine that has decoys; None: nobody asks for it.
        """
        ...


class ModelOwnerSide(Protocol, Generic[Prepared]):
    """P1."""

    def prepare(self, *, item: ItemName, dealer: Channel, data_owner: Channel) -> Prepared:
        """Offline: receive and make what the online phase needs."""
        ...

    def run(
        self,
        prepared: Sequence[Prepared],
        *,
        data_owner: Channel,
        on_audits: OnAudits | None = None,
        witness: SessionWitness | None = None,
    ) -> None:
        """Online: take part, with the material of each image, in the data owner's order; learns nothing.

        `witness` takes the data owner's signature before any output is sent, with an engine that has decoys.

        Raises DeviationError if an item was a decoy and the data owner did not follow the protocol.
        """
        ...
