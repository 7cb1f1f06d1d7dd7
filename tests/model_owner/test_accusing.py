"""From a decoy to a record that anybody can check: clients that cheat and do not, and a model owner that lies."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from authority.certificates import read_certificate
from authority.vouching import Domain
from bookkeeping.audit_log import AuditLog, read_log
from contract.deviation import Deviation, DeviationError
from contract.errors import AccountStopped, PeerViolation
from contract.identity import Role
from contract.violation import Found, Message, Sender, ViolationRecord
from model_owner.accusing import Accuser
from model_owner.stopped_accounts import StoppedAccounts
from model_owner.verdict import ThirdParty, judge
from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER
from secure_computation.engines.masked.session import sides
from secure_computation.engines.masked.session.decoys import DecoyLine
from secure_computation.engines.masked.session.in_process import InProcessParties, MemoryStore
from secure_computation.engines.masked.session.lines import ChannelLine
from secure_computation.engines.masked.session.sides import DataOwnerItem, MaskedDataOwner
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.ring import reduce_to_ring
from secure_computation.session_statements import STEP, SessionWitness, Signed
from secure_computation.transcript import hash_body
from tests.secure_computation.engines.masked.identities import CLAIMS, MODEL, Identities, enrol_identities
from tests.secure_computation.engines.masked.parties import ITEM, parties_of
from tests.secure_computation.engines.masked.sessions import Session

Answer = Callable[[Any], Bundle]


class Cheat(MaskedDataOwner):
    """A data owner that adds 1 to a value in its answer to one layer, and signs what it sends."""

    layer = 0

    def run(self, images: Sequence[Any], prepared: Sequence[DataOwnerItem], **named: Any) -> Any:
        _, part = prepared[0].prepared.layers[self.layer]
        honest: Answer = cast("Any", part).answer

        def add_one(opening: Any) -> Bundle:
            answer = honest(opening)
            (*others, ring) = answer.rings
            values = ring.values.copy()
            values[0] += np.uint32(1)
            return dataclasses.replace(answer, rings=(*others, reduce_to_ring(values, ring.bits)), body=None)

        cast("Any", part).answer = add_one
        return super().run(images, prepared, **named)


def dealing(*, cheating: bool) -> InProcessParties:
    """Parties whose items are all decoys."""
    parties = parties_of(MODEL, toss=lambda _share: True)
    if cheating:
        return dataclasses.replace(parties, data_owner=Cheat(MODEL.lowering, store=MemoryStore()))
    return parties


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return enrol_identities(tmp_path_factory.mktemp("federation"))


@dataclasses.dataclass(frozen=True)
class Bench:
    """A model owner's records, and somebody who checks them."""

    folder: Path
    identities: Identities

    @property
    def accuser(self) -> Accuser:
        stopped = StoppedAccounts(data_folder=self.folder, audit=AuditLog(self.folder / "audit", keep_days=1))
        return Accuser(
            stopped=stopped,
            signer=lambda: self.identities.signers[MODEL_OWNER],
            trust=lambda: self.identities.trust,
        )

    @property
    def outsider(self) -> ThirdParty:
        return ThirdParty(authority=self.identities.trust.authority)

    def accuse(self, session: Session, found: Deviation, signed: Signed | None) -> ViolationRecord:
        deal_tag = session.prepared[Role.MODEL_OWNER].deal_tag
        return self.accuser.accuse(CLAIMS, found, deal_tag=deal_tag, signed=signed)


@pytest.fixture
def bench(identities: Identities, tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path, identities=identities)


def caught(session: Session) -> Deviation:
    session.run()
    error = session.errors[Role.MODEL_OWNER]
    assert isinstance(error, DeviationError)
    return error.deviation


def test_a_client_that_cheats_and_signs_is_recorded_stopped_and_cannot_deny_it(
    identities: Identities, bench: Bench
) -> None:
    session, witness = identities.session(parties=dealing(cheating=True))
    found = caught(session)
    record = bench.accuse(session, found, witness.taken[ITEM])
    verdict = judge(record, bench.outsider)
    assert verdict.stands
    assert record.found is Found.ANSWER
    assert record.step.startswith("answer")
    with pytest.raises(AccountStopped):
        bench.accuser.stopped.require_served(DATA_OWNER.organisation, own="laboratory")
    assert [entry.event for entry in read_log(bench.folder / "audit")] == ["account-stopped"]


def test_an_honest_client_is_never_accused_and_signs_for_a_decoy_as_for_any_item(identities: Identities) -> None:
    session, witness = identities.session(parties=dealing(cheating=False))
    session.run()
    assert session.errors == {}
    assert session.audited
    assert set(witness.taken) == {ITEM}


def refusing(step: str, fields: dict[str, Any]) -> Any:
    return lambda name, sent: sent | fields if name == step else sent


def test_a_client_that_cheats_and_does_not_sign_is_stopped_on_the_model_owners_word(
    identities: Identities, bench: Bench
) -> None:
    session, witness = identities.session(
        parties=dealing(cheating=True), change_hello=refusing(STEP, {"signatures": []})
    )
    found = caught(session)
    assert witness.taken == {}
    record = bench.accuse(session, found, None)
    assert not judge(record, bench.outsider).stands
    with pytest.raises(AccountStopped):
        bench.accuser.stopped.require_served(DATA_OWNER.organisation, own="laboratory")


class Uploading(ChannelLine):
    """A data owner's line that adds 1 to all that it sends ahead, and signs that."""

    def send(self, layout: BundleLayout, bundle: Bundle, *, step: str, answered: bool = True) -> None:
        if step.startswith("hidden share"):
            (ring,) = bundle.rings
            bundle = Bundle(rings=(reduce_to_ring(ring.values + np.uint32(1), ring.bits),))
        super().send(layout, bundle, step=step, answered=answered)


def test_a_client_that_uploads_something_else_is_stopped_and_has_signed_what_it_uploaded(
    identities: Identities, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "ChannelLine", Uploading)
    session, witness = identities.session(parties=dealing(cheating=False))
    found = caught(session)
    record = bench.accuse(session, found, witness.taken[ITEM])
    assert record.found is Found.UPLOAD
    verdict = judge(record, bench.outsider)
    assert not verdict.stands
    assert any("signed what it had sent ahead" in line for line in verdict.shown)


class Framing(DecoyLine):
    """A model owner's line of a decoy that sends other strings than the dealer drew."""

    def send(self, layout: BundleLayout, bundle: Bundle, *, step: str, answered: bool = True) -> None:
        del bundle
        string = layout.unpack(self._strings.draw(layout), peer="p", step=step)
        rings = tuple(reduce_to_ring(ring.values + np.uint32(1), ring.bits) for ring in string.rings)
        body = layout.pack(dataclasses.replace(string, rings=rings))
        self._noted.note_sent(step, body, answered=answered)
        self._channel.send_bytes(body.data, step=step)


class TestFraming:
    """A model owner that deviates, against an honest client, with everything that it can get signed."""

    def honest_session(self, identities: Identities, **changes: Any) -> tuple[Session, SessionWitness]:
        session, witness = identities.session(parties=dealing(cheating=False), **changes)
        session.run()
        return session, witness

    def claimed(self, session: Session, witness: SessionWitness, messages: tuple[Message, ...], at: int) -> Deviation:
        """What this model owner says that its decoy found."""
        item = session.prepared[Role.MODEL_OWNER]
        stated = item.audit.state(MODEL.lowering, item.seed, ITEM)
        return Deviation(
            item=ITEM,
            found=Found.ANSWER,
            position=at,
            expected=stated.messages[at].sha256,
            uploads=(),
            messages=messages,
            stated=stated,
        )

    def test_openings_of_its_own_are_in_what_the_client_signed(
        self, identities: Identities, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes the honest answers to other strings than the dealer's for wrong ones."""
        lines = list[Framing]()

        def frame(*arguments: Any, **named: Any) -> Framing:
            lines.append(Framing(*arguments, **named))
            return lines[-1]

        monkeypatch.setattr(sides, "DecoyLine", frame)
        session, witness = identities.session(parties=dealing(cheating=False))
        session.run()
        words = str(session.errors[Role.MODEL_OWNER])  # of software that is not made for it: no word against the client
        assert "the crypto provider drew other strings for a decoy than this party" in words
        signed = witness.taken[ITEM]
        uploads = tuple(
            Message(sender=Sender.DATA_OWNER, step=frame.step, sha256=hash_body(np.frombuffer(frame.body, np.uint8)))
            for frame in session.frames["model_owner_from_data_owner"]
            if frame.step.startswith("hidden share")
        )
        claimed = dataclasses.replace(self.claimed(session, witness, lines[0].messages(), 1), uploads=uploads)
        record = bench.accuse(session, claimed, signed)
        with pytest.raises(PeerViolation, match="is not the one that the crypto-provider of dealer stated"):
            judge(record, bench.outsider)

    def test_the_right_answers_of_an_honest_client_make_no_record(self, identities: Identities, bench: Bench) -> None:
        session, witness = self.honest_session(identities)
        item = session.prepared[Role.MODEL_OWNER]
        stated = item.audit.state(MODEL.lowering, item.seed, ITEM)
        for at in (1, len(stated.messages) - 1):
            claimed = self.claimed(session, witness, stated.messages, at)
            wrong = dataclasses.replace(
                claimed,
                messages=tuple(
                    message.model_copy(update={"sha256": "0" * 64}) if index == at else message
                    for index, message in enumerate(stated.messages)
                ),
            )
            signed = witness.taken[ITEM]
            with pytest.raises(PeerViolation, match="signed other messages"):
                judge(bench.accuse(session, wrong, signed), bench.outsider)
            signer = identities.signers[MODEL_OWNER]
            forged = dataclasses.replace(signed, voucher=signer.sign(signed.statement.statement(), Domain.SESSION))
            with pytest.raises(PeerViolation, match="is signed by the model-owner of laboratory"):
                judge(bench.accuse(session, claimed, forged), bench.outsider)


def test_the_certificate_of_the_authority_is_all_that_is_needed(identities: Identities, bench: Bench) -> None:
    session, witness = identities.session(parties=dealing(cheating=True))
    found = caught(session)
    record = bench.accuse(session, found, witness.taken[ITEM])
    path = next((bench.folder / "violations").iterdir())
    assert path.read_bytes() == record.encode()
    assert read_certificate(identities.authority) == identities.trust.authority
    assert judge(record, ThirdParty(authority=read_certificate(identities.authority))).stands
