"""The model owner's server against data owners and dealers that fail, lie or fall silent."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

import data_owner.session
from contract.api import SessionEventName, SessionReport, SessionState, SessionView
from contract.errors import (
    EncryptedInferenceError,
    ModelFileError,
    PeerReported,
    PeerUnreachable,
    TransportError,
)
from contract.identity import Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose
from data_owner.session import Diagnoser
from demonstration.plaintext import PlaintextModel
from inference_service.client import InferenceServiceClient
from model_owner.imported_models import ImportedModels
from model_owner.registration import Registrar
from model_owner.server import load_models
from plumbing.settings import FrontEnd
from secure_computation.admission import present_ticket
from secure_computation.channel.channel import Channel
from secure_computation.channel.stream import Deadline
from secure_computation.channel.websocket import connect_channel
from secure_computation.wire import Phase
from tests.end_to_end import misbehaviour
from tests.end_to_end.federation import (
    HOSPITAL,
    LABORATORY,
    SEALING,
    SHORT,
    SILENT,
    TRUST_CENTRE,
    WAITING,
    Federation,
    RecordingClient,
    closed_port,
)
from tests.end_to_end.misbehaviour import VIOLATIONS, Deed, Sabotage, sabotage
from tests.end_to_end.models import DITHER, radiograph


def words_of(channel: Channel, step: str = "material ready") -> str:
    """Why the other end gives up."""
    with pytest.raises(PeerReported) as caught:
        channel.receive_hello(step=step)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def open_session(federation: Federation) -> SessionView:
    with federation.client() as client:
        return client.open_session(model="tiny-chest", engine=Engine.CRYPTEN)


def failure_of(federation: Federation, view: SessionView) -> tuple[str, str]:
    """Code and words under which a session ended as failed."""
    ended = federation.ended(view)
    assert ended.state is SessionState.FAILED
    assert ended.failure is not None
    assert "\n" not in ended.failure.message
    return ended.failure.code, ended.failure.message


Wrong = dict[str, tuple[Callable[[Federation, Path], str], str]]
WRONG_TICKETS: Wrong = {
    "expired": (lambda all_, _: all_.expired_ticket(), "has expired: open a new session"),
    "forged": (lambda all_, path: all_.forged_ticket(path / "other"), "forged: no pinned key .* has signed it"),
    "malformed": (lambda _, __: "a.b.c", "malformed: it is not a signed JWT"),
    "another data owner's": (
        lambda all_, _: all_.ticket(data_owner="elsewhere"),
        "made for somebody else: it does not name the data-owner of st-mary",
    ),
    "another model owner's": (
        lambda all_, _: all_.ticket(model_owner="south-lab"),
        "made for somebody else: it does not name the model-owner of north-lab",
    ),
    "another plan's": (lambda all_, _: all_.ticket(plan_hash="0" * 64), "must register this version again"),
    "another model's": (lambda all_, _: all_.ticket(model="absent"), "absent 1.0.0 is not served here"),
    "another version's": (lambda all_, _: all_.ticket(version="9.0.0"), "9.0.0 is not served here"),
    "another purpose's": (lambda all_, _: all_.ticket(purpose=Purpose.PREPARE), "open a session to diagnose"),
    "another output's": (
        lambda all_, _: all_.ticket(output_policy=OutputPolicy.LABEL_ONLY),
        "allows another output .* than its card",
    ),
}


@pytest.mark.parametrize("case", WRONG_TICKETS)
def test_a_wrong_ticket_is_refused_with_its_reason(federation: Federation, tmp_path: Path, case: str) -> None:
    make, expected = WRONG_TICKETS[case]
    with federation.dial(federation.model_owner_url, HOSPITAL, LABORATORY) as channel:
        present_ticket(channel, make(federation, tmp_path))
        channel.set_phase(Phase.OFFLINE)
        assert re.search(expected, words_of(channel))


@pytest.mark.parametrize("hello", [{}, {"ticket": 7}])
def test_no_ticket(federation: Federation, hello: dict[str, Any]) -> None:
    with federation.dial(federation.model_owner_url, HOSPITAL, LABORATORY) as channel:
        channel.send_hello(hello, step="ticket")
        assert "presented no ticket" in words_of(channel)


def test_a_replayed_ticket_is_refused_and_the_session_that_it_is_for_goes_on(
    federation: Federation, chest: Path
) -> None:
    session = open_session(federation)
    ticket = session.ticket or ""
    with federation.dial(federation.model_owner_url, HOSPITAL, LABORATORY) as first:
        present_ticket(first, ticket)
        first.set_phase(Phase.OFFLINE)
        first._stream.read_some(Deadline(peer="the model owner", step="any", seconds=20))  # it has begun
        with federation.dial(federation.model_owner_url, HOSPITAL, LABORATORY) as second:
            present_ticket(second, ticket)
            assert "never used twice; start a new session" in words_of(second)
        with federation.client() as client:
            assert client.session(session.id).state is SessionState.OPENED


@pytest.mark.parametrize("role", [Role.MODEL_OWNER, Role.CRYPTO_PROVIDER, Role.INFERENCE_SERVICE])
def test_a_certificate_of_the_wrong_role_is_refused(federation: Federation, role: Role) -> None:
    intruder = Party(role=role, organisation="st-mary")
    with federation.dial(federation.model_owner_url, intruder, LABORATORY) as channel:
        reason = words_of(channel, step="tls handshake")
    assert f"is {role.value} of st-mary, but a data-owner was expected: check" in reason


def test_only_listed_data_owners_are_served(federation: Federation) -> None:
    stranger = Party(role=Role.DATA_OWNER, organisation="elsewhere")
    with (
        federation.model_owner(data_owners=("st-mary",)) as url,
        federation.dial(url, stranger, LABORATORY) as channel,
    ):
        assert "but data-owner of st-mary was expected" in words_of(channel, step="tls handshake")


class Vanished(RecordingClient):
    """The front end's client of a data owner that does not say that its session failed."""

    def report(self, session: UUID, event: SessionEventName, report: SessionReport | None = None) -> SessionView:
        if event is SessionEventName.FAIL:
            return self.opened[-1]
        return super().report(session, event, report)


@contextmanager
def bad_data_owner(
    federation: Federation, url: str, phase: Phase, deed: Deed
) -> Iterator[tuple[RecordingClient, Future[None]]]:
    """A data owner that is honest until it would send its first frame of `phase` to the model owner.

    Data owners that come later are honest to the end.
    """
    deeds = [deed]

    def dial(*arguments: Any, expect: Party, **named: Any) -> Channel:
        channel = connect_channel(*arguments, expect=expect, **named)
        return sabotage(channel, phase, deeds.pop()) if expect == LABORATORY and deeds else channel

    def run(diagnoser: Diagnoser, path: Path) -> None:
        with pytest.raises((Sabotage, TransportError)):
            diagnoser.diagnose(path, diagnoser.choose_model(None), engine=Engine.CRYPTEN, force=False, progress=SILENT)

    with (
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(max_workers=1) as pool,
        federation.diagnoser(model_owner_url=url, kind=Vanished) as (diagnoser, client),
    ):
        patch.setattr(data_owner.session, "connect_channel", dial)
        running = pool.submit(run, diagnoser, radiograph(federation.folder / f"{uuid4().hex}.dcm"))
        yield client, running
        running.result(60)


PHASES = pytest.mark.parametrize("phase", [Phase.OFFLINE, Phase.ONLINE], ids=["offline", "online"])


@PHASES
@pytest.mark.parametrize("case", VIOLATIONS)
def test_a_data_owner_that_breaks_the_protocol(federation: Federation, case: str, phase: Phase) -> None:
    deed, expected = VIOLATIONS[case]
    with (
        federation.model_owner() as url,
        bad_data_owner(federation, url, phase, deed) as (client, running),
    ):
        running.result(60)
        code, words = failure_of(federation, client.opened[0])
    assert code == "peer-violation"
    assert expected in words
    assert words.startswith("data-owner of st-mary broke the protocol in step '")
    assert words.endswith("start a new session")


@PHASES
@pytest.mark.parametrize("deed", [misbehaviour.disconnect, misbehaviour.stall])
def test_a_data_owner_that_goes_away(federation: Federation, chest: Path, deed: Deed, phase: Phase) -> None:
    """Its session fails by name, step and time waited; another one on the same server meanwhile is right."""
    reached, go_on = threading.Event(), threading.Event()

    def later(channel: Channel) -> None:
        reached.set()
        go_on.wait(60)
        deed(channel)

    waiting = SHORT if deed is misbehaviour.stall else WAITING
    with (
        federation.model_owner(waiting=waiting) as url,
        bad_data_owner(federation, url, phase, later) as (client, running),
    ):
        assert reached.wait(60)
        diagnosis = federation.diagnose(chest, model_owner_url=url)
        go_on.set()
        running.result(60)
        code, words = failure_of(federation, client.opened[0])
    assert re.search("in step '.+'", words)
    assert "start a new session" in words
    assert words.startswith("data-owner of st-mary ")
    if deed is misbehaviour.stall:
        assert code == "deadline-exceeded"
        assert re.search(r"within \d+\.\d s", words)
    else:
        assert code == "peer-disconnected"
    expected = PlaintextModel(federation.folder / "model").logits_of_file(chest)
    np.testing.assert_allclose(diagnosis.logits or (), expected, atol=DITHER)


def after_ticket(deed: Deed) -> Deed:
    def handler(channel: Channel) -> None:
        channel.receive_hello(step="ticket")
        channel.set_phase(Phase.OFFLINE)
        deed(channel)

    return handler


BAD_DEALERS: dict[str, tuple[Deed, str]] = {
    "disconnects": (after_ticket(misbehaviour.disconnect), "crypto-provider of trust-centre disconnected in step"),
    "stalls": (after_ticket(misbehaviour.stall), "crypto-provider of trust-centre did not answer within"),
    "garbage": (after_ticket(misbehaviour.send_garbage), "crypto-provider of trust-centre broke the protocol in step"),
    "wrong step": (after_ticket(misbehaviour.send_wrong_step), "crypto-provider of trust-centre broke the protocol"),
    "reports": (after_ticket(misbehaviour.report), "the disk is full; try again later"),
}


@pytest.mark.parametrize("case", BAD_DEALERS)
def test_a_dealer_that_fails_is_named_to_the_data_owner(federation: Federation, chest: Path, case: str) -> None:
    deed, expected = BAD_DEALERS[case]
    with (
        federation.fake(TRUST_CENTRE, deed) as dealer_url,
        federation.model_owner(dealer_url=dealer_url, waiting=SHORT) as url,
        federation.diagnoser(model_owner_url=url) as (diagnoser, client),
    ):
        reason = error_of(diagnoser, chest)
        assert isinstance(reason, PeerReported)
        assert expected in str(reason)
        _, words = failure_of(federation, client.opened[0])
        assert expected in words


def error_of(diagnoser: Any, chest: Path) -> EncryptedInferenceError:
    with pytest.raises(EncryptedInferenceError) as caught:
        diagnoser.diagnose(chest, diagnoser.choose_model(None), engine=Engine.CRYPTEN, force=False, progress=SILENT)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_dealer_that_is_down_is_named_to_the_data_owner(federation: Federation, chest: Path) -> None:
    dealer_url = f"ws://127.0.0.1:{closed_port()}/v2/dealing"
    with (
        federation.model_owner(dealer_url=dealer_url) as url,
        federation.diagnoser(model_owner_url=url) as (diagnoser, client),
    ):
        reason = error_of(diagnoser, chest)
        assert re.search(
            "model-owner of north-lab ended the session .*crypto-provider of trust-centre cannot be reached by the "
            "model-owner of north-lab: try again later",
            str(reason),
        )
        assert "cannot be reached" in failure_of(federation, client.opened[0])[1]


def test_an_impostor_in_the_dealers_place(federation: Federation, chest: Path) -> None:
    with (
        federation.fake(Party(role=Role.CRYPTO_PROVIDER, organisation="impostor"), misbehaviour.stall) as dealer_url,
        federation.model_owner(dealer_url=dealer_url) as url,
        federation.diagnoser(model_owner_url=url) as (diagnoser, client),
    ):
        reason = error_of(diagnoser, chest)
        assert "is crypto-provider of impostor, but crypto-provider of trust-centre was expected" in str(reason)
        assert failure_of(federation, client.opened[0])[0] in {"peer-violation", "peer-reported"}


@pytest.mark.parametrize("policy", [OutputPolicy.LABEL_ONLY, OutputPolicy.LOGITS_AND_HEAT_MAP])
def test_a_model_whose_plan_opens_something_else_than_its_card_says_is_not_put_in_service(
    federation: Federation, policy: OutputPolicy
) -> None:
    model = federation.model
    card = model.card.model_copy(update={"output_policy": policy, "version": "3.0.0"})
    changed = dataclasses.replace(model, card=card)
    with (
        federation.client(Role.MODEL_OWNER) as client,
        pytest.raises(ModelFileError, match=rf"does not keep to the output policy '{policy.value}'.*import it again"),
    ):
        Registrar(federation.model_owner_settings(), {("tiny-chest", "3.0.0"): changed}, client).register()


def test_every_imported_version_is_loaded_and_checked(federation: Federation) -> None:
    assert set(load_models(ImportedModels(federation.folder / "registry", SEALING))) == {("tiny-chest", "1.0.0")}


def test_models_cannot_be_registered_while_the_front_end_is_down(federation: Federation) -> None:
    front_end = FrontEnd(url=f"http://127.0.0.1:{closed_port()}", api_key=federation.front_end_keys[Role.MODEL_OWNER])
    with (
        InferenceServiceClient(front_end.url, front_end.api_key) as client,
        pytest.raises(PeerUnreachable, match=r"inference service .* cannot be reached: check that it runs"),
    ):
        Registrar(federation.model_owner_settings(inference_service=front_end), federation.models, client).register()


def test_an_engine_that_the_plan_does_not_have(federation: Federation) -> None:
    model = federation.model
    plan = model.plan.model_copy(update={"engines": model.plan.engines.model_copy(update={"masked": None})})
    other = dataclasses.replace(federation, models={("tiny-chest", "1.0.0"): dataclasses.replace(model, plan=plan)})
    with other.model_owner() as url, other.dial(url, HOSPITAL, LABORATORY) as channel:
        present_ticket(channel, federation.ticket(plan_hash=plan.plan_hash(), engine=Engine.MASKED))
        channel.set_phase(Phase.OFFLINE)
        assert "the engine 'masked' is not offered for this model; choose crypten" in words_of(channel)
