"""The deal tag differs for whatever differs, and only the dealer's peers with the same one go on."""

from typing import Any

import pytest

from contract.errors import DealMismatch, PeerViolation
from secure_computation.channel.memory import DATA_OWNER, MODEL_OWNER, memory_pair
from secure_computation.deal_tag import derive_deal_tag, name_tags, require_same_deal, require_same_deals
from secure_computation.material import DealtSeeds, item_name
from secure_computation.randomness import Seed
from secure_computation.wire import TAG_BYTES

S0, S1, OTHER = Seed(b"0" * 32), Seed(b"1" * 32), Seed(b"2" * 32)
NAMES: dict[str, Any] = {"session": "s", "plan_hash": "p", "data_owner": "a", "model_owner": "b", "version": "v"}


def tag(p0: Seed = S0, p1: Seed = S1, **changes: str | int) -> bytes:
    return derive_deal_tag(DealtSeeds(data_owner=p0, model_owner=p1), item_name(**(NAMES | changes)))


def test_a_tag_differs_with_either_seed_session_plan_party_and_version() -> None:
    others = [tag(p0=OTHER), tag(p1=OTHER), tag(S1, S0), tag(index=1)]
    others += [tag(S0, S1, **{name: "other"}) for name in NAMES]
    assert len({tag(), *others}) == 1 + len(others)
    assert tag() == tag()
    assert {len(one) for one in others} == {TAG_BYTES}


def test_a_tag_is_no_stream_of_a_seed() -> None:
    """Nothing that is drawn from a seed has it for its beginning."""
    item = item_name(**NAMES)
    for seed in (S0, S1):
        assert seed.stream(item=item, step=0, label="deal tag").uint8(TAG_BYTES).tobytes() != tag()


def test_parties_compare_their_tags() -> None:
    channel, _ = memory_pair(DATA_OWNER, MODEL_OWNER)
    require_same_deal(tag(), tag(), channel)
    with pytest.raises(DealMismatch, match="dealt different material to this party and to model-owner") as failed:
        require_same_deal(tag(), tag(p0=OTHER), channel)
    assert tag().hex() not in str(failed.value)


@pytest.mark.parametrize("named", [None, [], ["00"], [7], ["A" * 32], ["0" * 31 + "\n"], "0" * 32, [["0" * 32]]])
def test_tags_of_stocked_items_that_are_none_are_refused(named: object) -> None:
    channel, _ = memory_pair(DATA_OWNER, MODEL_OWNER)
    with pytest.raises(PeerViolation, match="named no deal tags"):
        require_same_deals([tag()], named, channel)


def test_tags_of_stocked_items_are_compared_in_order() -> None:
    channel, _ = memory_pair(DATA_OWNER, MODEL_OWNER)
    both = [tag(), tag(p0=OTHER)]
    require_same_deals(both, name_tags(both), channel)
    require_same_deals([], [], channel)
    with pytest.raises(DealMismatch):
        require_same_deals(both, name_tags(both[::-1]), channel)
