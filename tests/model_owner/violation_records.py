"""Records of violations for tests: right ones, and ones that a model owner made up."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from authority.certificates import PartyCertificate, read_certificate
from authority.enrolment import create_request, install_certificate, locate_credentials
from authority.signing import create_authority
from authority.vouching import Domain, Signer
from contract.identity import Party, Role
from contract.violation import (
    DecoyStatement,
    Found,
    ItemOfParties,
    Message,
    Sender,
    SessionStatement,
    ViolationRecord,
    hash_messages,
)
from model_owner.verdict import ThirdParty
from tests.signed_requests import sign_request

HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-mary")
OTHER_HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-anne")
LABORATORY = Party(role=Role.MODEL_OWNER, organisation="north-lab")
TRUST_CENTRE = Party(role=Role.CRYPTO_PROVIDER, organisation="trust-centre")
SESSION, TICKET = UUID(int=7), UUID(int=8)
WRONG: Final = 3
"""Position of the second answer."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def item(name: str = "item", **changes: Any) -> ItemOfParties:
    fields = {
        "item": digest(name),
        "deal_tag": "0f" * 16,
        "model": "tiny-chest",
        "version": "1.0.0",
        "plan_hash": digest("plan"),
        "data_owner": "st-mary",
        "model_owner": "north-lab",
        "crypto_provider": "trust-centre",
    }
    return ItemOfParties.model_validate(fields | changes)


def messages(*, wrong: int | None = None, until: int = 6) -> tuple[Message, ...]:
    """Three moves, an opening and its answer each. `wrong`: which is another than D states."""
    senders = (Sender.MODEL_OWNER, Sender.DATA_OWNER)
    return tuple(
        Message(
            sender=senders[index % 2],
            step=f"{('opening', 'answer')[index % 2]}, relu{index // 2} ({index // 2})",
            sha256=digest(f"{index}{' wrong' * (index == wrong)}"),
        )
        for index in range(until)
    )


UPLOADS = (Message(sender=Sender.DATA_OWNER, step="hidden share, relu0 (0)", sha256=digest("upload")),)


@dataclass(frozen=True)
class Parties:
    folder: Path
    signers: dict[Party, Signer]
    now: int

    @property
    def outsider(self) -> ThirdParty:
        return ThirdParty(authority=read_certificate(self.folder / "authority" / "authority.pem"))

    def sign(self, party: Party, statement: bytes, domain: Domain) -> Any:
        return self.signers[party].sign(statement, domain)

    def state(self, **changes: Any) -> SessionStatement:
        """What P0 signs at its last answer."""
        fields: dict[str, Any] = {
            "item": item(),
            "session": SESSION,
            "ticket": TICKET,
            "at": self.now,
            "uploads": hash_messages(UPLOADS),
            "messages": hash_messages(messages(wrong=WRONG)),
        }
        return SessionStatement.model_validate(fields | changes)

    def record(
        self,
        *,
        by: Party = HOSPITAL,
        dealt_by: Party = TRUST_CENTRE,
        accuser: Party = LABORATORY,
        decoy: DecoyStatement | None = None,
        signed: SessionStatement | None = None,
        seen: tuple[Message, ...] = messages(wrong=WRONG),
        **changes: Any,
    ) -> ViolationRecord:
        """A record of an answer that was wrong; whoever is named has signed its part."""
        decoy = decoy or DecoyStatement(item=item(), at=self.now, messages=messages())
        signed = signed or self.state(messages=hash_messages(seen))
        fields: dict[str, Any] = {
            "at": self.now,
            "account": "account",
            "item": item(),
            "session": SESSION,
            "ticket": TICKET,
            "found": Found.ANSWER,
            "position": WRONG,
            "uploads": UPLOADS,
            "messages": seen,
            "decoy": decoy,
            "decoy_voucher": self.sign(dealt_by, decoy.statement(), Domain.DECOY),
            "signed": signed,
            "signed_voucher": self.sign(by, signed.statement(), Domain.SESSION),
        }
        return self.accuse(ViolationRecord.model_validate(fields | changes), accuser=accuser)

    def accuse(self, record: ViolationRecord, *, accuser: Party = LABORATORY) -> ViolationRecord:
        voucher = self.sign(accuser, record.statement(), Domain.VIOLATION)
        return record.model_copy(update={"voucher": voucher})


def enrol_parties(folder: Path) -> Parties:
    """A new federation of four parties."""
    authority = folder / "authority"
    create_authority(authority)
    signers = {}
    for party in (HOSPITAL, OTHER_HOSPITAL, LABORATORY, TRUST_CENTRE):
        own = folder / party.organisation
        signed = own / "signed.pem"
        signed.parent.mkdir(parents=True)
        signed.write_bytes(sign_request(authority, create_request(party, own)))
        install_certificate(party, own, signed, authority=authority / "authority.pem")
        signers[party] = Signer.of(locate_credentials(party, own))
    begins = PartyCertificate.read(locate_credentials(HOSPITAL, folder / "st-mary").certificate).begins
    return Parties(folder=folder, signers=signers, now=int(begins.timestamp()) + 600)


def unsigned(parties: Parties, seen: tuple[Message, ...]) -> ViolationRecord:
    record = parties.record(seen=seen).model_copy(update={"signed": None, "signed_voucher": None})
    return parties.accuse(record)
