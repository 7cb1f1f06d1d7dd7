"""Who may run a session now."""

from contextlib import ExitStack
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from contract.errors import Busy
from contract.identity import Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from secure_computation.places import Places

P0, P1 = Role.DATA_OWNER, Role.MODEL_OWNER


def session_of(hospital: str) -> TicketClaims:
    now = int(datetime.now(UTC).timestamp())
    return TicketClaims(
        jti=uuid4(),
        session=uuid4(),
        purpose=Purpose.DIAGNOSE,
        account="test",
        model="resnet",
        version="1.0.0",
        plan_hash="0" * 64,
        card_hash="0" * 64,
        engine=Engine.MASKED,
        data_owner=hospital,
        model_owner="north-lab",
        crypto_provider="trust-centre",
        output_policy=OutputPolicy.LOGITS,
        iat=now,
        exp=now + 60,
    )


@pytest.fixture
def held() -> ExitStack:
    return ExitStack()


def test_no_hospital_takes_every_place(held: ExitStack) -> None:
    places = Places(in_all=4)
    for _ in range(3):
        held.enter_context(places.place(session_of("st-mary"), P0))
    with pytest.raises(
        Busy, match=r"^3 sessions of st-mary run already, the most that one hospital may have here; try"
    ):
        held.enter_context(places.place(session_of("st-mary"), P0))
    held.enter_context(places.place(session_of("elsewhere"), P0))
    with pytest.raises(Busy, match=r"^4 sessions run already, which is the limit; try again in a moment$"):
        held.enter_context(places.place(session_of("third"), P0))
    held.close()
    with places.place(session_of("third"), P0):
        pass


@pytest.mark.parametrize(("in_all", "each", "most"), [(1, None, 1), (2, None, 1), (16, None, 12), (4, 4, 4)])
def test_how_many_one_hospital_may_have(held: ExitStack, in_all: int, each: int | None, most: int) -> None:
    places = Places(in_all=in_all, each=each)
    for _ in range(most):
        held.enter_context(places.place(session_of("st-mary"), P0))
    with pytest.raises(Busy):
        held.enter_context(places.place(session_of("st-mary"), P0))


@pytest.mark.parametrize(("first", "second"), [(P0, P1), (P1, P0)])
def test_a_session_that_has_begun_is_not_turned_away_half_way(held: ExitStack, first: Role, second: Role) -> None:
    places, begun = Places(in_all=1), session_of("st-mary")
    with places.place(begun, first):
        held.enter_context(places.place(begun, second))
    held.enter_context(places.place(session_of("elsewhere"), first))
    with pytest.raises(Busy):  # each party once: who comes again with the same ticket needs a place
        held.enter_context(places.place(begun, second))


def test_other_halves_that_come_all_together_find_an_end(held: ExitStack) -> None:
    places = Places(in_all=4)
    begun = [session_of("st-mary") for _ in range(7)]
    for session in begun:
        with places.place(session, P1):
            pass
    for session in begun[:6]:
        held.enter_context(places.place(session, P0))
    with pytest.raises(Busy, match=r"^6 sessions of st-mary run already"):
        held.enter_context(places.place(begun[6], P0))
    other = session_of("elsewhere")
    with places.place(other, P0), places.place(other, P1):
        pass
    held.close()
    with places.place(begun[6], P0):
        pass


def test_a_session_that_was_turned_away_is_so_for_both_its_parties(held: ExitStack) -> None:
    places, late = Places(in_all=1), session_of("st-mary")
    with places.place(session_of("elsewhere"), P0), pytest.raises(Busy):
        held.enter_context(places.place(late, P0))
    for role in (P0, P1):
        with pytest.raises(Busy, match="this session was turned away"):
            held.enter_context(places.place(late, role))


def test_places_are_free_again_whatever_happens_in_them() -> None:
    places = Places(in_all=1)
    for _ in range(3):
        with pytest.raises(RuntimeError), places.place(session_of("st-mary"), P0):
            raise RuntimeError
