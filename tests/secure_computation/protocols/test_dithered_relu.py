"""ReLU with dithered truncation: every value under every mask in small rings, edges and random values in large ones."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.protocols.compared_layer import LayerAsP1, deal_layer
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.dithered_relu import DitheredReluShape
from tests.secure_computation.protocols.one_page import (
    Integers,
    Layer,
    Seeds,
    dithered_relu_shape,
    draws,
    edges,
    play,
    random_ring,
)


def range_of(shape: DitheredReluShape) -> tuple[int, int]:
    """Allowed z: the first, and the one after the last."""
    half, f, e = 1 << (shape.ring_bits - 1), shape.truncated_bits, shape.sign_cut_bits
    below = (1 << e) >> 1
    return (below << f) - half, half - (((1 << e) - below) << f) + 1


def wanted(shape: DitheredReluShape, z: Integers, layer: Layer) -> Integers:
    rounded = (z + layer.rounding) >> shape.truncated_bits
    passed = np.where(rounded + layer.sign >= (1 << shape.sign_cut_bits) >> 1, rounded, 0)
    return np.asarray(passed & ((1 << shape.output_bits) - 1))


def every_value_under_every_mask(shape: DitheredReluShape) -> tuple[Integers, dict[str, Any]]:
    """z, and z0 mod 2^f, r0 and r1 as `play` takes them."""
    masks = np.arange(1 << shape.opened_bits)
    z, low, r0, r1 = (
        grid.ravel()
        for grid in np.meshgrid(np.arange(*range_of(shape)), np.arange(1 << shape.truncated_bits), masks, masks)
    )
    above = random_ring(z.size) << np.uint32(shape.truncated_bits)
    return z, {"z0": above + low.astype(np.uint32), "r": r0, "r1": r1}


SMALL = [(k, f, e) for k in range(2, 6) for f in range(k - 1) for e in range(k - f - 1)]


@pytest.mark.parametrize(("k", "f", "e"), SMALL)
def test_every_value_under_every_mask(k: int, f: int, e: int) -> None:
    for k_out in sorted({1, k - f, k - f + 1, 32}):
        z, shares = every_value_under_every_mask(dithered_relu_shape(k, f, k_out, 1, e=e))
        shape = dithered_relu_shape(k, f, k_out, z.size, e=e)
        layer = play(shape, z, **shares)
        assert set(layer.rounding) == set(range(1 << f))
        np.testing.assert_array_equal(layer.y, wanted(shape, z, layer), err_msg=f"k_out {k_out}")


@pytest.mark.parametrize(("k", "f", "e", "chunks"), [(6, 0, 0, 2), (6, 1, 1, 1), (6, 2, 0, 2), (6, 1, 0, 1)])
def test_every_value_under_every_mask_in_several_chunks(k: int, f: int, e: int, chunks: int) -> None:
    z, shares = every_value_under_every_mask(dithered_relu_shape(k, f, 32, 1, e=e))
    shape = dithered_relu_shape(k, f, 32, z.size, e=e, chunks=chunks)
    layer = play(shape, z, **shares)
    np.testing.assert_array_equal(layer.y, wanted(shape, z, layer))


@pytest.mark.parametrize(("k", "f", "e"), [(4, 1, 0), (5, 2, 1), (5, 0, 2)])
def test_beyond_the_allowed_range_some_masks_go_wrong(k: int, f: int, e: int) -> None:
    """The bounds are sharp: the range audit must refuse the next larger and the next smaller value."""
    low, above = range_of(dithered_relu_shape(k, f, 32, 1, e=e))
    _, shares = every_value_under_every_mask(dithered_relu_shape(k, f, 32, 1, e=e))
    shape = dithered_relu_shape(k, f, 32, shares["r"].size, e=e)
    for beyond in (low - 1, above):
        z = np.full(shape.count, beyond)
        layer = play(shape, z, **shares)
        assert np.any(layer.y != wanted(shape, z, layer))


@pytest.mark.parametrize("e", [1, 3, 5])
def test_near_zero_chance_is_even_handed(e: int) -> None:
    """As many values above 0 are lost as values below pass; from half of 2^e on, none is."""
    half = 1 << (e - 1)
    values = np.arange(-half - 1, half + 2)
    odds = np.maximum(0.5 - np.abs(values) / (1 << e), 0.0)
    z, count = np.repeat(values, 1 << 14), 1 << 14
    y = play(dithered_relu_shape(20, 0, 20, z.size, e=e), z).y.astype(np.int32)
    kept = (np.where(y >= 1 << 19, y - (1 << 20), y).reshape(-1, count) == values[:, None]).mean(axis=1)
    wrong = np.where(values > 0, 1 - kept, kept)
    assert np.all(np.abs(wrong - odds)[values != 0] < 6 * 0.5 / np.sqrt(count))
    assert np.all(wrong[np.abs(values) >= half] == 0)


LARGE = [
    (16, 5, 16, 0),
    (20, 9, 24, 2),
    (24, 12, 8, 3),
    (31, 1, 17, 0),
    (32, 0, 32, 1),
    (32, 12, 32, 5),
    (32, 30, 32, 0),
]


@pytest.mark.parametrize(("k", "f", "k_out", "e"), LARGE)
def test_edges_and_random_values_in_large_rings(k: int, f: int, k_out: int, e: int) -> None:
    low, high = range_of(dithered_relu_shape(k, f, k_out, 1, e=e))
    z = np.concatenate([np.repeat(edges(k, f, low, high), 40), np.random.default_rng(k).integers(low, high, 2000)])
    shape = dithered_relu_shape(k, f, k_out, z.size, e=e)
    layer = play(shape, z)
    np.testing.assert_array_equal(layer.y, wanted(shape, z, layer))


@st.composite
def shapes(draw: st.DrawFn) -> DitheredReluShape:
    k = draw(st.integers(2, 32))
    f = draw(st.integers(0, k - 2))
    e = draw(st.integers(0, k - f - 2))
    largest = draw(st.integers(max(1, -(-(k - f - e - 1) // 6)), 6))
    return dithered_relu_shape(k, f, draw(st.integers(1, 32)), draw(st.integers(1, 40)), e=e, chunks=largest)


@settings(max_examples=60)
@given(shapes(), st.data())
def test_any_shape_and_layout(shape: DitheredReluShape, data: st.DataObject) -> None:
    low, high = range_of(shape)
    count = shape.count
    z = np.array(data.draw(st.lists(st.integers(low, high - 1), min_size=count, max_size=count)), np.int64)
    layer = play(shape, z)
    np.testing.assert_array_equal(layer.y, wanted(shape, z, layer))


def test_the_dither_is_right_on_average_with_twice_the_variance() -> None:
    """Of one value under many masks: a third of a step's square in the worst place, a sixth on average."""
    z = np.arange(1 << 14, dtype=np.int64) * 977 % (1 << 14)
    shape = dithered_relu_shape(20, 6, 20, z.size)
    errors = play(shape, z).y.astype(np.int64) - z / 64
    assert abs(errors.mean()) < 6 * np.sqrt(1 / 6 / z.size)
    assert abs(errors.var() - 1 / 6) < 0.01


@pytest.mark.parametrize(("k", "f", "k_out", "e"), [(20, 9, 20, 0), (24, 0, 24, 0), (32, 12, 32, 3)])
def test_online_messages_are_uniform_whatever_z_is(k: int, f: int, k_out: int, e: int) -> None:
    count = 1 << 13
    low, high = range_of(dithered_relu_shape(k, f, k_out, 1, e=e))
    for value in (0, low, high - 1):
        z = np.full(count, value, np.int64)
        layer = play(dithered_relu_shape(k, f, k_out, count, e=e), z, z0=np.zeros(count, np.uint32))
        for bundle in layer.opened.values():
            for bits in bundle.bits:
                assert abs(bits.values.mean() - 0.5) < 6 * 0.5 / np.sqrt(count)
            for ring in bundle.rings:
                ones = (ring.values[:, None] >> np.arange(ring.bits, dtype=np.uint32)) & np.uint32(1)
                assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(count))


def test_declared_sizes_of_the_document() -> None:
    """The counts in docs/protocol.md, for k = k_out = 20, f = 9 and chunks (5, 5), then (4, 4) for e = 2."""
    shape = DitheredReluShape(count=8, ring_bits=20, truncated_bits=9, output_bits=20, high=Chain((5, 5)))
    assert shape.from_p1.body_bytes == 11 + 2 + 1  # bits of an element are bytes of eight
    assert shape.from_p0.body_bytes == 20 + 1
    assert shape.prepared.body_bytes == 11
    assert shape.corrections.body_bytes == 128 + 2 * 20 + 3 * 9
    cut = DitheredReluShape(
        count=8, ring_bits=20, truncated_bits=9, output_bits=20, high=Chain((4, 4)), sign_cut_bits=2
    )
    assert cut.corrections.body_bytes == 64 + 2 * 20 + 3 * 9


@pytest.mark.parametrize(("high", "e"), [((5, 5), 1), ((5, 4), 0), ((6, 6), 0)])
def test_a_chain_that_does_not_fit_the_ring_is_refused(high: tuple[int, ...], e: int) -> None:
    with pytest.raises(ValueError, match="the high chain has"):
        DitheredReluShape(count=1, ring_bits=15, truncated_bits=4, output_bits=15, high=Chain(high), sign_cut_bits=e)


def test_open_comes_before_finish_and_once() -> None:
    shape, seeds = dithered_relu_shape(8, 2, 8, 4), Seeds.fresh()
    layer = play(shape, np.arange(4), seeds=seeds)
    part = LayerAsP1(shape, draws(seeds.p1), layer.opened["corrections"], layer.opened["prepared"])
    with pytest.raises(RuntimeError, match="open comes before finish"):
        part.finish(layer.opened["from_p0"])
    part.open(random_ring(4))
    with pytest.raises(RuntimeError, match="a stream is used once"):
        part.open(random_ring(4))


def test_material_of_another_seed_gives_garbage() -> None:
    shape, seeds = dithered_relu_shape(20, 9, 20, 500), Seeds.fresh()
    dealt, other = (deal_layer(shape, p0=draws(p0), p1=draws(seeds.p1)) for p0 in (seeds.p0, Seeds.fresh().p0))
    for mine, theirs in zip(dealt.rings, other.rings, strict=True):
        assert np.count_nonzero(mine.values == theirs.values) < 500 * 0.1
