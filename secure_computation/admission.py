"""The first frame of every connection between parties: the ticket that allows it.

Whoever dials presents the ticket; whoever listens checks it against the front end's pinned keys and against the
certificate of the other end. A ticket names organisations only: it can forbid a conversation, never introduce a key.

Nothing is taken for a session before its ticket was checked. Whoever shows none waits for a moment, in a bounded room,
where the newest of its own organisation pushes out the oldest.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.errors import TicketInvalid
from contract.identity import Party, Role
from contract.ticket import (
    LEEWAY,
    STOCKED_ENGINES,
    TICKET_SECONDS,
    Purpose,
    TicketClaims,
    load_public_key,
    verify_ticket,
)
from plumbing.lobby import Lobby
from plumbing.settings import SessionPartySettings
from secure_computation.channel.channel import Channel
from secure_computation.material import ItemName, item_name
from secure_computation.places import Places

STEP: Final = "ticket"
STOCKED_ITEM_STEP: Final = "stocked items"
"""Follows a ticket to diagnose with an engine whose material can be stocked: the data owner names the items that it
wants to spend, one for each image, or none, and their deal tags; the model owner repeats the names with its own tags,
or gives none if it lacks an item."""
FIRST_WORD_SECONDS: Final = 10.0
"""For the ticket."""
FIRST_WORD_BYTES: Final = 128 << 10
"""What is taken in of a party before its ticket has been accepted, and one message more; what it sends ahead waits."""
WAITING: Final = 128
"""Channels whose ticket is awaited; beyond, the oldest of the organisation with most of them is closed."""
WAITING_EACH: Final = 16
"""The same, of one organisation."""


def present_ticket(channel: Channel, ticket: str) -> None:
    """Send the ticket that allows this connection."""
    channel.send_hello({"ticket": ticket}, step=STEP)


class Reception:
    """Admits the parties of sessions. For use by several threads."""

    @classmethod
    def of(cls, own: Party, settings: SessionPartySettings, places: Places) -> Self:
        """As a party's settings say. Raises ConfigurationError for a key that cannot be read."""
        return cls(
            own=own,
            public_keys=[load_public_key(path) for path in settings.ticket_keys],
            places=places,
            leeway=settings.credentials.clock_skew,
            longest_ticket=settings.ticket_seconds,
        )

    def __init__(
        self,
        *,
        own: Party,
        public_keys: Sequence[Ed25519PublicKey],
        places: Places,
        leeway: timedelta = LEEWAY,
        longest_ticket: int = TICKET_SECONDS,
    ) -> None:
        """Admit to `own`'s server, by tickets signed by any of `public_keys`.

        `leeway`: how far this machine's clock may be from the front end's. `longest_ticket`: seconds that a ticket may
        live.
        """
        self._own = own
        self._public_keys = public_keys
        self._places = places
        self._leeway = leeway
        self._longest_ticket = longest_ticket
        self._waiting = Lobby(seats=WAITING, seats_each=WAITING_EACH)

    def admit(self, channel: Channel) -> tuple[str, TicketClaims]:
        """Receive and check the ticket of whoever dialled; return it as it came, and what it says.

        Raises TicketInvalid unless it is genuine, in time, to diagnose or for material that can be stocked, and names
        both ends of this channel.
        """

        def show_out() -> None:
            channel.cancel("too many channels of this party show no ticket")

        self._waiting.enter(channel, str(channel.peer), show_out)
        try:
            with channel.held_back(FIRST_WORD_BYTES):
                return self._check_ticket(channel)
        finally:
            self._waiting.let_go(channel)

    def _check_ticket(self, channel: Channel) -> tuple[str, TicketClaims]:
        wait_seconds = min(FIRST_WORD_SECONDS, channel.deadlines.step_seconds)
        ticket = channel.receive_hello(step=STEP, wait_seconds=wait_seconds).get("ticket")
        if not isinstance(ticket, str):
            raise TicketInvalid(f"{channel.peer} presented no ticket: update it to the same version")
        claims = verify_ticket(
            ticket,
            public_keys=self._public_keys,
            now=datetime.now(tz=UTC),
            party=self._own,
            leeway=self._leeway,
            longest=self._longest_ticket,
        )
        claims.require_party(channel.peer)
        if claims.purpose is Purpose.PREPARE and claims.engine not in STOCKED_ENGINES:
            raise TicketInvalid(
                f"the ticket is to prepare for the engine '{claims.engine.value}', whose material cannot be stocked; "
                "open a session to diagnose"
            )
        return ticket, claims

    def place(self, claims: TicketClaims, role: Role) -> AbstractContextManager[None]:
        """A place for the party of this role in a ticket's session. Raises Busy if none is free."""
        return self._places.place(claims, role)


def items_of(claims: TicketClaims) -> tuple[ItemName, ...]:
    """Name the items of correlated randomness that a ticket's session may prepare: one for each image."""
    return tuple(item_of(claims, index) for index in range(claims.images))


def item_of(claims: TicketClaims, index: int = 0) -> ItemName:
    """Name the item of a ticket's image number `index`."""
    return item_name(
        session=str(claims.session),
        plan_hash=claims.plan_hash,
        data_owner=claims.data_owner,
        model_owner=claims.model_owner,
        version=f"{claims.model} {claims.version}",
        index=index,
    )
