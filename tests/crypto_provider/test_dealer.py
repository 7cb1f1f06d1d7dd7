"""Each half of a session is dealt once, and a session whose seeds are lost is not dealt again."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from bookkeeping.spending import SpendingBook
from contract.errors import BudgetSpent, MaterialSpent, PeerViolation, Refused, TicketInvalid
from contract.identity import Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from crypto_provider import dealer as dealer_module
from crypto_provider.dealer import Dealer
from secure_computation.admission import items_of
from secure_computation.material import DealtSeeds, ItemName

TRUST_CENTRE = Party(role=Role.CRYPTO_PROVIDER, organisation="trust-centre")


def claims(session: UUID | None = None, *, seconds: int = 60) -> TicketClaims:
    now = int(datetime.now(UTC).timestamp())
    return TicketClaims(
        jti=uuid4(),
        session=session or uuid4(),
        purpose=Purpose.DIAGNOSE,
        account="test",
        model="tiny",
        version="1.0.0",
        plan_hash="0" * 64,
        card_hash="1" * 64,
        engine=Engine.CRYPTEN,
        data_owner="st-mary",
        model_owner="north-lab",
        crypto_provider="trust-centre",
        output_policy=OutputPolicy.LOGITS,
        iat=now - 60,
        exp=now + seconds,
    )


def seeds(dealt: DealtSeeds) -> tuple[bytes, bytes]:
    return dealt.data_owner.reveal_to_channel(), dealt.model_owner.reveal_to_channel()


def only(dealt: dict[ItemName, DealtSeeds]) -> tuple[ItemName, DealtSeeds]:
    """What is dealt for a session with one image."""
    (pair,) = dealt.items()
    return pair


def dealer_of(folder: Path, *, items_per_day: int = 1000) -> Dealer:
    """A dealer with this folder's book."""
    return Dealer(SpendingBook(folder / "orders.sqlite"), own=TRUST_CENTRE, items_per_day=items_per_day)


def claim(dealer: Dealer, session: TicketClaims, role: Role) -> dict[ItemName, DealtSeeds]:
    """What a party of the session is dealt."""
    return dealer.claim(session, Party(role=role, organisation="st-mary"))


@pytest.fixture
def dealer(tmp_path: Path) -> Dealer:
    return dealer_of(tmp_path)


@pytest.mark.parametrize("first", [Role.DATA_OWNER, Role.MODEL_OWNER])
def test_both_halves_come_from_the_same_seeds_in_either_order(dealer: Dealer, first: Role) -> None:
    second = Role.MODEL_OWNER if first is Role.DATA_OWNER else Role.DATA_OWNER
    session = claims()
    item, dealt = only(claim(dealer, session, first))
    same_item, same = only(claim(dealer, session, second))
    assert (item, seeds(dealt)) == (same_item, seeds(same))
    assert len(set(seeds(dealt))) == 2


@pytest.mark.parametrize("role", [Role.DATA_OWNER, Role.MODEL_OWNER])
def test_no_half_is_dealt_twice(dealer: Dealer, role: Role) -> None:
    session = claims()
    claim(dealer, session, role)
    with pytest.raises(MaterialSpent, match="start a new session"):
        claim(dealer, session, role)


@pytest.mark.parametrize("change", [{"engine": Engine.MASKED}, {"images": 2}, {"jti": UUID(int=7)}], ids=str)
def test_a_session_has_one_ticket_for_both_parties(dealer: Dealer, change: dict[str, object]) -> None:
    """The front end signs what it likes: seeds of one engine's half are not dealt for another, and no half twice."""
    session = claims()
    claim(dealer, session, Role.DATA_OWNER)
    with pytest.raises(TicketInvalid, match="showed another ticket"):
        claim(dealer, session.model_copy(update=change), Role.MODEL_OWNER)
    claim(dealer, session, Role.MODEL_OWNER)


def test_nothing_is_dealt_after_both_halves(dealer: Dealer) -> None:
    session = claims()
    claim(dealer, session, Role.DATA_OWNER)
    claim(dealer, session, Role.MODEL_OWNER)
    for role in (Role.DATA_OWNER, Role.MODEL_OWNER):
        with pytest.raises(MaterialSpent, match="start a new session"):
            claim(dealer, session, role)


@pytest.mark.parametrize("role", [Role.DATA_OWNER, Role.MODEL_OWNER])
def test_a_restart_between_the_halves_spends_the_session(tmp_path: Path, role: Role) -> None:
    session = claims()
    claim(dealer_of(tmp_path), session, Role.DATA_OWNER)
    restarted = dealer_of(tmp_path)
    with pytest.raises(MaterialSpent, match="its seeds are forgotten; start a new session"):
        claim(restarted, session, role)
    assert seeds(only(claim(restarted, claims(), role))[1])  # other sessions go on


def test_every_session_has_seeds_of_its_own(dealer: Dealer) -> None:
    dealt = [seeds(only(claim(dealer, claims(), Role.DATA_OWNER))[1]) for _ in range(5)]
    assert len({seed for pair in dealt for seed in pair}) == 10


def test_every_image_of_a_session_has_an_item_and_seeds_of_its_own(dealer: Dealer) -> None:
    session = claims().model_copy(update={"images": 3, "engine": Engine.MASKED})
    first = claim(dealer, session, Role.DATA_OWNER)
    assert list(first) == list(items_of(session))
    assert len({seed for dealt in first.values() for seed in seeds(dealt)}) == 6
    second = claim(dealer, session, Role.MODEL_OWNER)
    assert {item: seeds(dealt) for item, dealt in second.items()} == {item: seeds(d) for item, d in first.items()}
    with pytest.raises(MaterialSpent):
        claim(dealer, session, Role.DATA_OWNER)


@pytest.mark.parametrize("changed", [{"plan_hash": "1" * 64}, {"version": "2.0.0"}, {"data_owner": "elsewhere"}])
def test_a_session_id_with_other_parties_or_plan_is_given_nothing(dealer: Dealer, changed: dict[str, str]) -> None:
    session = claims()
    other = session.model_copy(update=changed)
    assert items_of(other) != items_of(session)
    claim(dealer, session, Role.DATA_OWNER)
    with pytest.raises(MaterialSpent):
        claim(dealer, other, Role.MODEL_OWNER)


@pytest.mark.parametrize("role", [Role.CRYPTO_PROVIDER, Role.INFERENCE_SERVICE])
def test_nobody_else_is_dealt_anything(dealer: Dealer, role: Role) -> None:
    with pytest.raises(PeerViolation, match="is dealt nothing"):
        claim(dealer, claims(), role)


def test_of_two_claims_at_once_one_wins(dealer: Dealer) -> None:
    session = claims()

    def attempt(_: int) -> bool:
        try:
            claim(dealer, session, Role.DATA_OWNER)
        except MaterialSpent:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_seeds_of_expired_sessions_are_forgotten(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    session = claims(seconds=60)
    claim(dealer, session, Role.DATA_OWNER)
    monkeypatch.setattr("crypto_provider.dealer.time.time", lambda: float(session.exp) + 31)
    with pytest.raises(MaterialSpent, match="its seeds are forgotten"):
        claim(dealer, session, Role.MODEL_OWNER)


def test_sessions_that_wait_for_their_second_half_are_limited(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealer_module, "MAX_PENDING", 2)
    waiting = [claims(), claims()]
    for session in waiting:
        claim(dealer, session, Role.DATA_OWNER)
    with pytest.raises(Refused, match="try again in a few minutes"):
        claim(dealer, claims(), Role.DATA_OWNER)
    claim(dealer, waiting[0], Role.MODEL_OWNER)  # makes room
    claim(dealer, claims(), Role.DATA_OWNER)


def test_nothing_that_is_kept_or_shown_holds_a_seed(dealer: Dealer, tmp_path: Path) -> None:
    _, dealt = only(claim(dealer, claims(), Role.DATA_OWNER))
    kept = b"".join(path.name.encode() + path.read_bytes() for path in tmp_path.iterdir())
    assert b"data-owner" in kept
    for seed in seeds(dealt):
        assert seed not in kept
        assert seed.hex().encode() not in kept
        assert seed.hex() not in repr(dealt) + repr(vars(dealer))
        assert repr(seed) not in repr(dealt) + repr(vars(dealer))


def test_a_claim_beyond_the_budget_takes_no_place_and_writes_nothing(tmp_path: Path) -> None:
    dealer = dealer_of(tmp_path, items_per_day=1)
    claim(dealer, claims(), Role.DATA_OWNER)
    beyond = claims()
    for _ in range(3):
        with pytest.raises(BudgetSpent):
            claim(dealer, beyond, Role.DATA_OWNER)
    more = dealer_of(tmp_path, items_per_day=2)  # refused before: neither noted as used nor counted
    assert seeds(only(claim(more, beyond, Role.DATA_OWNER))[1])
