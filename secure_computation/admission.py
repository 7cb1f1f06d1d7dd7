"""The first frame of every connection between parties: the ticket that allows it.

Whoever dials presents the ticket; whoever listens checks it against the front end's pinned keys and against the
certificate of the other end. A ticket names organisations only: it can forbid a conversation, never introduce a key.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.errors import TicketInvalid
from contract.identity import Party
from contract.ticket import LEEWAY, STOCKED_ENGINES, TICKET_SECONDS, Purpose, TicketClaims, verify_ticket
from secure_computation.channel.channel import Channel
from secure_computation.material import ItemName, item_name

STEP: Final = "ticket"
STOCKED_ITEM_STEP: Final = "stocked items"
"""Follows a ticket to diagnose with an engine whose material can be stocked: the data owner names the items that it
wants to spend, one for each image, or none; the model owner repeats the names, or gives none where it lacks an item."""


def present_ticket(channel: Channel, ticket: str) -> None:
    """Send the ticket that allows this connection."""
    channel.send_hello({"ticket": ticket}, step=STEP)


def admit(
    channel: Channel,
    *,
    own: Party,
    public_keys: Sequence[Ed25519PublicKey],
    leeway: timedelta = LEEWAY,
    longest_ticket: int = TICKET_SECONDS,
    wait_seconds: float | None = None,
) -> tuple[str, TicketClaims]:
    """Receive and check the ticket of whoever dialled; return it as it came, and what it says.

    Raises TicketInvalid unless it is genuine, in time, to diagnose or for material that can be stocked, and names both
    ends of this channel. `leeway`: how far this machine's clock may be from the front end's. `longest_ticket`: seconds
    that a ticket may live. `wait_seconds`: for the ticket to come; as for any other message where left out.
    """
    ticket = channel.receive_hello(step=STEP, wait_seconds=wait_seconds).get("ticket")
    if not isinstance(ticket, str):
        raise TicketInvalid(f"{channel.peer} presented no ticket: update it to the same version")
    claims = verify_ticket(
        ticket,
        public_keys=public_keys,
        now=datetime.now(tz=UTC),
        party=own,
        leeway=leeway,
        longest=longest_ticket,
    )
    claims.require_party(channel.peer)
    if claims.purpose is Purpose.PREPARE and claims.engine not in STOCKED_ENGINES:
        raise TicketInvalid(
            f"the ticket is to prepare for the engine '{claims.engine.value}', whose material cannot be stocked; "
            "open a session to diagnose"
        )
    return ticket, claims


def items_of(claims: TicketClaims) -> tuple[ItemName, ...]:
    """Name the items of correlated randomness that a ticket's session may prepare: one for each image."""
    return tuple(_item_of(claims, index) for index in range(claims.images))


def item_of(claims: TicketClaims) -> ItemName:
    """Name the item of a ticket's only image, or of its first."""
    return _item_of(claims, 0)


def _item_of(claims: TicketClaims, index: int) -> ItemName:
    return item_name(
        session=str(claims.session),
        plan_hash=claims.plan_hash,
        data_owner=claims.data_owner,
        model_owner=claims.model_owner,
        version=f"{claims.model} {claims.version}",
        index=index,
    )
