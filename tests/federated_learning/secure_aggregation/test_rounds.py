"""Masks cancel: the sum is the plain sum of the survivors' vectors, under every pattern of drop-outs."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import AggregationAborted
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.terms import least_threshold
from tests.federated_learning.secure_aggregation.rounds import (
    STEPS,
    hospitals_for,
    make_terms,
    plain_sum,
    random_vector,
    run_round,
    signing_keys,
)


def same(one: RingVector, other: RingVector) -> bool:
    return np.array_equal(one.update, other.update) and np.array_equal(one.exact, other.exact)


@pytest.mark.parametrize("ring_bits", [16, 32])
@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_sum_is_the_plain_sum(count: int, ring_bits: int) -> None:
    keys = signing_keys(count)
    terms = make_terms(keys, ring_bits=16 if ring_bits == 16 else 32, update_length=200_003, exact_length=7)
    vectors = {name: random_vector(terms, index) for index, name in enumerate(keys)}
    total, coordinator = run_round(terms, hospitals_for(terms, keys), vectors)
    assert coordinator.in_sum == frozenset(keys)
    assert same(total, plain_sum(terms, vectors, frozenset(keys)))


@pytest.mark.parametrize("lengths", [(0, 3), (3, 0)])
def test_either_part_may_be_empty(lengths: tuple[int, int]) -> None:
    keys = signing_keys(3)
    terms = make_terms(keys, update_length=lengths[0], exact_length=lengths[1])
    vectors = {name: random_vector(terms, index) for index, name in enumerate(keys)}
    total, _ = run_round(terms, hospitals_for(terms, keys), vectors)
    assert same(total, plain_sum(terms, vectors, frozenset(keys)))


def check_pattern(pattern: dict[str, str], count: int) -> None:
    """Either the sum of exactly those that sent a masked vector, or an abort, by the number left at each step."""
    keys = signing_keys(count)
    terms = make_terms(keys)
    vectors = {name: random_vector(terms, index) for index, name in enumerate(keys)}
    left = [
        sum(STEPS.index(pattern[name]) > index if name in pattern else True for name in keys)
        for index in range(len(STEPS))
    ]
    if min(left) < least_threshold(count):
        with pytest.raises(AggregationAborted, match="before anything is unmasked") as caught:
            run_round(terms, hospitals_for(terms, keys), vectors, pattern)
        assert any(name in str(caught.value) for name in pattern)
        return
    total, coordinator = run_round(terms, hospitals_for(terms, keys), vectors, pattern)
    expected = frozenset(name for name in keys if pattern.get(name) not in STEPS[:3])
    assert coordinator.in_sum == expected
    assert same(total, plain_sum(terms, vectors, expected))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [3, 4])
def test_one_drop_out_costs_three_hospitals_the_round_and_four_nothing(count: int, step: str) -> None:
    check_pattern({"hospital-b": step}, count)


@given(st.data())
@settings(max_examples=40)
def test_masks_cancel_under_every_drop_out_pattern(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 7))
    names = list(signing_keys(count))
    dropping = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=count))
    check_pattern({name: data.draw(st.sampled_from(STEPS)) for name in dropping}, count)


@pytest.mark.slow
def test_masks_cancel_under_all_patterns_of_four() -> None:
    names = list(signing_keys(4))
    for steps in product((None, *STEPS), repeat=4):
        check_pattern({name: step for name, step in zip(names, steps, strict=True) if step is not None}, 4)


def test_an_aborted_round_is_run_again_with_fresh_keys_and_masks() -> None:
    keys = signing_keys(3)
    histories = {name: RoundHistory() for name in keys}
    first, second = make_terms(keys), make_terms(keys, attempt=1)
    vectors = {name: random_vector(first, index) for index, name in enumerate(keys)}
    with pytest.raises(AggregationAborted, match=r"No masked update from hospital-c. Run it again, as the"):
        run_round(first, hospitals_for(first, keys, histories), vectors, {"hospital-c": "mask"})
    total, _ = run_round(second, hospitals_for(second, keys, histories), vectors)
    assert same(total, plain_sum(second, vectors, frozenset(keys)))
