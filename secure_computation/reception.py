"""From a party's certificate to its place: its ticket is read and checked before anything is taken for it.

Whoever shows none waits for a moment, in a bounded room, where its own organisation's newest pushes out the oldest.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.identity import Party, Role
from contract.ticket import LEEWAY, TICKET_SECONDS, TicketClaims, load_public_key
from plumbing.lobby import Lobby
from plumbing.settings import SessionPartySettings
from secure_computation.admission import admit
from secure_computation.channel.channel import Channel
from secure_computation.places import Places

FIRST_WORD_SECONDS: Final = 10.0
"""For the ticket."""
FIRST_WORD_BYTES: Final = 128 << 10
"""What is taken in of a party before its ticket has been accepted, and one message more; what it sends ahead waits."""
WAITING: Final = 128
"""Channels whose ticket is awaited; beyond, the oldest of the organisation with most of them is closed."""
WAITING_EACH: Final = 16
"""The same, of one organisation."""


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
        """Admit to `own`'s server, by tickets signed by any of `public_keys`; the rest as in `admission.admit`."""
        self._own = own
        self._public_keys = public_keys
        self._places = places
        self._leeway = leeway
        self._longest_ticket = longest_ticket
        self._waiting = Lobby(seats=WAITING, seats_each=WAITING_EACH)

    def admit(self, channel: Channel) -> tuple[str, TicketClaims]:
        """Receive and check the ticket of whoever dialled; see `admission.admit`."""

        def show_out() -> None:
            channel.cancel("too many channels of this party show no ticket")

        self._waiting.enter(channel, str(channel.peer), show_out)
        try:
            with channel.held_back(FIRST_WORD_BYTES):
                return admit(
                    channel,
                    own=self._own,
                    public_keys=self._public_keys,
                    leeway=self._leeway,
                    longest_ticket=self._longest_ticket,
                    wait_seconds=min(FIRST_WORD_SECONDS, channel.deadlines.step_seconds),
                )
        finally:
            self._waiting.let_go(channel)

    def place(self, claims: TicketClaims, role: Role) -> AbstractContextManager[None]:
        """A place for the party of this role in a ticket's session. Raises Busy where none is free."""
        return self._places.place(claims, role)
