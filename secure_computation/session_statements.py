"""What D signs of a decoy, and P0 of a session.

D signs, when it deals a decoy, what its messages have to be. P0 signs, at its last answer, what it got and sent for
each item, decoy or not; P1 gives no output before it has that.

P0 -> P1, right behind its last answer and before P1's share of the output, so that nobody waits for it:

    {"at": seconds since 1970, "certificate": PEM, "signatures": [r and s in hexadecimal, for each item in order]}

P1 puts each statement together from what it has itself, and takes the signature only if it is P0's for exactly that.
docs/protocol.md says what this shows to whom.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from authority.certificates import PartyCertificate
from authority.vouching import Domain, Signer, find_signer, is_canonical
from contract.api import Voucher
from contract.errors import PeerViolation
from contract.identity import Party
from contract.ticket import TicketClaims
from contract.violation import LAST_MOMENT, DecoyStatement, ItemOfParties, Message, SessionStatement, hash_messages
from secure_computation.channel.channel import Channel
from secure_computation.channel.trust import Trust

STEP: Final = "signed session"
_DIGITS: Final = 64
_SIGNATURE: Final = re.compile(rf"[0-9a-f]{{{2 * _DIGITS}}}")


@dataclass(frozen=True, kw_only=True)
class ItemMessages:
    """What P0 sent ahead for an item, got and sent, as either party has it."""

    item: str
    deal_tag: bytes
    uploads: str
    """`hash_messages` of them: P0 keeps no more of a stocked item."""
    messages: tuple[Message, ...] = field(repr=False)
    """Online, in P0's order."""


class _Item(Protocol):
    """Either party's material of an item."""

    @property
    def item(self) -> str: ...
    @property
    def deal_tag(self) -> bytes: ...
    @property
    def uploads(self) -> str: ...


class _Noted(Protocol):
    def messages(self) -> tuple[Message, ...]: ...


def sum_up(item: _Item, noted: _Noted | None) -> ItemMessages:
    """What is signed of an item. `noted`: what crossed online; None if nothing did."""
    messages = noted.messages() if noted is not None else ()
    return ItemMessages(item=item.item, deal_tag=item.deal_tag, uploads=item.uploads, messages=messages)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """P0's statement of an item, and its signature."""

    statement: SessionStatement
    voucher: Voucher


def describe_item(claims: TicketClaims, *, item: str, deal_tag: bytes) -> ItemOfParties:
    """An item as all statements name it."""
    return ItemOfParties(
        item=item,
        deal_tag=deal_tag.hex(),
        model=claims.model,
        version=claims.version,
        plan_hash=claims.plan_hash,
        data_owner=claims.data_owner,
        model_owner=claims.model_owner,
        crypto_provider=claims.crypto_provider,
    )


def _state(claims: TicketClaims, one: ItemMessages, *, at: int) -> SessionStatement:
    return SessionStatement(
        item=describe_item(claims, item=one.item, deal_tag=one.deal_tag),
        session=claims.session,
        ticket=claims.jti,
        at=at,
        uploads=one.uploads,
        messages=hash_messages(one.messages),
    )


@dataclass(frozen=True, kw_only=True)
class DecoySigning:
    """D: signs what the messages of decoys have to be."""

    claims: TicketClaims
    """Of the session in which they are dealt."""
    signer: Signer
    clock: Callable[[], float] = time.time

    def sign(self, messages: tuple[Message, ...], *, item: str, deal_tag: bytes) -> tuple[int, Voucher]:
        """When it was signed, in seconds since 1970 (UTC), and the signature."""
        about, at = describe_item(self.claims, item=item, deal_tag=deal_tag), int(self.clock())
        statement = DecoyStatement(item=about, at=at, messages=messages)
        return at, self.signer.sign(statement.statement(), Domain.DECOY)


@dataclass(frozen=True, kw_only=True)
class SessionSigning:
    """P0: signs a session."""

    claims: TicketClaims
    signer: Signer
    clock: Callable[[], float] = time.time

    def send(self, channel: Channel, items: Sequence[ItemMessages]) -> None:
        """Sign what is there of each item."""
        at = int(self.clock())
        statements = [_state(self.claims, one, at=at).statement() for one in items]
        signatures = [_pack(self.signer.sign(statement, Domain.SESSION)) for statement in statements]
        channel.send_hello({"at": at, "certificate": self.signer.certificate, "signatures": signatures}, step=STEP)


@dataclass(frozen=True, kw_only=True)
class SessionWitness:
    """P1: takes P0's signatures."""

    claims: TicketClaims
    trust: Trust
    """By whose clock P0's certificate is judged."""
    still_served: Callable[[], None] = lambda: None
    """Raises an error of the tree if this P0 is to get no output after all, whatever it signed."""
    taken: dict[str, Signed] = field(default_factory=dict, init=False)
    """What was signed, by the item's name."""

    def receive(self, channel: Channel, items: Sequence[ItemMessages]) -> None:
        """Take P0's statement of each item. Raises PeerViolation if it signed anything else, or nothing.

        A third party judges the certificate by the time in the statement, so that time must be true.
        """
        fields = channel.receive_hello(step=STEP)
        at, certificate, signatures = (fields.get(name) for name in ("at", "certificate", "signatures"))
        if not isinstance(at, int) or not 0 <= at < LAST_MOMENT:
            raise _refusal(channel.peer, "update it to the same version")
        if abs(at - self.trust.clock().timestamp()) > self.trust.skew.total_seconds() + 1:
            raise _refusal(channel.peer, "its clock and this one are too far apart: set both")
        if not isinstance(signatures, list) or len(signatures) != len(items):
            raise _refusal(channel.peer, "update it to the same version")
        for one, signature in zip(items, signatures, strict=True):
            self.taken[one.item] = self._check(channel.peer, _state(self.claims, one, at=at), certificate, signature)
        self.still_served()

    def _check(self, peer: Party, statement: SessionStatement, certificate: Any, signature: Any) -> Signed:
        try:
            voucher = Voucher(certificate=certificate, signature=_unpack(signature))
        except (ValueError, TypeError):
            raise _refusal(peer, "update it to the same version") from None
        encoded = find_signer(voucher, statement.statement(), self.trust.authority, domain=Domain.SESSION)
        if encoded is None:
            raise _refusal(peer, "what it signed is not what it sent; both sides must run the same version")
        own, moment = PartyCertificate.from_der(encoded), datetime.fromtimestamp(statement.at, UTC)
        if self.trust.judge(encoded, found_at=f"the signature of the {peer}") != peer or not is_canonical(voucher):
            raise _refusal(peer, "it signed with another certificate than that of the connection")
        if not own.begins <= moment <= own.ends:
            raise _refusal(peer, "its certificate is out of date: renew it")
        return Signed(statement=statement, voucher=voucher)


def _pack(voucher: Voucher) -> str:
    """A signature in a length that is always the same: DER's tells how many zeros r and s begin with."""
    r, s = decode_dss_signature(bytes.fromhex(voucher.signature))
    return f"{r:0{_DIGITS}x}{s:0{_DIGITS}x}"


def _unpack(signature: object) -> str:
    """DER in hexadecimal, of what `_pack` wrote. Raises ValueError or TypeError for anything else."""
    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        raise ValueError("not a signature")
    return encode_dss_signature(int(signature[:_DIGITS], 16), int(signature[_DIGITS:], 16)).hex()


def _refusal(peer: Party, why: str) -> PeerViolation:
    return PeerViolation(f"{peer} did not sign what it sent in this session, and gets no output: {why}")
