"""A front end in other hands: whatever its database says of a model, no picture leaves by it.

Each attack is one UPDATE of the real front end's database while all parties run.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from authority.enrolment import install_revocations
from authority.signing import Authority, Reason, create_authority
from contract.api import PartyAddress, SessionView
from contract.errors import (
    CertificateRefused,
    EncryptedInferenceError,
    NotVouchedFor,
    PeerReported,
    PeerViolation,
    TicketInvalid,
)
from contract.identity import Party, Role
from contract.ticket import Engine
from data_owner.diagnosis import Diagnosis
from plumbing.settings import Peer
from secure_computation.channel.channel import Channel
from secure_computation.wire import Phase
from tests.end_to_end.changed_catalog import Change, changed, lying, of_card
from tests.end_to_end.federation import HOSPITAL, LABORATORY, SILENT, Federation, RecordingClient

SOUTH_LAB = Party(role=Role.MODEL_OWNER, organisation="south-lab")

ATTACKS: dict[str, Change] = {
    "bacteria becomes normal": of_card(lying),
    "the classes change places": of_card(lambda card: card.update(classes=[*card["classes"][1:], card["classes"][0]])),
    "a temperature that makes any answer certain": of_card(lambda card: card.update(calibration_temperature=0.05)),
    "another threshold": of_card(lambda card: card.update(uncertain_below=0.001)),
    "another normalisation": of_card(lambda card: card["input"].update(mean=[0.1])),
    "no ages, so no warning": of_card(lambda card: card["input"].update(ages=None)),
    "every modality": of_card(lambda card: card["input"].update(modalities=["CR", "DX", "CT", "OT"])),
    "another task": of_card(lambda card: card.update(task="multi-label")),
    "heat maps": of_card(lambda card: card.update(output_policy="logits-and-heat-map", references=None)),
    "no reference pictures": of_card(lambda card: card.update(references=None)),
    "another answer to a reference picture": of_card(
        lambda card: card["references"]["pictures"][0].update(numbers=[1, 2, 3])
    ),
    "any answer to a reference picture": of_card(
        lambda card: card["references"]["pictures"][0].update(tolerances=[1 << 40] * 3)
    ),
    "another description": of_card(lambda card: card.update(intended_use="For diagnosis in the clinic")),
    "the other engine": lambda _: {"engines": "crypten"},
    "the other engine first": lambda _: {"engines": "crypten,masked"},
    "another address of the model owner": lambda _: {"address": "wss://elsewhere.example/v2/inference"},
    "another address of the crypto provider": lambda _: {"crypto_provider_address": "wss://elsewhere.example/v2"},
    "another crypto provider": lambda _: {"crypto_provider": "elsewhere"},
    "another model owner that is pinned as well": lambda _: {"model_owner": SOUTH_LAB.organisation},
    "no signature": lambda _: {"voucher": None},
    "garbage for a certificate": lambda row: {
        "voucher": json.dumps(json.loads(row["voucher"]) | {"certificate": "-----BEGIN"})
    },
    "garbage for a signature": lambda row: {
        "voucher": json.dumps(json.loads(row["voucher"]) | {"signature": "ab" * 70})
    },
}


def pinned(*organisations: str) -> dict[str, Any]:
    return {"model_owners": tuple(Peer(organisation=name) for name in organisations)}


def diagnose(federation: Federation, path: Path, **changes: Any) -> Diagnosis | EncryptedInferenceError:
    """A diagnosis as the command runs it. What fails must have opened no session."""
    with federation.diagnoser(**pinned("north-lab", "south-lab") | changes) as (diagnoser, client):
        try:
            entry = diagnoser.choose_model(None)
            return diagnoser.diagnose(path, entry, engine=entry.engines[0], force=False, progress=SILENT)
        except EncryptedInferenceError as error:
            assert client.opened == []
            return error


@pytest.mark.parametrize("case", ATTACKS)
def test_a_changed_entry_is_refused_before_a_picture_is_read(federation: Federation, chest: Path, case: str) -> None:
    with changed(federation.folder / "front-end", ATTACKS[case]):
        error = diagnose(federation, chest)
    assert type(error) is NotVouchedFor
    assert "tiny-chest 1.0.0" in str(error)
    assert "nothing was sent" in str(error)


def test_what_the_owner_signed_is_used(federation: Federation, chest: Path) -> None:
    done = diagnose(federation, chest)
    assert isinstance(done, Diagnosis)
    assert done.engine is Engine.MASKED


@pytest.mark.parametrize("party", [SOUTH_LAB, HOSPITAL, Party(role=Role.INFERENCE_SERVICE, organisation="front-end")])
def test_nobody_else_of_the_federation_can_sign_for_the_owner(federation: Federation, party: Party) -> None:
    with federation.diagnoser() as (diagnoser, _), pytest.raises(NotVouchedFor, match=f"signed by the {party}"):
        diagnoser.catalog.require_vouched(federation.signed(party))


def test_another_authority_can_sign_nothing(federation: Federation, tmp_path: Path) -> None:
    create_authority(tmp_path / "authority")
    other = dataclasses.replace(federation, folder=tmp_path, issued={})
    with federation.diagnoser() as (diagnoser, _), pytest.raises(NotVouchedFor, match="is not what its owner"):
        diagnoser.catalog.require_vouched(other.signed(LABORATORY))


def test_an_owner_whose_certificate_was_revoked_vouches_for_nothing(federation: Federation) -> None:
    entry = federation.signed(SOUTH_LAB, model_owner=PartyAddress(organisation="south-lab", address="ws://a.example"))
    authority = Authority.open(federation.folder / "authority")
    with federation.diagnoser(**pinned(SOUTH_LAB.organisation)) as (diagnoser, _):
        assert diagnoser.catalog.require_vouched(entry) == entry
        path = authority.revoke(authority.issued_to(SOUTH_LAB), Reason.KEY_COMPROMISE)
        revocations = federation.credentials(HOSPITAL).revocations
        assert revocations is not None
        install_revocations(revocations, path, authority.certificate)
        with pytest.raises(CertificateRefused, match=r"whoever signed tiny-chest 1.0.0, .* was revoked on"):
            diagnoser.catalog.require_vouched(entry)


def test_an_owner_that_signs_other_engines_than_its_plan_has(federation: Federation, chest: Path) -> None:
    entry = federation.signed(LABORATORY, engines=(Engine.CRYPTEN,))
    with federation.diagnoser() as (diagnoser, client):
        with pytest.raises(PeerViolation, match="output or engines than its card and its entry in the catalog"):
            diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
        assert client.opened == []


OTHER_TICKETS: dict[str, dict[str, Any]] = {
    "for another model owner": {"model_owner": "south-lab"},
    "for another crypto provider": {"crypto_provider": "elsewhere"},
    "for another engine": {"engine": Engine.CRYPTEN},
    "for another plan": {"plan_hash": "0" * 64},
    "for another version": {"version": "0.9.0"},
}


@pytest.mark.parametrize("case", OTHER_TICKETS)
def test_a_ticket_for_something_else_than_was_asked_for_goes_nowhere(
    federation: Federation, chest: Path, case: str
) -> None:
    """A front end that signs what it likes, besides."""
    error = with_ticket(federation, chest, **{"engine": Engine.MASKED} | OTHER_TICKETS[case])
    assert type(error) is TicketInvalid
    assert "for another session than the one asked for" in str(error)


def test_a_ticket_for_another_card_goes_nowhere(federation: Federation, chest: Path) -> None:
    error = with_ticket(federation, chest, engine=Engine.MASKED, card_hash="0" * 64)
    assert type(error) is NotVouchedFor
    assert "for another card of tiny-chest 1.0.0 than the one that its owner, north-lab, signed" in str(error)


def with_ticket(federation: Federation, path: Path, **claims: Any) -> EncryptedInferenceError:
    """What comes of a diagnosis whose ticket has these claims."""

    class OtherTicket(RecordingClient):
        def open_session(self, **named: Any) -> SessionView:
            view = super().open_session(**named)
            return view.model_copy(update={"ticket": federation.ticket(view, **claims)})

    with federation.diagnoser(kind=OtherTicket, **pinned("north-lab", "south-lab")) as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        with pytest.raises(EncryptedInferenceError) as caught:
            diagnoser.diagnose(path, entry, engine=Engine.MASKED, force=False, progress=SILENT)
    return caught.value


@pytest.mark.parametrize(
    ("engine", "stocked"), [(Engine.CRYPTEN, False), (Engine.MASKED, False), (Engine.MASKED, True)]
)
def test_the_model_owner_refuses_a_ticket_for_another_card_before_a_share_of_the_picture_leaves(
    federation: Federation, chest: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine, stocked: bool
) -> None:
    """Where a data owner believed the front end: the parties that it speaks to do not agree with it."""
    sent: list[Phase] = []
    begin = Channel._begin

    def watched(channel: Channel, *arguments: Any) -> Any:
        if channel.peer == LABORATORY:
            sent.append(channel._phase)
        return begin(channel, *arguments)

    with federation.diagnoser() as (diagnoser, _):
        if stocked:
            diagnoser.stock(diagnoser.choose_model(None), engine=engine, progress=SILENT)
        monkeypatch.setattr("data_owner.catalog.require_vouched", lambda entry, trust: None)
        monkeypatch.setattr(Channel, "_begin", watched)
        with changed(federation.folder / "front-end", ATTACKS["bacteria becomes normal"]):
            entry = diagnoser.choose_model(None)
            assert entry.card.classes == ("bacteria", "virus", "normal")
            with pytest.raises(PeerReported, match=r"for another card of tiny-chest 1\.0\.0 than the one served here"):
                diagnoser.diagnose(chest, entry, engine=engine, force=False, progress=SILENT)
    assert sent
    assert set(sent) <= {Phase.HANDSHAKE, Phase.OFFLINE}
