"""Dithered truncation, narrow and wide: every value under every mask in small rings, edges and random ones in large."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.protocols.dithered_truncation import (
    DitheredTruncationAsP0,
    DitheredTruncationAsP1,
    DitheredTruncationShape,
)
from tests.secure_computation.protocols.one_page import (
    Integers,
    Layer,
    Seeds,
    dithered_truncation_shape,
    draws,
    edges,
    every_pair,
    play,
    random_ring,
)


def wanted(shape: DitheredTruncationShape, z: Integers, layer: Layer) -> Integers:
    return np.asarray(((z + layer.rounding) >> shape.truncated_bits) & ((1 << shape.output_bits) - 1))


def range_of(shape: DitheredTruncationShape) -> tuple[int, int]:
    """Allowed z: the first, and the one after the last."""
    return -(1 << shape.offset_bits), 1 << shape.offset_bits


def shares(shape: DitheredTruncationShape, r: Integers) -> dict[str, Any]:
    """R, and a share of z whose dither is the low bits of `r`, as `play` takes them."""
    f = shape.truncated_bits
    z0 = (random_ring(r.size) << np.uint32(f)) - (r % (1 << f)).astype(np.uint32)
    return {"r": r >> f, "z0": z0}


@pytest.mark.parametrize(("k", "f"), [(k, f) for k in range(2, 8) for f in range(k - 1)])
def test_every_value_under_every_mask(k: int, f: int) -> None:
    for k_out in sorted({1, max(1, k - f - 1), k - f, k - f + 1, k, 32}):
        z, r = every_pair(np.arange(*range_of(dithered_truncation_shape(k, f, k_out, 1))), k)
        shape = dithered_truncation_shape(k, f, k_out, z.size)
        assert shape.wide == (k_out > k - f)
        layer = play(shape, z, **shares(shape, r))
        np.testing.assert_array_equal(layer.rounding, r % (1 << f))
        np.testing.assert_array_equal(layer.y, wanted(shape, z, layer), err_msg=f"k_out {k_out}")


@pytest.mark.parametrize(("k", "f", "value"), [(5, 2, 9), (5, 2, -9), (7, 3, 33), (6, 0, 17)])
def test_outside_the_range_of_the_wide_form_some_masks_go_wrong(k: int, f: int, value: int) -> None:
    """Sharp on either side, except for 2^(k-2) itself, which the range audit refuses without need."""
    z, r = every_pair([value], k)
    shape = dithered_truncation_shape(k, f, 32, z.size)
    assert value in (range_of(shape)[0] - 1, range_of(shape)[1] + 1)
    layer = play(shape, z, **shares(shape, r))
    assert np.any(layer.y != wanted(shape, z, layer))


LARGE = [(16, 5, 16), (20, 9, 11), (24, 12, 24), (22, 10, 32), (32, 12, 21), (32, 12, 20), (32, 30, 32), (31, 0, 32)]


@pytest.mark.parametrize(("k", "f", "k_out"), LARGE)
def test_edges_and_random_values_in_large_rings(k: int, f: int, k_out: int) -> None:
    low, high = range_of(dithered_truncation_shape(k, f, k_out, 1))
    z = np.concatenate([np.repeat(edges(k, f, low, high), 40), np.random.default_rng(k).integers(low, high, 2000)])
    shape = dithered_truncation_shape(k, f, k_out, z.size)
    layer = play(shape, z)
    np.testing.assert_array_equal(layer.y, wanted(shape, z, layer))


@settings(max_examples=60)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    k = data.draw(st.integers(2, 32))
    count = data.draw(st.integers(1, 40))
    shape = dithered_truncation_shape(k, data.draw(st.integers(0, k - 2)), data.draw(st.integers(1, 32)), count)
    low, high = range_of(shape)
    z = np.array(data.draw(st.lists(st.integers(low, high - 1), min_size=count, max_size=count)), np.int64)
    layer = play(shape, z)
    np.testing.assert_array_equal(layer.y, wanted(shape, z, layer))


@pytest.mark.parametrize(("k", "f", "k_out"), [(20, 9, 20), (20, 9, 11), (24, 0, 32)])
def test_messages_and_masks_are_uniform_whatever_z_is(k: int, f: int, k_out: int) -> None:
    """rho' too: it hides y where the next layer reads it."""
    count = 1 << 13
    shape = dithered_truncation_shape(k, f, k_out, count)
    low, high = range_of(shape)
    for value in (0, low, high - 1):
        seeds = Seeds.fresh()
        layer = play(shape, np.full(count, value, np.int64), z0=np.zeros(count, np.uint32), seeds=seeds)
        rho = DitheredTruncationAsP0(shape, draws(seeds.p0)).output_mask
        rings = [(ring.values, ring.bits) for bundle in layer.opened.values() for ring in bundle.rings]
        for values, bits in [*rings, (rho, k_out)]:
            ones = (values[:, None] >> np.arange(bits, dtype=np.uint32)) & np.uint32(1)
            assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(count))
        for bundle in layer.opened.values():
            for array in bundle.bits:
                assert abs(array.values.mean() - 0.5) < 6 * 0.5 / np.sqrt(count)


def test_the_narrow_form_sends_nothing_online_and_the_wide_form_a_bit() -> None:
    """The counts in docs/protocol.md."""
    narrow = play(dithered_truncation_shape(20, 9, 11, 8), np.arange(8))
    assert set(narrow.messages) == {"prepared"}
    wide = dithered_truncation_shape(20, 9, 20, 8)
    sizes = [layout.body_bytes for layout in (wide.corrections, wide.prepared, wide.from_p1, wide.from_p0)]
    assert sizes == [9, 11, 1, 9]


def test_open_comes_before_finish_and_once() -> None:
    shape, seeds = dithered_truncation_shape(8, 2, 8, 4), Seeds.fresh()
    layer = play(shape, np.arange(4), seeds=seeds)
    part = DitheredTruncationAsP1(shape, draws(seeds.p1), layer.opened["corrections"], layer.opened["prepared"])
    with pytest.raises(RuntimeError, match="open comes before finish"):
        part.finish(layer.opened["from_p0"])
    part.open(random_ring(4))
    with pytest.raises(RuntimeError, match="a stream is used once"):
        part.open(random_ring(4))


def test_a_mask_hides_one_value() -> None:
    part = DitheredTruncationAsP0(dithered_truncation_shape(8, 2, 6, 4), draws(Seeds.fresh().p0))
    part.prepare(random_ring(4))
    with pytest.raises(RuntimeError, match="a mask is used once"):
        part.prepare(random_ring(4))
