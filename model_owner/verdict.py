"""Whether a record of a violation shows anything, checked with the authority's certificate alone, by anybody.

A record stands if three signatures and one comparison hold together:

    D signed        of this item, what P0 gets and what it has to answer (a decoy: D drew the openings itself)
    P0 signed       what it got and what it answered
    the two lists   are equal up to the wrong message, which is P0's
    P1 signed       the whole record, so that it says nothing that its owner does not stand for

P0's answer to an opening follows from its seed and that opening. So a P0 that follows the protocol never signs an
opening that D stated with an answer that D did not state, whatever P1 sends: P1 can make no such record alone. And a P0
whose answer was wrong has signed that it gave it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from pydantic import ValidationError

from authority.certificates import PartyCertificate, show_time
from authority.revocation import RevocationList
from authority.vouching import Domain, find_signer, is_canonical
from contract.api import Voucher
from contract.errors import CallerError, PeerViolation
from contract.files import read_bounded
from contract.identity import Party, Role
from contract.violation import MAX_RECORD_BYTES, Found, Message, SessionStatement, ViolationRecord, hash_messages

CLOCKS_APART: Final = timedelta(hours=1)
"""How far the clocks of those who signed may be from each other."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a record shows, in plain sentences."""

    record: ViolationRecord
    shown: tuple[str, ...]
    not_shown: tuple[str, ...]
    stands: bool
    """Whether it shows a third party that the data owner deviated."""

    @property
    def accused(self) -> Party:
        return _accused(self.record)

    def lines(self) -> tuple[str, ...]:
        """All of it, for people."""
        record, item = self.record, self.record.item
        about = f"session {record.session}, {item.model} {item.version}, item {item.item[:12]}"
        return (
            f"Record of {about}, against the {self.accused}",
            "Shown:",
            *(f"  {line}" for line in self.shown),
            "Not shown:",
            *(f"  {line}" for line in self.not_shown),
        )


@dataclass(frozen=True, kw_only=True)
class ThirdParty:
    """What somebody has who checks a record."""

    authority: x509.Certificate
    revocations: RevocationList | None = None


def read_record(path: Path) -> ViolationRecord:
    """Read a record from outside. Raises CallerError unless it is exactly as one is written."""
    content = read_bounded(path, limit=MAX_RECORD_BYTES)
    wrong = CallerError(
        f"{path}: is not a record of a violation as it was written; give the file that the model owner kept"
    )
    try:
        record = ViolationRecord.model_validate_json(content)
    except ValidationError:
        raise wrong from None
    if record.encode() != content:
        raise wrong
    return record


def judge(record: ViolationRecord, by: ThirdParty) -> Verdict:
    """What a record shows. Raises PeerViolation if anything in it does not hold: then it shows nothing at all."""
    item = record.item
    accuser = Party(role=Role.MODEL_OWNER, organisation=item.model_owner)
    dealer = Party(role=Role.CRYPTO_PROVIDER, organisation=item.crypto_provider)
    _require_signed(accuser, record.voucher, record.statement(), Domain.VIOLATION, at=record.at, by=by)
    _require_signed(dealer, record.decoy_voucher, record.decoy.statement(), Domain.DECOY, at=record.decoy.at, by=by)
    if record.decoy.item != item:
        raise _refusal(f"what the {dealer} signed is about another item than the record")
    if record.signed is not None:
        _require_said_by_data_owner(record, record.signed, by)
    if record.found is Found.UPLOAD:
        return _judge_upload(record)
    _require_wrong_answer(record, dealer)
    return _judge_answer(record, by)


def _require_said_by_data_owner(record: ViolationRecord, signed: SessionStatement, by: ThirdParty) -> None:
    accused = _accused(record)
    _require_signed(accused, record.signed_voucher, signed.statement(), Domain.SESSION, at=signed.at, by=by)
    if (signed.item, signed.session, signed.ticket) != (record.item, record.session, record.ticket):
        raise _refusal(f"what the {accused} signed is about another item or session than the record")
    if (signed.uploads, signed.messages) != (hash_messages(record.uploads), hash_messages(record.messages)):
        raise _refusal(f"the {accused} signed other messages than the record lists")
    moments = [datetime.fromtimestamp(at, UTC) for at in (record.decoy.at, signed.at, record.at)]
    if any(later + CLOCKS_APART < earlier for earlier, later in pairwise(moments)):
        raise _refusal("its parts are not signed in the order in which they can have come about")


def _require_wrong_answer(record: ViolationRecord, dealer: Party) -> None:
    """Raise PeerViolation unless the message at the record's position is the first that D did not state."""
    stated, position = record.decoy.messages, record.position
    seen = record.messages[: position + 1]
    first = next(
        (index for index, message in enumerate(seen) if index >= len(stated) or stated[index] != message), None
    )
    if first is None:
        raise _refusal(f"the answer that it complains of is the one that the {dealer} says is right")
    if first < position:
        raise _refusal(
            f"message {first + 1}, '{seen[first].step}', is not the one that the {dealer} stated: what follows it may "
            "well be right"
        )
    if position >= len(stated) or _place(stated[position]) != _place(seen[position]):
        raise _refusal(f"the {dealer} stated no answer in the place of the one that it complains of")


def _place(message: Message) -> tuple[str, str]:
    return message.sender, message.step


def _judge_answer(record: ViolationRecord, by: ThirdParty) -> Verdict:
    item, accused = record.item, _accused(record)
    stated = (
        f"The crypto provider {item.crypto_provider} signed that this item is a decoy, which openings the data owner "
        "gets and how it has to answer."
    )
    if record.signed is None:
        unsigned = (
            f"That the {accused} gave this answer: it broke the session off before it had signed what it sent, and got "
            "no output."
        )
        return Verdict(record=record, shown=(stated, _accusation(record)), not_shown=(unsigned,), stands=False)
    said = f"The {accused} signed which openings it got and what it answered to each, on {_show(record.signed.at)}."
    differs = (
        f"Up to '{record.step}' the two are equal, and there the answer is another one than the right one. Software "
        "that follows the protocol gives no such answer, whatever the model owner sends."
    )
    return Verdict(
        record=record,
        shown=(stated, said, differs),
        not_shown=(
            "Why: intent, a changed program and a faulty machine look the same.",
            f"Who it was at {accused.organisation}: the account stands in the record on the front end's word.",
            f"That {item.crypto_provider} and {item.model_owner} do not work together: the two could make this up.",
            *_not_looked_at(by),
        ),
        stands=True,
    )


def _judge_upload(record: ViolationRecord) -> Verdict:
    accused = _accused(record)
    signed = () if record.signed is None else (f"The {accused} signed what it had sent ahead for this item.",)
    unknown = (
        f"That '{record.step}' was wrong: what is right follows from the masked weights, which the crypto provider "
        "does not know. It is the model owner's word."
    )
    return Verdict(record=record, shown=(*signed, _accusation(record)), not_shown=(unknown,), stands=False)


def _accusation(record: ViolationRecord) -> str:
    return (
        f"The model owner {record.item.model_owner} signed, on {_show(record.at)}, that '{record.step}' was not what "
        "the protocol asks for."
    )


def _not_looked_at(by: ThirdParty) -> tuple[str, ...]:
    if by.revocations is not None:
        return ()
    return ("Whether a certificate was revoked before: give the authority's list with --revocations.",)


def _accused(record: ViolationRecord) -> Party:
    return Party(role=Role.DATA_OWNER, organisation=record.item.data_owner)


def _show(at: int) -> str:
    return show_time(datetime.fromtimestamp(at, UTC))


def _refusal(why: str) -> PeerViolation:
    return PeerViolation(f"the record shows nothing: {why}")


def _require_signed(
    party: Party, voucher: Voucher | None, statement: bytes, domain: Domain, *, at: int, by: ThirdParty
) -> None:
    """Raise PeerViolation unless `party` signed `statement` with a certificate that was good at that time."""
    encoded = find_signer(voucher, statement, by.authority, domain=domain) if voucher is not None else None
    if voucher is None or encoded is None:
        raise _refusal(f"its part of the {party} is not signed with a certificate of this authority, or was altered")
    if not is_canonical(voucher):
        raise _refusal(f"the certificate of the {party} is not written as it was signed")
    certificate, moment = PartyCertificate.from_der(encoded), datetime.fromtimestamp(at, UTC)
    if certificate.party != party:
        raise _refusal(f"its part of the {party} is signed by the {certificate.party}")
    if not certificate.begins <= moment <= certificate.ends:
        raise _refusal(f"the certificate of the {party} was not valid on {show_time(moment)}, when it signed")
    if _was_revoked(certificate, moment, by.revocations):
        raise _refusal(f"the certificate of the {party} had been revoked on {show_time(moment)}, when it signed")


def _was_revoked(certificate: PartyCertificate, moment: datetime, revocations: RevocationList | None) -> bool:
    """By a list that names the key alone, it counts as revoked from the beginning."""
    if revocations is None or not revocations.refuses(certificate):
        return False
    since = revocations.revoked_at(certificate.serial)
    return since is None or since <= moment
