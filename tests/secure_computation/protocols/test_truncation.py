"""Truncation alone, narrow and wide: every value under every mask in small rings, edges and random values in large."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.protocols.compared_layer import LayerAsP1
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.truncation import TruncationShape
from tests.secure_computation.protocols.one_page import (
    Integers,
    Seeds,
    draws,
    edges,
    every_pair,
    play,
    random_ring,
    truncation_shape,
)


def wanted(z: Integers, f: int, k_out: int) -> Integers:
    return (z >> f) & ((1 << k_out) - 1)


def range_of(shape: TruncationShape) -> tuple[int, int]:
    """Allowed z: the first, and the one after the last."""
    limit = shape.offset
    return -limit, limit


def check_every_value_under_every_mask(k: int, f: int, chunks: int) -> None:
    for k_out in sorted({1, max(1, k - f - 1), k - f, k - f + 1, k, 32}):
        low, high = range_of(truncation_shape(k, f, k_out, 0, chunks=chunks))
        z, r = every_pair(np.arange(low, high), k)
        shape = truncation_shape(k, f, k_out, z.size, chunks=chunks)
        assert shape.wide == (k_out > k - f)
        np.testing.assert_array_equal(play(shape, z, r=r).y, wanted(z, f, k_out), err_msg=f"k_out {k_out}")


@pytest.mark.parametrize(("k", "f"), [(k, f) for k in range(2, 8) for f in range(k - 1)])
def test_every_value_under_every_mask(k: int, f: int) -> None:
    check_every_value_under_every_mask(k, f, 6)


@pytest.mark.parametrize(("k", "f", "chunks"), [(7, 5, 1), (8, 6, 2), (8, 5, 3), (8, 4, 1)])
def test_every_value_under_every_mask_in_several_chunks(k: int, f: int, chunks: int) -> None:
    check_every_value_under_every_mask(k, f, chunks)


@pytest.mark.parametrize(("k", "f", "value"), [(5, 2, 9), (5, 2, -9), (7, 3, 33), (7, 3, -33), (6, 0, 17)])
def test_outside_the_range_of_the_wide_form_some_masks_go_wrong(k: int, f: int, value: int) -> None:
    """The bound is sharp on either side, but for 2^(k-2) itself, which the range audit refuses without need."""
    shape = truncation_shape(k, f, 32, 1 << k)
    assert value in (range_of(shape)[0] - 1, range_of(shape)[1] + 1)
    z, r = every_pair([value], k)
    assert np.any(play(shape, z, r=r).y != wanted(z, f, 32))


WIDE = [(16, 5, 16), (20, 9, 11), (24, 12, 24), (22, 10, 32), (32, 12, 21), (32, 12, 20), (32, 30, 32), (31, 0, 32)]


@pytest.mark.parametrize(("k", "f", "k_out"), WIDE)
def test_edges_and_random_values_in_large_rings(k: int, f: int, k_out: int) -> None:
    low, high = range_of(truncation_shape(k, f, k_out, 0))
    generator = np.random.default_rng(k)
    z = np.concatenate([np.repeat(edges(k, f, low, high), 40), generator.integers(low, high, 2000)])
    np.testing.assert_array_equal(play(truncation_shape(k, f, k_out, z.size), z).y, wanted(z, f, k_out))


@pytest.mark.parametrize(("k", "f", "k_out"), [(24, 12, 24), (24, 12, 12), (32, 12, 32)])
def test_edges_under_masks_at_the_edges(k: int, f: int, k_out: int) -> None:
    r = edges(k, f, 0, 1 << k)
    r = np.unique(np.concatenate([r, (1 << k) - 1 - r]))
    values, masks = np.meshgrid(edges(k, f, *range_of(truncation_shape(k, f, k_out, 0))), r)
    shape = truncation_shape(k, f, k_out, values.size)
    np.testing.assert_array_equal(play(shape, values.ravel(), r=masks.ravel()).y, wanted(values.ravel(), f, k_out))


@settings(max_examples=60)
@given(st.data())
def test_any_shape_and_layout(data: st.DataObject) -> None:
    k = data.draw(st.integers(3, 32))
    f = data.draw(st.integers(0, k - 2))
    chunks = data.draw(st.integers(max(1, -(-f // 6)), 6))
    count = data.draw(st.integers(1, 40))
    shape = truncation_shape(k, f, data.draw(st.integers(1, 32)), count, chunks=chunks)
    low, high = range_of(shape)
    z = np.array(data.draw(st.lists(st.integers(low, high - 1), min_size=count, max_size=count)), np.int64)
    np.testing.assert_array_equal(play(shape, z).y, wanted(z, f, shape.output_bits))


@pytest.mark.parametrize(("k", "f", "k_out"), [(20, 9, 20), (20, 9, 11), (24, 0, 32)])
def test_messages_are_uniform_whatever_z_is(k: int, f: int, k_out: int) -> None:
    count = 1 << 13
    shape = truncation_shape(k, f, k_out, count)
    low, high = range_of(shape)
    for value in (0, low, high - 1):
        layer = play(shape, np.full(count, value, np.int64), z0=np.zeros(count, np.uint32))
        for bundle in layer.opened.values():
            for bits in bundle.bits:
                assert abs(bits.values.mean() - 0.5) < 6 * 0.5 / np.sqrt(count)
            for ring in bundle.rings:
                ones = (ring.values[:, None] >> np.arange(ring.bits, dtype=np.uint32)) & np.uint32(1)
                assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(count))


def test_a_chain_that_does_not_fit_is_refused() -> None:
    for f, low in ((4, Chain((3,))), (4, None), (0, Chain((3,)))):
        with pytest.raises(ValueError, match="the low chain does not have"):
            TruncationShape(count=1, ring_bits=12, truncated_bits=f, output_bits=8, low=low)


def test_finish_comes_after_open_and_open_comes_once() -> None:
    shape = truncation_shape(8, 2, 8, 4)
    seeds = Seeds.fresh()
    layer = play(shape, np.arange(4), seeds=seeds)
    part = LayerAsP1(shape, draws(seeds.p1), layer.opened["corrections"], layer.opened["prepared"])
    with pytest.raises(RuntimeError, match="open comes before finish"):
        part.finish(layer.opened["from_p0"])
    part.open(random_ring(4))
    with pytest.raises(RuntimeError, match="a stream is used once"):
        part.open(random_ring(4))
