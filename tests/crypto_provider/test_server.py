"""The dealer's server: whom it deals to, what it sends, and what becomes of it when others fail."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bookkeeping.spending import SpendingBook
from contract.errors import DeadlineExceeded, ModelFileError, PeerReported, PeerUnreachable, TicketInvalid
from contract.identity import Party, Role
from contract.ticket import PUBLIC_KEY_FILE, Engine, Purpose, load_public_key
from crypto_provider.dealer import Dealer
from crypto_provider.server import DealingHandler, remember_plans
from plumbing.settings import FrontEnd, PlanLimits
from secure_computation.admission import Reception, present_ticket
from secure_computation.channel.channel import Channel
from secure_computation.channel.memory import memory_pair
from secure_computation.places import Places
from secure_computation.plan import Plan
from secure_computation.randomness import Seed
from secure_computation.wire import Frame, Kind, Phase
from tests.end_to_end.federation import (
    HOSPITAL,
    LABORATORY,
    SHORT,
    TRUST_CENTRE,
    Federation,
    closed_port,
)
from tests.end_to_end.misbehaviour import VIOLATIONS
from tests.secure_computation.test_stock_folder import CLAIMS


def ask(channel: Channel, ticket: str) -> bytes:
    """The seed, or the error that the dealer reports."""
    present_ticket(channel, ticket)
    channel.set_phase(Phase.OFFLINE)
    return channel.receive_seed(step="seed")


def refusal(channel: Channel, ticket: str) -> str:
    with pytest.raises(PeerReported) as caught:
        ask(channel, ticket)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG_TICKETS: dict[str, tuple[Callable[[Federation, Path], str], str]] = {
    "expired": (lambda all_, _: all_.expired_ticket(), "has expired: open a new session"),
    "forged": (lambda all_, path: all_.forged_ticket(path / "other"), "forged: no pinned key .* has signed it"),
    "malformed": (lambda _, __: "a.b.c", "malformed: it is not a signed JWT"),
    "another data owner's": (lambda all_, _: all_.ticket(data_owner="elsewhere"), "made for somebody else"),
    "another dealer's": (lambda all_, _: all_.ticket(crypto_provider="elsewhere"), "made for somebody else"),
    "another purpose's": (lambda all_, _: all_.ticket(purpose=Purpose.PREPARE), "open a session to diagnose"),
    "an unknown plan's": (lambda all_, _: all_.ticket(plan_hash="0" * 64), "plan"),
}


def test_no_ticket_raises_what_an_organisation_may_order(federation: Federation, tmp_path: Path) -> None:
    """Tickets are signed here with the front end's own key; parties are counted apart, by their certificates."""
    for first in (True, False):  # it outlives a restart
        with federation.dealer(items_per_day=2, data_folder=tmp_path) as url:
            with federation.dial(url, HOSPITAL, TRUST_CENTRE) as channel:
                if first:
                    assert len(ask(channel, federation.ticket())) == 32
                else:
                    assert "the budget of the data-owner of st-mary, 2 items of material a day, has 1" in refusal(
                        channel, federation.ticket(engine=Engine.MASKED, images=2)
                    )
            with federation.dial(url, LABORATORY, TRUST_CENTRE) as channel:
                assert len(ask(channel, federation.ticket())) == 32


@pytest.mark.parametrize("case", WRONG_TICKETS)
def test_a_wrong_ticket_is_refused_with_its_reason(federation: Federation, tmp_path: Path, case: str) -> None:
    make, expected = WRONG_TICKETS[case]
    with federation.dial(federation.dealer_url, HOSPITAL, TRUST_CENTRE) as channel:
        assert re.search(expected, refusal(channel, make(federation, tmp_path)))


@pytest.mark.parametrize("role", [Role.CRYPTO_PROVIDER, Role.INFERENCE_SERVICE])
def test_a_certificate_of_the_wrong_role_is_refused(federation: Federation, role: Role) -> None:
    intruder = Party(role=role, organisation="st-mary")
    with (
        federation.dial(federation.dealer_url, intruder, TRUST_CENTRE) as channel,
        pytest.raises(PeerReported, match="but a data-owner or a model-owner was expected: check"),
    ):
        channel.receive_seed(step="tls handshake")


def test_a_model_owners_ticket_is_of_no_use_to_another_model_owner(federation: Federation) -> None:
    other = Party(role=Role.MODEL_OWNER, organisation="south-lab")
    with federation.dial(federation.dealer_url, other, TRUST_CENTRE) as channel:
        assert "does not name the model-owner of south-lab" in refusal(channel, federation.ticket())


def test_a_half_is_dealt_once(federation: Federation) -> None:
    ticket = federation.ticket()
    with federation.dial(federation.dealer_url, HOSPITAL, TRUST_CENTRE) as first:
        assert len(ask(first, ticket)) == 32
    with federation.dial(federation.dealer_url, HOSPITAL, TRUST_CENTRE) as second:
        assert "(material-spent)" in (words := refusal(second, ticket))
        assert "start a new session" in words


def test_a_dealer_that_restarted_between_the_halves_refuses_the_second(federation: Federation, tmp_path: Path) -> None:
    ticket = federation.ticket()
    with (
        federation.dealer(data_folder=tmp_path / "data") as url,
        federation.dial(url, HOSPITAL, TRUST_CENTRE) as channel,
    ):
        ask(channel, ticket)
    with (
        federation.dealer(data_folder=tmp_path / "data") as url,
        federation.dial(url, LABORATORY, TRUST_CENTRE) as channel,
    ):
        assert "its seeds are forgotten; start a new session" in refusal(channel, ticket)


def test_the_data_owner_is_sent_a_seed_and_nothing_else(federation: Federation) -> None:
    frames: list[Frame] = []
    with federation.dial(federation.dealer_url, HOSPITAL, TRUST_CENTRE, recorder=frames.append) as channel:
        ask(channel, federation.ticket())
        channel.send_end(step="material received")
    assert [(frame.kind, len(frame.body)) for frame in frames] == [(Kind.SEED, 32)]


@pytest.mark.parametrize("case", VIOLATIONS)
def test_a_party_that_breaks_the_protocol_is_told_so(federation: Federation, case: str) -> None:
    """In the place of its ticket. Another party on the same server is served meanwhile."""
    deed, _ = VIOLATIONS[case]
    with (
        federation.dial(federation.dealer_url, HOSPITAL, TRUST_CENTRE) as channel,
        federation.dial(federation.dealer_url, HOSPITAL, TRUST_CENTRE) as other,
    ):
        deed(channel)
        assert len(ask(other, federation.ticket())) == 32
        with pytest.raises(PeerReported, match="st-mary broke the protocol in step 'ticket'"):
            channel.receive_end(step="any")


def test_a_party_that_falls_silent_is_given_up(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    with (
        federation.dealer(waiting=SHORT) as url,
        federation.dial(url, HOSPITAL, TRUST_CENTRE) as channel,
        pytest.raises(PeerReported, match=r"data-owner of st-mary did not answer within .* in step 'ticket'"),
    ):
        channel.receive_seed(step="seed")
    assert "did not answer within" in caplog.text


def test_the_front_end_is_down(federation: Federation) -> None:
    """Whoever asks for material hears that the dealer cannot read the plan, and why."""
    front_end = FrontEnd(
        url=f"http://127.0.0.1:{closed_port()}", api_key=federation.front_end_keys[Role.CRYPTO_PROVIDER]
    )
    with (
        federation.dealer(inference_service=front_end) as url,
        federation.dial(url, HOSPITAL, TRUST_CENTRE) as channel,
    ):
        assert "the inference service cannot be reached by the crypto-provider of trust-centre" in (
            words := refusal(channel, federation.ticket())
        )
        assert front_end.url not in words


def test_plans_are_fetched_once_and_the_oldest_is_forgotten(federation: Federation) -> None:
    plan = federation.model.plan.canonical_bytes()
    fetched: list[str] = []

    def fetch(plan_hash: str) -> bytes:
        fetched.append(plan_hash)
        return plan

    cache = remember_plans(fetch, size=2)
    for plan_hash in ("a", "a", "b", "a", "c", "a", "b"):
        cache(plan_hash)
    assert fetched == ["a", "b", "c", "b"]


def test_a_slow_fetch_holds_up_no_other_session(federation: Federation) -> None:
    plan = federation.model.plan.canonical_bytes()
    arrived, release = threading.Event(), threading.Event()

    def fetch(plan_hash: str) -> bytes:
        if plan_hash == "slow":
            arrived.set()
            release.wait(10)
            raise DeadlineExceeded(peer="the inference service", step="GET plan", waited_seconds=10)
        return plan

    cache = remember_plans(fetch)

    def slow() -> None:
        with pytest.raises(DeadlineExceeded):
            cache("slow")

    thread = threading.Thread(target=slow)
    thread.start()
    assert arrived.wait(5)
    other = threading.Thread(target=cache, args=("other",))
    other.start()
    other.join(5)
    assert not other.is_alive()
    release.set()
    thread.join(5)


def test_a_plan_that_could_not_be_fetched_is_asked_for_again(federation: Federation) -> None:
    plan = federation.model.plan.canonical_bytes()
    answers = [PeerUnreachable("the inference service cannot be reached: check that it runs"), None]

    def fetch(_: str) -> bytes:
        if (error := answers.pop(0)) is not None:
            raise error
        return plan

    cache = remember_plans(fetch)
    with pytest.raises(PeerUnreachable):
        cache("a")
    assert cache("a").network.classes == 3


def one_image_a_day(folder: Path) -> Dealer:
    return Dealer(SpendingBook(folder / "orders.sqlite"), own=TRUST_CENTRE, items_per_day=1)


def handler_for(federation: Federation, dealer: Dealer, plans: Callable[[str], Plan]) -> DealingHandler:
    return DealingHandler(
        credentials=federation.credentials(TRUST_CENTRE),
        reception=Reception(
            own=TRUST_CENTRE,
            public_keys=[load_public_key(federation.folder / "front-end" / PUBLIC_KEY_FILE)],
            places=Places(in_all=4),
        ),
        plans=plans,
        dealer=dealer,
        key=Seed.fresh(),
    )


def test_a_plan_beyond_the_dealers_limits_is_not_dealt_for(federation: Federation, tmp_path: Path) -> None:
    plan = federation.model.plan
    limits = PlanLimits(offline_bytes=1000)
    dealer = one_image_a_day(tmp_path)
    handler = handler_for(federation, dealer, remember_plans(lambda _: plan.canonical_bytes(), limits=limits))
    own, dealers = memory_pair(HOSPITAL, TRUST_CENTRE)
    present_ticket(own, federation.ticket(plan_hash=plan.plan_hash(), engine=Engine.MASKED))
    with pytest.raises(ModelFileError, match=r"plan_limits\.offline_bytes"):
        handler(dealers)
    assert len(dealer.claim(CLAIMS, HOSPITAL)) == 1  # nothing of the budget, which is 1, was used


def test_masks_that_stay_laid_out_are_bounded_and_made_while_others_are_served(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = federation.model.plan
    handler = handler_for(federation, one_image_a_day(tmp_path), remember_plans(lambda _: plan.canonical_bytes()))
    claims = {name: CLAIMS.model_copy(update={"plan_hash": name, "engine": Engine.MASKED}) for name in "abc"}
    making: list[str] = []

    def make(*_: object, **__: object) -> object:
        making.append("")
        if len(making) == 1:  # amid this one's making, another session comes and is served
            assert handler._side(claims["b"], plan) is not None
        return object()

    monkeypatch.setattr("crypto_provider.server.dealer_side", make)
    first = handler._side(claims["a"], plan)
    assert handler._side(claims["a"], plan) is first
    monkeypatch.setattr("crypto_provider.server.KEPT_WEIGHTS", 1)
    handler._side(claims["c"], plan)
    assert [plan_hash for plan_hash, _ in handler._sides] == ["c"]


def test_an_engine_that_the_plan_does_not_have(federation: Federation, tmp_path: Path) -> None:
    plan = federation.model.plan
    plan = plan.model_copy(update={"engines": plan.engines.model_copy(update={"masked": None})})
    dealer = one_image_a_day(tmp_path)
    handler = handler_for(federation, dealer, remember_plans(lambda _: plan.canonical_bytes()))
    own, dealers = memory_pair(HOSPITAL, TRUST_CENTRE)
    present_ticket(own, federation.ticket(plan_hash=plan.plan_hash(), engine=Engine.MASKED))
    with pytest.raises(TicketInvalid, match="the engine 'masked', which its plan does not have"):
        handler(dealers)
    assert len(dealer.claim(CLAIMS, HOSPITAL)) == 1  # nothing of the budget, which is 1, was used


def test_servers_of_the_dealer_and_the_model_owner_are_ready_without_torch() -> None:
    """It takes 170 MB, and no session of the masked engine needs it on a processor with AVX-512 VNNI."""
    program = "import sys, crypto_provider.server, model_owner.server; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
