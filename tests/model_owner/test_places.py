"""A hospital that would take every place of a model owner or dealer, and what a refusal for want of one costs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from contract.allowance import Allowance
from contract.api import SessionState, SessionView
from contract.errors import BudgetSpent, PeerReported
from contract.identity import Party, Role
from contract.ticket import Engine
from inference_service.accounts import AccountRole
from model_owner.oversight import Oversight
from model_owner.server import InferenceHandler
from secure_computation import admission as reception
from secure_computation.admission import STEP, STOCKED_ITEM_STEP, present_ticket
from secure_computation.channel.channel import Channel
from secure_computation.channel.stream import Deadline
from secure_computation.wire import Kind, Phase
from tests.end_to_end.federation import HOSPITAL, LABORATORY, SILENT, TRUST_CENTRE, Federation, RecordingClient

RIVAL = Party(role=Role.DATA_OWNER, organisation="rival")
ONE_IMAGE = Allowance(images=1, items=0)


def until(condition: Callable[[], bool]) -> None:
    """Wait, as long as a busy machine may need."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        threading.Event().wait(0.01)


@contextmanager
def begun(federation: Federation, url: str, own: Party, ticket: str | None = None) -> Iterator[Channel]:
    """A session that has its place at the model owner, and does not go on."""
    with federation.dial(url, own, LABORATORY) as channel:
        present_ticket(channel, ticket or federation.ticket(data_owner=own.organisation))
        channel._stream.read_some(Deadline(peer="the model owner", step="any", seconds=20))
        yield channel


def refusal(channel: Channel, ticket: str) -> str:
    """Under which code the other end turns a ticket away."""
    present_ticket(channel, ticket)
    channel.set_phase(Phase.OFFLINE)
    with pytest.raises(PeerReported) as caught:
        channel.receive_hello(step="material ready")
    return caught.value.reported


@contextmanager
def clinician(federation: Federation) -> Iterator[RecordingClient]:
    """The client of an account that may have one image evaluated a day."""
    account, key = federation.front_end.accounts.add(role=AccountRole.CLINICIAN, organisation=HOSPITAL.organisation)
    federation.front_end.accounts.allow(account.prefix, ONE_IMAGE)
    with RecordingClient(federation.front_end_url, key) as client:
        yield client


def open_session(client: RecordingClient, engine: Engine = Engine.CRYPTEN) -> SessionView:
    return client.open_session(model="tiny-chest", engine=engine)


@pytest.mark.parametrize("who", [RIVAL, HOSPITAL])
def test_silent_channels_take_no_place(federation: Federation, chest: Path, who: Party) -> None:
    with (
        federation.dealer(channels_at_once=1) as dealer_url,
        federation.model_owner(sessions_at_once=1, dealer_url=dealer_url) as url,
        ExitStack() as silent,
    ):
        for _ in range(8):
            silent.enter_context(federation.dial(url, who, LABORATORY))
            silent.enter_context(federation.dial(dealer_url, who, TRUST_CENTRE))
        for _ in range(2):
            assert federation.diagnose(chest, engine=Engine.MASKED, model_owner_url=url, dealer_url=dealer_url).logits


def test_of_those_who_show_no_ticket_the_newest_stay(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "WAITING_EACH", 2)
    with federation.model_owner() as url, ExitStack() as silent:
        first, *_ = [silent.enter_context(federation.dial(url, RIVAL, LABORATORY)) for _ in range(3)]
        with pytest.raises(PeerReported, match="too many channels of this party show no ticket"):
            first.receive_hello(step="ticket")


def test_one_hospital_leaves_a_place_to_others(federation: Federation, chest: Path) -> None:
    with federation.model_owner(sessions_at_once=2) as url, begun(federation, url, RIVAL):
        with federation.dial(url, RIVAL, LABORATORY) as second:
            assert refusal(second, federation.ticket(data_owner="rival")) == "busy"
        assert federation.diagnose(chest, engine=Engine.MASKED, model_owner_url=url).logits


@pytest.mark.parametrize("told", [(InferenceHandler, "_report"), (Oversight, "_exchange_heads_now")])
def test_a_session_that_ended_has_no_place_while_the_front_end_is_told(
    federation: Federation, chest: Path, monkeypatch: pytest.MonkeyPatch, told: tuple[type, str]
) -> None:
    telling, answers = threading.Event(), threading.Event()

    def tell(*_: object) -> None:
        telling.set()
        assert answers.wait(30)

    monkeypatch.setattr(*told, tell)
    with federation.model_owner(sessions_at_once=1) as url:
        if told[0] is InferenceHandler:
            with begun(federation, url, HOSPITAL):
                pass  # and is gone
        else:
            federation.diagnose(chest, engine=Engine.MASKED, model_owner_url=url)
        assert telling.wait(30)
        try:
            assert federation.diagnose(chest, engine=Engine.MASKED, model_owner_url=url).logits
        finally:
            answers.set()


def test_who_is_turned_away_has_lost_nothing_but_its_ticket(federation: Federation) -> None:
    with clinician(federation) as client, federation.model_owner(sessions_at_once=1, allowance=ONE_IMAGE) as url:
        with begun(federation, url, RIVAL):
            session = open_session(client)
            with pytest.raises(BudgetSpent):
                open_session(client)
            with federation.dial(url, HOSPITAL, LABORATORY) as late:
                assert refusal(late, session.ticket or "") == "busy"
        assert federation.ended(session).state is SessionState.TURNED_AWAY
        with federation.dial(url, HOSPITAL, LABORATORY) as again:
            assert refusal(again, session.ticket or "") == "material-spent"
        with begun(federation, url, HOSPITAL, open_session(client).ticket):
            pass  # neither the front end nor the model owner has counted the one that was turned away


def test_a_ticket_that_is_in_use_is_given_back_to_nobody(federation: Federation) -> None:
    with clinician(federation) as client, federation.model_owner(sessions_at_once=1) as url:
        session = open_session(client)
        with begun(federation, url, HOSPITAL, session.ticket):
            with federation.dial(url, HOSPITAL, LABORATORY) as replay:
                assert refusal(replay, session.ticket or "") == "material-spent"
            assert client.session(session.id).state is SessionState.OPENED


def test_who_is_turned_away_by_the_dealer_has_lost_nothing_either(federation: Federation) -> None:
    with (
        clinician(federation) as client,
        federation.dealer(channels_at_once=1) as dealer_url,
        federation.model_owner(dealer_url=dealer_url, allowance=ONE_IMAGE) as url,
    ):
        with federation.dial(dealer_url, RIVAL, TRUST_CENTRE) as rival:
            present_ticket(rival, federation.ticket(data_owner="rival"))
            rival.set_phase(Phase.OFFLINE)
            rival.receive_seed(step="seed")  # and does not say that it has it
            session = open_session(client, Engine.MASKED)
            with federation.dial(url, HOSPITAL, LABORATORY) as late:
                present_ticket(late, session.ticket or "")
                late.set_phase(Phase.OFFLINE)
                late.send_hello({"items": []}, step=STOCKED_ITEM_STEP)
                with pytest.raises(PeerReported, match=r"\(busy\): crypto-provider of trust-centre ended the session"):
                    late.receive_hello(step="material ready")
            with federation.dial(dealer_url, HOSPITAL, TRUST_CENTRE) as other_half:
                assert refusal(other_half, session.ticket or "") == "busy"
        assert federation.ended(session).state is SessionState.TURNED_AWAY
        with begun(federation, url, HOSPITAL, open_session(client).ticket):
            pass


@pytest.mark.parametrize("engine", Engine)
def test_it_is_given_back_whichever_party_the_dealer_turns_away_first(
    federation: Federation, chest: Path, engine: Engine
) -> None:
    with (
        federation.dealer(channels_at_once=1) as dealer_url,
        federation.model_owner(dealer_url=dealer_url) as url,
        federation.diagnoser(model_owner_url=url, dealer_url=dealer_url) as (diagnoser, client),
        federation.dial(dealer_url, RIVAL, TRUST_CENTRE) as rival,
    ):
        present_ticket(rival, federation.ticket(data_owner="rival"))
        rival.set_phase(Phase.OFFLINE)
        rival.receive_seed(step="seed")
        entry = diagnoser.choose_model(None)
        with pytest.raises(PeerReported) as caught:
            diagnoser.diagnose(chest, entry, engine=engine, force=False, progress=SILENT)
        assert caught.value.reported == "busy"
        until(lambda: client.session(client.opened[0].id).state is SessionState.TURNED_AWAY)


@pytest.mark.parametrize("why", ["ticket-invalid", "material-spent", "budget-spent", "peer-violation"])
def test_refusals_that_a_party_can_have_without_end_are_a_line(
    federation: Federation, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    allowance = Allowance(images=0) if why == "budget-spent" else Allowance()
    with federation.model_owner(allowance=allowance) as url:
        ticket = federation.expired_ticket() if why == "ticket-invalid" else federation.ticket()
        if why == "material-spent":
            with begun(federation, url, HOSPITAL, ticket):
                pass
            until(lambda: any("session with data-owner of st-mary failed" in line for line in caplog.messages))
            caplog.clear()
        for _ in range(5):
            with federation.dial(url, HOSPITAL, LABORATORY) as channel:
                if why == "peer-violation":
                    channel._send(Kind.HELLO, STEP, (b"no JSON",))
                    with pytest.raises(PeerReported, match=why):
                        channel.receive_end(step="any")
                else:
                    assert refusal(channel, ticket) == why
    assert sum("session with data-owner of st-mary failed" in line for line in caplog.messages) == 1


def test_a_data_owners_word_gives_nothing_back(federation: Federation) -> None:
    with clinician(federation) as client, federation.model_owner() as url:
        session = open_session(client)
        with federation.dial(url, HOSPITAL, LABORATORY) as channel:
            present_ticket(channel, session.ticket or "")
            channel.set_phase(Phase.OFFLINE)
            channel.send_error("busy", "crypto-provider of trust-centre: every place is taken", step="any")
            assert federation.ended(session).state is SessionState.FAILED
        with pytest.raises(BudgetSpent):
            open_session(client)
