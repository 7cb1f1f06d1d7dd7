"""The data owner signs what crossed, and gets no output before the model owner has that."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from contract.errors import PeerViolation
from contract.identity import Role
from contract.violation import Message, Sender, hash_messages
from secure_computation.channel.memory import DATA_OWNER
from secure_computation.engines.masked.session.stock import data_owner_bodies, restore_data_owner
from secure_computation.session_statements import STEP, SessionSigning
from secure_computation.wire import Frame, Kind, Phase
from tests.secure_computation.engines.masked.identities import (
    CLAIMS,
    IMAGES,
    MODEL,
    OTHER,
    Identities,
    enrol_identities,
    lowered,
)
from tests.secure_computation.engines.masked.parties import ITEM, parties_of
from tests.secure_computation.engines.masked.sessions import Body, Session

LINKS = ("data_owner_from_model_owner", "model_owner_from_data_owner")


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return enrol_identities(tmp_path_factory.mktemp("federation"))


def refusal(session: Session) -> str:
    """Why P1 gave no output; that P0 got none is checked."""
    session.run()
    error = session.errors[Role.MODEL_OWNER]
    assert isinstance(error, PeerViolation)
    assert session.logits is None
    assert not [frame for frame in session.frames["data_owner_from_model_owner"] if frame.phase is Phase.OUTPUT]
    return str(error)


def online(session: Session) -> str:
    """The hash of what crossed online, each opening before its answer; the masked image is not among it."""
    openings, (image, *answers) = (
        [one for one in session.frames[link] if one.phase is Phase.ONLINE and one.kind is Kind.BYTES] for link in LINKS
    )
    assert image.step == "masked image"
    pairs = zip(openings, answers, strict=True)
    return hash_messages(
        one
        for opening, answer in pairs
        for one in (noted(Sender.MODEL_OWNER, opening), noted(Sender.DATA_OWNER, answer))
    )


def noted(sender: Sender, frame: Frame) -> Message:
    return Message(sender=sender, step=frame.step, sha256=hashlib.sha256(frame.body).hexdigest())


def test_both_parties_sign_and_check_the_same_messages(identities: Identities) -> None:
    session, witness = identities.session()
    session.run().honest()
    statement = witness.taken[ITEM].statement
    assert statement.messages == online(session)
    ahead = [one for one in session.frames[LINKS[1]] if one.step.startswith("hidden share")]
    assert statement.uploads == hash_messages(noted(Sender.DATA_OWNER, one) for one in ahead)
    assert (statement.session, statement.ticket, statement.item.item) == (CLAIMS.session, CLAIMS.jti, ITEM)
    assert statement.item.deal_tag == session.prepared[Role.DATA_OWNER].deal_tag.hex()


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
    assert set(witness.taken) == {ITEM}


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
