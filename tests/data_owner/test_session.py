"""The data owner against model owners, dealers and front ends that fail, lie or fall silent."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contract.api import SessionEventName, SessionReport, SessionState, SessionView
from contract.errors import (
    ConfigurationError,
    DeadlineExceeded,
    EncryptedInferenceError,
    ModelFileError,
    NeedsConfirmation,
    PeerDisconnected,
    PeerReported,
    PeerUnreachable,
    PeerViolation,
    Refused,
    TicketInvalid,
)
from contract.identity import Party, Role
from contract.ticket import Engine
from data_owner.progress import Progress, Stage
from data_owner.session import Diagnoser
from model_owner.server import InferenceHandler
from plumbing.settings import Peer, PlanLimits, Waiting
from secure_computation.channel.channel import Channel
from secure_computation.engines.masked.session.costs import total_cost
from secure_computation.plan import Plan
from secure_computation.wire import Phase
from tests.end_to_end import misbehaviour
from tests.end_to_end.federation import (
    LABORATORY,
    SHORT,
    SILENT,
    TRUST_CENTRE,
    Federation,
    RecordingClient,
    closed_port,
)
from tests.end_to_end.misbehaviour import VIOLATIONS, Deed, sabotage
from tests.end_to_end.models import class_answer, radiograph


def attempt(diagnoser: Diagnoser, path: Path, *, force: bool = False) -> EncryptedInferenceError:
    """The error that a diagnosis ends with."""
    with pytest.raises(EncryptedInferenceError) as caught:
        diagnoser.diagnose(path, diagnoser.choose_model(None), engine=Engine.CRYPTEN, force=force, progress=SILENT)
    assert "\n" not in str(caught.value)
    return caught.value


def failure_of(federation: Federation, client: RecordingClient) -> str:
    """The code under which the session that was opened has ended as failed."""
    ended = federation.ended(client.opened[-1])
    assert ended.state is SessionState.FAILED
    assert ended.failure is not None
    return ended.failure.code


@contextmanager
def model_owner_that(federation: Federation, deed: Deed) -> Iterator[dict[str, Any]]:
    """Settings of a data owner who meets, in the model owner's place, one that does this after the ticket."""

    def handler(channel: Channel) -> None:
        channel.receive_hello(step="ticket")
        channel.set_phase(Phase.OFFLINE)
        deed(channel)
        misbehaviour.stall(channel)

    with federation.fake(LABORATORY, handler) as url:
        yield {"model_owner_url": url}


@contextmanager
def model_owner_that_later(federation: Federation, deed: Deed) -> Iterator[dict[str, Any]]:
    """One that is honest until it would send its first frame of the online phase."""
    honest = InferenceHandler.__call__

    def handler(self: InferenceHandler, channel: Channel) -> None:
        honest(self, sabotage(channel, Phase.ONLINE, deed))

    with federation.model_owner() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(InferenceHandler, "__call__", handler)
        patch.setattr(InferenceHandler, "_report", lambda *_: None)
        yield {"model_owner_url": url}


@contextmanager
def dealer_that(federation: Federation, deed: Deed) -> Iterator[dict[str, Any]]:
    """The same in the dealer's place."""

    def handler(channel: Channel) -> None:
        channel.receive_hello(step="ticket")
        channel.set_phase(Phase.OFFLINE)
        deed(channel)
        misbehaviour.stall(channel)

    with federation.fake(TRUST_CENTRE, handler) as url:
        yield {"dealer_url": url}


PLACES: dict[str, tuple[Any, str]] = {
    "model owner, offline": (model_owner_that, "model-owner of north-lab"),
    "model owner, online": (model_owner_that_later, "model-owner of north-lab"),
    "dealer": (dealer_that, "crypto-provider of trust-centre"),
}
DEEDS: dict[str, tuple[Deed, type[EncryptedInferenceError], str]] = {
    "disconnects": (
        misbehaviour.disconnect,
        PeerDisconnected,
        r"disconnected in step '.+' \(.+\): start a new session",
    ),
    "stalls": (misbehaviour.stall, DeadlineExceeded, r"did not answer within \d\.\d s in step '.+': check that it"),
    "reports": (misbehaviour.report, PeerReported, "the disk is full; try again later"),
} | {name: (deed, PeerViolation, words) for name, (deed, words) in VIOLATIONS.items()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", DEEDS)
def test_a_peer_that_fails(federation: Federation, chest: Path, place: str, case: str) -> None:
    replace, name = PLACES[place]
    deed, error, words = DEEDS[case]
    with (
        replace(federation, deed) as settings,
        federation.diagnoser(waiting=SHORT, **settings) as (diagnoser, client),
    ):
        caught = attempt(diagnoser, chest)
        assert isinstance(caught, error)
        assert caught.code == error.code
        assert str(caught).startswith(name)
        assert re.search(words, str(caught))
        # The model owner may be the first to report that the data owner has gone.
        assert failure_of(federation, client) in {error.code, "peer-disconnected", "peer-reported"}


@pytest.mark.parametrize("hello", [{}, {"received_bytes": -1, "sent_bytes": 0}, {"received_bytes": "1"}])
def test_a_model_owner_that_counts_wrongly(federation: Federation, chest: Path, hello: dict[str, Any]) -> None:
    """Its account of bytes is part of the result, so it must make sense."""

    original = Channel.send_hello

    def send_hello(channel: Channel, fields: dict[str, Any], *, step: str) -> None:
        original(channel, hello if step == "material ready" else fields, step=step)

    with federation.diagnoser() as (diagnoser, client):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Channel, "send_hello", send_hello)
            caught = attempt(diagnoser, chest)
        assert isinstance(caught, PeerViolation)
        assert "counted its bytes wrongly" in str(caught)
        assert failure_of(federation, client) == "peer-violation"


@pytest.mark.parametrize("place", ["model_owner_url", "dealer_url"])
def test_a_peer_that_is_down(federation: Federation, chest: Path, place: str) -> None:
    settings: dict[str, Any] = {place: f"ws://127.0.0.1:{closed_port()}/v2"}
    with federation.diagnoser(**settings) as (diagnoser, client):
        caught = attempt(diagnoser, chest)
        assert type(caught) is PeerUnreachable
        assert re.search(r"cannot be reached \(.+\): check the address and that the party runs", str(caught))
        assert failure_of(federation, client) in {"peer-unreachable", "peer-disconnected", "peer-reported"}


IMPOSTORS = {
    "the dealer for the model owner": ("model_owner_url", TRUST_CENTRE),
    "another laboratory": ("model_owner_url", Party(role=Role.MODEL_OWNER, organisation="south-lab")),
    "the model owner for the dealer": ("dealer_url", LABORATORY),
    "another dealer": ("dealer_url", Party(role=Role.CRYPTO_PROVIDER, organisation="elsewhere")),
}


@pytest.mark.parametrize("case", IMPOSTORS)
def test_somebody_else_answers(federation: Federation, chest: Path, case: str) -> None:
    place, party = IMPOSTORS[case]
    received: list[dict[str, Any]] = []

    def handler(channel: Channel) -> None:
        received.append(channel.receive_hello(step="ticket"))

    with ExitStack() as stack:
        settings: dict[str, Any] = {place: stack.enter_context(federation.fake(party, handler))}
        diagnoser, client = stack.enter_context(federation.diagnoser(**settings))
        caught = attempt(diagnoser, chest)
        assert type(caught) is PeerViolation
        assert f"is {party}, but " in str(caught)
        assert "check the address and who may connect" in str(caught)
        assert failure_of(federation, client) in {"peer-violation", "peer-disconnected", "peer-reported"}
    assert received == []  # not even the ticket


class OtherTicket(RecordingClient):
    """A front end that hands out a ticket of the test's making."""

    ticket = ""

    def open_session(self, **named: Any) -> SessionView:
        return super().open_session(**named).model_copy(update={"ticket": self.ticket})


WRONG_TICKETS: dict[str, tuple[Callable[[Federation, Path], str], str]] = {
    "expired": (lambda all_, _: all_.expired_ticket(), "has expired: open a new session"),
    "forged": (lambda all_, path: all_.forged_ticket(path / "other"), "forged: no pinned key .* has signed it"),
    "empty": (lambda _, __: "", "malformed"),
    "another data owner's": (lambda all_, _: all_.ticket(data_owner="elsewhere"), "made for somebody else"),
    "for more images": (
        lambda all_, _: all_.ticket(images=2, engine=Engine.MASKED),
        "for another session than the one asked for",
    ),
    "another session's": (lambda all_, _: all_.ticket(), "for another session than the one asked for"),
}


@pytest.mark.parametrize("case", WRONG_TICKETS)
def test_a_wrong_ticket_goes_nowhere_and_the_session_ends(
    federation: Federation, chest: Path, tmp_path: Path, case: str
) -> None:
    make, words = WRONG_TICKETS[case]
    kind = type("Wrong", (OtherTicket,), {"ticket": make(federation, tmp_path)})
    with federation.diagnoser(kind=kind) as (diagnoser, client):
        caught = attempt(diagnoser, chest)
        assert type(caught) is TicketInvalid
        assert re.search(words, str(caught))
        assert failure_of(federation, client) == "ticket-invalid"


def test_a_model_of_an_owner_that_is_not_pinned_is_not_used(federation: Federation, chest: Path) -> None:
    """Not even where it is named: neither is a picture read by its card, nor its plan, nor a session opened."""
    with federation.diagnoser(model_owners=(Peer(organisation="another"),)) as (diagnoser, client):
        with pytest.raises(ConfigurationError, match=r"tiny-chest belongs to north-lab, which the settings do not"):
            diagnoser.choose_model("tiny-chest")
        with pytest.raises(ConfigurationError, match=r"nothing was sent\. Choose another model, or add north-lab"):
            diagnoser.diagnose(chest, client.model("tiny-chest"), engine=Engine.CRYPTEN, force=False, progress=SILENT)
        assert client.opened == []


def test_a_party_that_is_not_pinned_is_not_spoken_to(federation: Federation, chest: Path) -> None:
    with federation.diagnoser(crypto_providers=(Peer(organisation="another"),)) as (diagnoser, client):
        entry = client.model("tiny-chest")
        with pytest.raises(TicketInvalid, match=r"does not pin; nothing was sent\. Add it to the settings only if"):
            diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
        assert failure_of(federation, client) == "ticket-invalid"


def test_the_front_end_is_down(federation: Federation, chest: Path) -> None:
    with federation.diagnoser() as (diagnoser, client):
        client._url = f"http://127.0.0.1:{closed_port()}"
        with pytest.raises(PeerUnreachable, match=r"inference service .* cannot be reached: check that it runs"):
            diagnoser.choose_model(None)


class FailsAt(RecordingClient):
    """A front end that goes away when this event is reported."""

    event = SessionEventName.COMPLETE

    def report(self, session: UUID, event: SessionEventName, report: SessionReport | None = None) -> SessionView:
        if event is self.event:
            raise PeerUnreachable("the inference service cannot be reached: check that it runs")
        return super().report(session, event, report)


class SaysWhatItLikes(RecordingClient):
    """A front end that writes beside a result."""

    def report(self, session: UUID, event: SessionEventName, report: SessionReport | None = None) -> SessionView:
        if event is SessionEventName.COMPLETE:
            raise Refused("CANARY the picture is normal")
        return super().report(session, event, report)


def test_words_of_the_front_end_do_not_stand_beside_a_result(federation: Federation, chest: Path) -> None:
    with federation.diagnoser(kind=SaysWhatItLikes) as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
    assert [warning.code for warning in diagnosis.warnings] == ["not-recorded"]
    assert "CANARY" not in diagnosis.model_dump_json()


def test_a_result_survives_a_front_end_that_goes_away(federation: Federation, chest: Path) -> None:
    with federation.diagnoser(kind=FailsAt) as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
    assert [warning.code for warning in diagnosis.warnings] == ["not-recorded"]
    assert "cannot be reached: check that it runs" in diagnosis.warnings[0].text
    assert sum((class_answer(diagnosis).probabilities or {}).values()) == pytest.approx(1)


@pytest.mark.parametrize("event", [SessionEventName.PREPARE, SessionEventName.RUN])
def test_no_image_is_shared_once_the_front_end_has_gone(
    federation: Federation, chest: Path, event: SessionEventName
) -> None:
    kind = type("Gone", (FailsAt,), {"event": event})
    with federation.diagnoser(kind=kind) as (diagnoser, client):
        assert type(attempt(diagnoser, chest)) is PeerUnreachable
        assert failure_of(federation, client) in {"peer-unreachable", "peer-disconnected"}


def test_a_session_that_the_front_end_cancelled_does_not_run(federation: Federation, chest: Path) -> None:
    with federation.diagnoser() as (diagnoser, client):

        def cancel(stage: Stage) -> None:
            if stage is Stage.PREPARING:
                client.cancel(client.opened[0].id)

        progress = Progress(stage=cancel, layer=SILENT.layer)
        with pytest.raises(Refused, match="session that is cancelled cannot prepare: it has ended; open a new"):
            diagnoser.diagnose(chest, client.model("tiny-chest"), engine=Engine.CRYPTEN, force=False, progress=progress)
        assert client.session(client.opened[0].id).state is SessionState.CANCELLED


def test_an_interrupt_cancels_the_session(federation: Federation, chest: Path) -> None:
    def interrupt(_index: int, _total: int, _name: str) -> None:
        raise KeyboardInterrupt

    with federation.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        progress = Progress(stage=SILENT.stage, layer=interrupt)
        with pytest.raises(KeyboardInterrupt):
            diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=progress)
        assert federation.ended(client.opened[0]).state is SessionState.CANCELLED


def test_doubtful_images_ask_for_force_before_a_session_is_opened(federation: Federation, tmp_path: Path) -> None:
    path = radiograph(tmp_path / "scan.dcm", Modality="CT")
    with federation.diagnoser() as (diagnoser, client):
        caught = attempt(diagnoser, path)
        assert type(caught) is NeedsConfirmation
        assert str(caught) == (
            "the file's modality is CT; the model was made for CR, DX; submit it anyway with --force"
        )
        assert client.opened == []
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(path, entry, engine=Engine.CRYPTEN, force=True, progress=SILENT)
    assert [warning.code for warning in diagnosis.warnings] == ["wrong-modality"]


@pytest.mark.parametrize("stocks", [False, True])
def test_what_a_plan_needs_is_loaded_before_a_session_is_opened(
    federation: Federation, chest: Path, stocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadlines run from then on, and others wait."""
    asked: list[Engine] = []

    def stop(plan: Plan, engine: Engine) -> None:
        assert plan.engines.masked is not None
        asked.append(engine)
        raise Refused("enough seen")

    monkeypatch.setattr("data_owner.session.warm_up_for", stop)
    with federation.diagnoser() as (diagnoser, client):
        entry = diagnoser.choose_model(None)
        begin = diagnoser.stock if stocks else partial(diagnoser.diagnose, chest, force=False)
        with pytest.raises(Refused, match="enough seen"):
            begin(entry, engine=Engine.MASKED, progress=SILENT)
        assert client.opened == []
    assert asked == [Engine.MASKED]


def test_a_plan_beyond_the_hospitals_limits_ends_before_a_session_is_opened(
    federation: Federation, chest: Path
) -> None:
    limits = PlanLimits(one_way_trips=1)
    with federation.diagnoser(plan_limits=limits) as (diagnoser, client):
        entry = diagnoser.catalog.choose(None)
        with pytest.raises(ModelFileError, match=r"1 one-way trips that plan_limits\.one_way_trips allows"):
            diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
        assert client.opened == []


def test_an_unknown_model(federation: Federation) -> None:
    with federation.diagnoser() as (diagnoser, _), pytest.raises(Refused, match="model"):
        diagnoser.choose_model("absent")


def test_no_pinned_model_owner_offers_anything(federation: Federation) -> None:
    with (
        federation.diagnoser(model_owners=(Peer(organisation="another"),)) as (diagnoser, _),
        pytest.raises(ConfigurationError, match="no model in service belongs to another, which the settings"),
    ):
        diagnoser.choose_model(None)


def test_progress_names_every_layer_in_order(federation: Federation, chest: Path) -> None:
    stages: list[Stage] = []
    layers: list[tuple[int, int]] = []
    progress = Progress(stage=stages.append, layer=lambda index, total, _name: layers.append((index, total)))
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=progress)
    assert stages == [Stage.READING, Stage.OPENING, Stage.PREPARING, Stage.COMPUTING]
    assert layers == [(index, len(layers)) for index in range(len(layers))]


def test_a_session_takes_the_trips_of_its_plan_and_one_for_the_receipt(federation: Federation, chest: Path) -> None:
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.MASKED, force=False, progress=SILENT)
    assert federation.model.plan.engines.masked is not None
    assert diagnosis.one_way_trips == total_cost(federation.model.plan.engines.masked).trips + 1


def test_waiting_for_material_has_its_own_deadline(federation: Federation, chest: Path) -> None:
    waiting = Waiting(connect=10, step=20, material=0.5)
    with (
        model_owner_that(federation, misbehaviour.stall) as settings,
        federation.diagnoser(waiting=waiting, **settings) as (diagnoser, _),
    ):
        caught = attempt(diagnoser, chest)
    assert isinstance(caught, DeadlineExceeded)
    assert caught.waited_seconds < 19  # `step` would be 20


def test_counts_agree_on_both_sides(federation: Federation, chest: Path) -> None:
    """Bytes of the three parties add up to what crossed the channels, and the online part is the larger."""
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        diagnosis = diagnoser.diagnose(chest, entry, engine=Engine.CRYPTEN, force=False, progress=SILENT)
    sent = diagnosis.bytes
    assert sent.data_owner_sent + sent.model_owner_sent + sent.crypto_provider_sent == sent.online + sent.offline
    assert min(sent.data_owner_sent, sent.model_owner_sent, sent.crypto_provider_sent, sent.offline) > 0
    assert sum(link.online for link in sent.links) == sent.online
    assert sum(link.offline for link in sent.links) == sent.offline
    for role, total in (
        (Role.DATA_OWNER, sent.data_owner_sent),
        (Role.MODEL_OWNER, sent.model_owner_sent),
        (Role.CRYPTO_PROVIDER, sent.crypto_provider_sent),
    ):
        assert sum(link.online + link.offline for link in sent.links if link.sender is role) == total
    assert diagnosis.one_way_trips > 10
