"""The data owner signs what crossed, and gets no output before the model owner has that."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from authority.enrolment import create_request, install_certificate, locate_credentials
from authority.signing import create_authority
from authority.vouching import Signer
from contract.errors import PeerViolation
from contract.identity import Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from contract.violation import Message, hash_messages
from secure_computation.channel.memory import CRYPTO_PROVIDER, DATA_OWNER, MODEL_OWNER
from secure_computation.channel.tls import tls_context
from secure_computation.channel.trust import Trust
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session.stock import data_owner_bodies, restore_data_owner
from secure_computation.session_statements import STEP, SessionSigning, SessionWitness, Signed
from secure_computation.transcript import hash_body
from secure_computation.wire import Frame, Kind, Phase
from tests.secure_computation.engines.masked.parties import ITEM, Image, Model, parties_of
from tests.secure_computation.engines.masked.sessions import Body, Session
from tests.secure_computation.networks import random_weights, small_network
from tests.signed_requests import sign_request

NETWORK = small_network(16)
WEIGHTS = random_weights(NETWORK)
IMAGES: Image = np.random.default_rng(5).normal(size=(2, *NETWORK.input_shape)).astype(np.float32)
OTHER = Party(role=Role.DATA_OWNER, organisation="elsewhere")
NOW = datetime.now(UTC)
CLAIMS = TicketClaims(
    jti=UUID(int=1),
    session=UUID(int=2),
    purpose=Purpose.DIAGNOSE,
    account="test",
    model="small",
    version="1.0.0",
    plan_hash="0" * 64,
    card_hash="0" * 64,
    engine=Engine.MASKED,
    data_owner=DATA_OWNER.organisation,
    model_owner=MODEL_OWNER.organisation,
    crypto_provider=CRYPTO_PROVIDER.organisation,
    output_policy=OutputPolicy.LOGITS,
    iat=int(NOW.timestamp()),
    exp=int(NOW.timestamp()) + 600,
)


def lowered(*, label_only: bool = False) -> Model:
    lowering = lower_masked(NETWORK, WEIGHTS, IMAGES, label_only=label_only)
    return Model(NETWORK, lowering, round_weights(lowering, WEIGHTS), IMAGES)


MODEL = lowered()
LINKS = ("data_owner_from_model_owner", "model_owner_from_data_owner")


class Witness(SessionWitness):
    """Keeps what it was given."""

    taken: list[Signed]

    def receive(self, *arguments: Any) -> tuple[Signed, ...]:
        found = super().receive(*arguments)
        object.__setattr__(self, "taken", list(found))
        return found


@dataclasses.dataclass(frozen=True)
class Identities:
    trust: Trust
    signers: Mapping[Party, Signer]

    def session(
        self, *, by: Party = DATA_OWNER, claims: TicketClaims = CLAIMS, model: Model = MODEL, **changes: Any
    ) -> tuple[Session, Witness]:
        """A session that P0 signs as `by`, for a ticket that says `claims`."""
        witness = Witness(claims=CLAIMS, trust=self.trust)
        signing = SessionSigning(claims=claims, signer=self.signers[by])
        fields: dict[str, Any] = {"signing": signing} | changes
        return Session(parties_of(model), IMAGES[0], witness=witness, **fields), witness


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    folder = tmp_path_factory.mktemp("federation")
    create_authority(folder / "authority")
    found = {}
    for party in (DATA_OWNER, OTHER, MODEL_OWNER):
        own = folder / party.organisation
        request = create_request(party, own)
        (own / "signed.pem").write_bytes(sign_request(folder / "authority", request))
        install_certificate(party, own, own / "signed.pem", authority=folder / "authority" / "authority.pem")
        found[party] = locate_credentials(party, own)
    files = dataclasses.replace(found[MODEL_OWNER], revocations=None)
    return Identities(
        trust=tls_context(files, server_side=True).trust(),
        signers={party: Signer.of(files) for party, files in found.items()},
    )


def refusal(session: Session) -> str:
    """Why P1 gave no output; that P0 got none is checked."""
    session.run()
    error = session.errors[Role.MODEL_OWNER]
    assert isinstance(error, PeerViolation)
    assert session.logits is None
    assert not [frame for frame in session.frames["data_owner_from_model_owner"] if frame.phase is Phase.OUTPUT]
    return str(error)


def online(frames: list[Frame], kind: Kind = Kind.BYTES) -> list[Frame]:
    return [frame for frame in frames if frame.phase is Phase.ONLINE and frame.kind is kind]


def test_both_parties_sign_and_check_the_same_messages(identities: Identities) -> None:
    session, witness = identities.session()
    session.run().honest()
    (signed,) = witness.taken
    got, sent = (
        online(session.frames[link]) for link in ("data_owner_from_model_owner", "model_owner_from_data_owner")
    )
    assert sent[0].step == "masked image"  # which depends on the image, and of which no hash is kept
    statement = signed.statement
    assert statement.openings == hashed(got)
    assert statement.answers == hashed(sent[1:])
    offline = [
        frame for frame in session.frames["model_owner_from_data_owner"] if frame.step.startswith("hidden share")
    ]
    assert statement.uploads == hashed(offline)
    assert (statement.session, statement.ticket, statement.item.item) == (CLAIMS.session, CLAIMS.jti, ITEM)
    assert statement.item.deal_tag == session.prepared[Role.DATA_OWNER].deal_tag.hex()


def hashed(frames: list[Frame]) -> str:
    return hash_messages(Message(step=frame.step, sha256=hash_body(frame.body)) for frame in frames)


def test_a_signature_takes_no_trip_and_less_than_2_kilobytes(identities: Identities) -> None:
    with_signature = identities.session()[0].run()
    without = Session(parties_of(MODEL), IMAGES[0]).run()
    for link in LINKS:
        told, untold = ([frame.step for frame in one.frames[link]] for one in (with_signature, without))
        assert [step for step in told if step != STEP] == untold
    *_, last, signature = with_signature.frames["model_owner_from_data_owner"]
    assert last.step.startswith("answer")
    assert signature.step == STEP
    assert len(signature.body) < 2000


def test_a_label_is_signed_for_as_logits_are(identities: Identities) -> None:
    session, witness = identities.session(model=lowered(label_only=True))
    session.run()
    assert session.errors == {}
    assert session.label is not None
    got, sent = (
        online(session.frames[link]) for link in ("data_owner_from_model_owner", "model_owner_from_data_owner")
    )
    assert witness.taken[0].statement.openings == hashed(got)
    assert witness.taken[0].statement.answers == hashed(sent[1:])


def altering(step: str) -> Callable[[str, Body], Body]:
    """One bit of every message of this kind, on its way out."""

    def change(name: str, body: Body) -> Body:
        if not name.startswith(step):
            return body
        altered = body.copy()
        altered[0] ^= 1
        return altered

    return change


@pytest.mark.parametrize("step", ["answer", "hidden share"])
def test_who_signs_something_else_than_it_sent_gets_no_output(identities: Identities, step: str) -> None:
    session, _ = identities.session(change=altering(step))
    assert "what it signed is not what it sent" in refusal(session)


def test_an_opening_that_the_model_owner_did_not_send_is_not_signed_for(identities: Identities) -> None:
    session, _ = identities.session(change=altering("opening"))
    assert "what it signed is not what it sent" in refusal(session)


@pytest.mark.parametrize(
    "fields",
    [
        {"signatures": []},
        {"signatures": None},
        {"signatures": ["00" * 40, "00" * 40]},
        {"signatures": [7]},
        {"signatures": ["zz" * 40]},
        {"certificate": None},
        {"certificate": "x" * 20_000},
        {"at": None},
        {"at": -1},
        {"at": 10**300},
        {"at": "now"},
    ],
    ids=str,
)
def test_who_does_not_sign_gets_no_output(identities: Identities, fields: dict[str, Any]) -> None:
    session, _ = identities.session(change_hello=lambda step, sent: sent | fields if step == STEP else sent)
    assert refusal(session).endswith("update it to the same version")


def test_a_signature_of_somebody_else_is_none(identities: Identities) -> None:
    assert "it signed with another certificate" in refusal(identities.session(by=OTHER)[0])


@pytest.mark.parametrize(
    "change",
    [{"session": UUID(int=9)}, {"jti": UUID(int=9)}, {"plan_hash": "1" * 64}, {"crypto_provider": "another"}],
    ids=["session", "ticket", "plan", "dealer"],
)
def test_a_signature_for_something_else_is_none(identities: Identities, change: dict[str, Any]) -> None:
    session, _ = identities.session(claims=CLAIMS.model_copy(update=change))
    assert "what it signed is not what it sent" in refusal(session)


def test_a_signature_of_an_earlier_session_is_none(identities: Identities) -> None:
    earlier, _ = identities.session()
    earlier.run().honest()
    replayed = json.loads(earlier.frames["model_owner_from_data_owner"][-1].body)
    session, _ = identities.session(change_hello=lambda step, sent: replayed if step == STEP else sent)
    assert "what it signed is not what it sent" in refusal(session)


@pytest.mark.parametrize("away", [timedelta(minutes=10), timedelta(minutes=-10)])
def test_who_signs_another_time_gets_no_output(identities: Identities, away: timedelta) -> None:
    """A third party judges the certificate by that time."""
    signer = identities.signers[DATA_OWNER]
    wrong = SessionSigning(claims=CLAIMS, signer=signer, clock=(datetime.now(UTC) + away).timestamp)
    session, _ = identities.session(signing=wrong)
    assert "its clock and this one are too far apart" in refusal(session)


def test_stock_keeps_the_hash_of_what_was_sent_ahead(identities: Identities) -> None:
    session, _ = identities.session()
    session.run().honest()
    item = session.prepared[Role.DATA_OWNER]
    bodies = [np.frombuffer(bytes(body), np.uint8) for body in data_owner_bodies(MODEL.lowering, item)]
    restored = restore_data_owner(MODEL.lowering, bodies, item=ITEM, weights_version="0" * 32)
    assert (restored.uploads, restored.deal_tag, restored.item) == (item.uploads, item.deal_tag, item.item)
