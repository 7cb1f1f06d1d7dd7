"""Widening to 64 bits and back: every value under every mask in small rings, random ones in large."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from contract.errors import MaterialSpent
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.widening import (
    WideElements,
    WideningAsP0,
    WideningAsP1,
    WideningShape,
    deal_widening,
    draw_output_mask,
)
from secure_computation.ring import reduce_to_ring
from tests.secure_computation.protocols.one_page import (
    InjectedDraws,
    Integers,
    Seeds,
    draws,
    every_pair,
    over_the_wire,
    random_ring,
)


@dataclass(frozen=True)
class Widened:
    shares: tuple[WideElements, WideElements]
    opened: bytes
    narrowed: RingElements
    """rho' + v of y = 3 * x."""


def play(shape: WideningShape, x: Integers, r: Integers | None = None) -> Widened:
    """D, P0 and P1. `r`: the masks to use, instead of random ones."""
    seeds = Seeds.fresh()
    x0 = random_ring(shape.count)
    x1 = x.astype(np.uint32) - x0
    injected: Mapping[str, RingElements] = {}
    if r is not None:
        r1 = draws(seeds.p1).ring("mask", shape.count, bits=shape.ring_bits)
        injected = {"mask": reduce_to_ring(r.astype(np.uint32) - r1, shape.ring_bits).values}
    corrections = deal_widening(shape, p0=InjectedDraws(seeds.p0, injected), p1=draws(seeds.p1))
    assert corrections.size == shape.correction_elements
    p0 = WideningAsP0(shape, InjectedDraws(seeds.p0, injected))
    _, prepared = over_the_wire(shape.prepared, p0.prepare(x0))
    p1 = WideningAsP1(shape, draws(seeds.p1), corrections, prepared)
    body, opening = over_the_wire(shape.from_p1, p1.open(x1))
    share0, share1 = p0.widen(opening), p1.widen()
    three = np.uint64(3)
    _, answer = over_the_wire(shape.from_p0, p0.narrow(share0 * three))
    v = p1.narrow(share1 * three, answer)
    rho = draw_output_mask(shape, draws(seeds.p0))
    np.testing.assert_array_equal(rho, p0.output_mask)
    narrowed = reduce_to_ring(rho + v, shape.output_bits).values
    return Widened((share0, share1), body, narrowed)


def check(shape: WideningShape, x: Integers, r: Integers | None = None) -> None:
    played = play(shape, x, r)
    np.testing.assert_array_equal((played.shares[0] + played.shares[1]).view(np.int64), x)
    np.testing.assert_array_equal(played.narrowed, (3 * x) & ((1 << shape.output_bits) - 1))


@pytest.mark.parametrize("k", range(3, 9))
@pytest.mark.parametrize("output_bits", [3, 11, 32])
def test_every_value_under_every_mask(k: int, output_bits: int) -> None:
    x, r = every_pair(np.arange(-(1 << (k - 2)), 1 << (k - 2)), k)
    check(WideningShape(count=x.size, ring_bits=k, output_bits=output_bits), x, r)


@pytest.mark.parametrize("k", [16, 23, 31, 32])
def test_edges_and_random_values_in_large_rings(k: int) -> None:
    limit = 1 << (k - 2)
    x = np.concatenate(
        [np.repeat([-limit, -1, 0, 1, limit - 1], 100), np.random.default_rng(k).integers(-limit, limit, 5000)]
    )
    check(WideningShape(count=x.size, ring_bits=k, output_bits=24), x)


def test_outside_the_range_some_masks_go_wrong() -> None:
    shape = WideningShape(count=1 << 6, ring_bits=6, output_bits=6)
    x, r = every_pair([17], 6)
    shares = play(shape, x, r).shares
    assert np.any((shares[0] + shares[1]).view(np.int64) != x)


def test_what_is_opened_takes_every_value_once_whatever_x_is() -> None:
    shape = WideningShape(count=1 << 8, ring_bits=8, output_bits=8)
    for value in (-64, 0, 63):
        x, r = every_pair([value], 8)
        assert sorted(play(shape, x, r).opened) == list(range(256))


def test_an_opening_is_used_once() -> None:
    shape = WideningShape(count=4, ring_bits=8, output_bits=8)
    seeds = Seeds.fresh()
    p0 = WideningAsP0(shape, draws(seeds.p0))
    corrections = deal_widening(shape, p0=draws(seeds.p0), p1=draws(seeds.p1))
    p1 = WideningAsP1(shape, draws(seeds.p1), corrections, p0.prepare(random_ring(4)))
    with pytest.raises(MaterialSpent):
        p1.widen()
    p1.open(random_ring(4))
    p1.widen()
    with pytest.raises(MaterialSpent):
        p1.widen()
