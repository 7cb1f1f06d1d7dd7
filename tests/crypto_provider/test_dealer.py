"""Each half of a session is dealt once, and a session whose seeds are lost is not dealt again."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from contract.errors import MaterialSpent, PeerViolation, Refused
from contract.identity import Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose, TicketClaims
from crypto_provider import dealer as dealer_module
from crypto_provider.dealer import Dealer
from secure_computation.admission import items_of
from secure_computation.material import ConsumptionLedger, DealtSeeds, ItemName


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
        engine=Engine.CRYPTEN,
        data_owner="st-mary",
        model_owner="north-lab",
        crypto_provider="trust-centre",
        output_policy=OutputPolicy.LOGITS,
        iat=now - 3600,
        exp=now + seconds,
    )


def seeds(dealt: DealtSeeds) -> tuple[bytes, bytes]:
    return dealt.data_owner.reveal_to_channel(), dealt.model_owner.reveal_to_channel()


def only(dealt: dict[ItemName, DealtSeeds]) -> tuple[ItemName, DealtSeeds]:
    """What is dealt for a session with one image."""
    (pair,) = dealt.items()
    return pair


@pytest.fixture
def dealer(tmp_path: Path) -> Dealer:
    return Dealer(ConsumptionLedger(tmp_path / "dealt"))


@pytest.mark.parametrize("first", [Role.DATA_OWNER, Role.MODEL_OWNER])
def test_both_halves_come_from_the_same_seeds_in_either_order(dealer: Dealer, first: Role) -> None:
    second = Role.MODEL_OWNER if first is Role.DATA_OWNER else Role.DATA_OWNER
    session = claims()
    item, dealt = only(dealer.claim(session, first))
    same_item, same = only(dealer.claim(session, second))
    assert (item, seeds(dealt)) == (same_item, seeds(same))
    assert len(set(seeds(dealt))) == 2


@pytest.mark.parametrize("role", [Role.DATA_OWNER, Role.MODEL_OWNER])
def test_no_half_is_dealt_twice(dealer: Dealer, role: Role) -> None:
    session = claims()
    dealer.claim(session, role)
    with pytest.raises(MaterialSpent, match="start a new session"):
        dealer.claim(session, role)


def test_nothing_is_dealt_after_both_halves(dealer: Dealer) -> None:
    session = claims()
    dealer.claim(session, Role.DATA_OWNER)
    dealer.claim(session, Role.MODEL_OWNER)
    for role in (Role.DATA_OWNER, Role.MODEL_OWNER):
        with pytest.raises(MaterialSpent, match="start a new session"):
            dealer.claim(session, role)


@pytest.mark.parametrize("role", [Role.DATA_OWNER, Role.MODEL_OWNER])
def test_a_restart_between_the_halves_spends_the_session(tmp_path: Path, role: Role) -> None:
    session = claims()
    Dealer(ConsumptionLedger(tmp_path / "dealt")).claim(session, Role.DATA_OWNER)
    restarted = Dealer(ConsumptionLedger(tmp_path / "dealt"))
    with pytest.raises(MaterialSpent, match="its seeds are forgotten; start a new session"):
        restarted.claim(session, role)
    assert seeds(only(restarted.claim(claims(), role))[1])  # other sessions go on


def test_every_session_has_seeds_of_its_own(dealer: Dealer) -> None:
    dealt = [seeds(only(dealer.claim(claims(), Role.DATA_OWNER))[1]) for _ in range(5)]
    assert len({seed for pair in dealt for seed in pair}) == 10


def test_every_image_of_a_session_has_an_item_and_seeds_of_its_own(dealer: Dealer) -> None:
    session = claims().model_copy(update={"images": 3, "engine": Engine.MASKED})
    first = dealer.claim(session, Role.DATA_OWNER)
    assert list(first) == list(items_of(session))
    assert len({seed for dealt in first.values() for seed in seeds(dealt)}) == 6
    second = dealer.claim(session, Role.MODEL_OWNER)
    assert {item: seeds(dealt) for item, dealt in second.items()} == {item: seeds(d) for item, d in first.items()}
    with pytest.raises(MaterialSpent):
        dealer.claim(session, Role.DATA_OWNER)


@pytest.mark.parametrize("changed", [{"plan_hash": "1" * 64}, {"version": "2.0.0"}, {"data_owner": "elsewhere"}])
def test_a_session_id_with_other_parties_or_plan_is_another_item(dealer: Dealer, changed: dict[str, str]) -> None:
    session = claims()
    other = session.model_copy(update=changed)
    item, dealt = only(dealer.claim(session, Role.DATA_OWNER))
    other_item, other_dealt = only(dealer.claim(other, Role.MODEL_OWNER))
    assert item != other_item
    assert not set(seeds(dealt)) & set(seeds(other_dealt))


@pytest.mark.parametrize("role", [Role.CRYPTO_PROVIDER, Role.INFERENCE_SERVICE])
def test_nobody_else_is_dealt_anything(dealer: Dealer, role: Role) -> None:
    with pytest.raises(PeerViolation, match="is dealt nothing"):
        dealer.claim(claims(), role)


def test_of_two_claims_at_once_one_wins(dealer: Dealer) -> None:
    session = claims()

    def attempt(_: int) -> bool:
        try:
            dealer.claim(session, Role.DATA_OWNER)
        except MaterialSpent:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_seeds_of_expired_sessions_are_forgotten(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    session = claims(seconds=60)
    dealer.claim(session, Role.DATA_OWNER)
    monkeypatch.setattr("crypto_provider.dealer.time.time", lambda: float(session.exp) + 31)
    with pytest.raises(MaterialSpent, match="its seeds are forgotten"):
        dealer.claim(session, Role.MODEL_OWNER)


def test_sessions_that_wait_for_their_second_half_are_limited(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealer_module, "MAX_PENDING", 2)
    waiting = [claims(), claims()]
    for session in waiting:
        dealer.claim(session, Role.DATA_OWNER)
    with pytest.raises(Refused, match="try again in a few minutes"):
        dealer.claim(claims(), Role.DATA_OWNER)
    dealer.claim(waiting[0], Role.MODEL_OWNER)  # makes room
    dealer.claim(claims(), Role.DATA_OWNER)


def test_nothing_that_is_kept_or_shown_holds_a_seed(dealer: Dealer, tmp_path: Path) -> None:
    _, dealt = only(dealer.claim(claims(), Role.DATA_OWNER))
    kept = b"".join(path.name.encode() + path.read_bytes() for path in (tmp_path / "dealt").iterdir())
    for seed in seeds(dealt):
        assert seed not in kept
        assert seed.hex().encode() not in kept
        assert seed.hex() not in repr(dealt) + repr(vars(dealer))
        assert repr(seed) not in repr(dealt) + repr(vars(dealer))
