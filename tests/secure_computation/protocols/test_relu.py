"""ReLU with exact truncation: every value under every mask in small rings, edges and random values in large ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.protocols.compared_layer import LayerAsP1, deal_layer
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.draws import Draws
from secure_computation.protocols.relu import ReluShape
from secure_computation.randomness import Seed
from tests.secure_computation.protocols.one_page import (
    Integers,
    Seeds,
    draws,
    edges,
    every_pair,
    play,
    random_ring,
    relu_shape,
)


def lowest(k: int, f: int) -> int:
    """The smallest z that the protocol allows."""
    return -(1 << (k - 1)) + ((1 << f) if f else 0)


def wanted(z: Integers, f: int, k_out: int) -> Integers:
    return np.asarray(np.maximum(0, z >> f) & ((1 << k_out) - 1))


def check_every_value_under_every_mask(k: int, f: int, chunks: int) -> None:
    z, r = every_pair(np.arange(lowest(k, f), 1 << (k - 1)), k)
    for k_out in sorted({1, k - f - 1, k - f, k - f + 1, k, 32}):
        shape = relu_shape(k, f, k_out, z.size, chunks=chunks)
        np.testing.assert_array_equal(play(shape, z, r=r).y, wanted(z, f, k_out), err_msg=f"k_out {k_out}")


@pytest.mark.parametrize(("k", "f"), [(k, f) for k in range(2, 7) for f in range(k - 1)])
def test_every_value_under_every_mask(k: int, f: int) -> None:
    check_every_value_under_every_mask(k, f, 6)


@pytest.mark.parametrize(("k", "f", "chunks"), [(6, 0, 2), (6, 2, 1), (6, 3, 2), (7, 0, 3), (7, 3, 2), (7, 5, 6)])
def test_every_value_under_every_mask_in_several_chunks(k: int, f: int, chunks: int) -> None:
    check_every_value_under_every_mask(k, f, chunks)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "f"), [(k, f) for k in (7, 8) for f in range(k - 1)])
@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 6])
def test_every_value_under_every_mask_of_eight_bits(k: int, f: int, chunks: int) -> None:
    if k - f - 1 > 4 * chunks or f > 4 * chunks:
        return  # longer chains than four add time, not cases
    check_every_value_under_every_mask(k, f, chunks)


@pytest.mark.parametrize(("k", "f"), [(4, 1), (6, 2), (6, 4), (7, 3)])
def test_below_the_allowed_range_some_masks_go_wrong(k: int, f: int) -> None:
    """The bound is sharp: the range audit must refuse the next smaller value."""
    z, r = every_pair([lowest(k, f) - 1], k)
    assert np.any(play(relu_shape(k, f, 32, z.size), z, r=r).y != wanted(z, f, 32))


WIDE = [(16, 5, 16), (20, 9, 24), (24, 12, 24), (24, 12, 8), (31, 1, 17), (32, 0, 32), (32, 12, 32), (32, 30, 32)]


@pytest.mark.parametrize(("k", "f", "k_out"), WIDE)
def test_edges_and_random_values_in_large_rings(k: int, f: int, k_out: int) -> None:
    generator = np.random.default_rng(k)
    beside = edges(k, f, lowest(k, f), 1 << (k - 1))
    z = np.concatenate([np.repeat(beside, 40), generator.integers(lowest(k, f), 1 << (k - 1), 2000)])
    np.testing.assert_array_equal(play(relu_shape(k, f, k_out, z.size), z).y, wanted(z, f, k_out))


@pytest.mark.parametrize(("k", "f"), [(20, 9), (24, 12), (32, 12)])
def test_edges_under_masks_at_the_edges(k: int, f: int) -> None:
    """Masks for which chunks are all zeros or all ones, or the sum wraps around by little."""
    r = edges(k, f, 0, 1 << k)
    r = np.unique(np.concatenate([r, (1 << k) - 1 - r]))
    z = edges(k, f, lowest(k, f), 1 << (k - 1))
    values, masks = (grid.ravel() for grid in np.meshgrid(z, r))
    layer = play(relu_shape(k, f, k, values.size), values, r=masks)
    np.testing.assert_array_equal(layer.y, wanted(values, f, k))


@st.composite
def shapes(draw: st.DrawFn) -> ReluShape:
    k = draw(st.integers(3, 32))
    f = draw(st.integers(0, k - 2))

    def chain(bits: int) -> Chain:
        smallest = -(-bits // 6)
        count = draw(st.integers(smallest, min(6, bits)))
        chunks = []
        for left in range(count - 1, -1, -1):
            chunk = draw(st.integers(max(1, bits - 6 * left), min(6, bits - left)))
            chunks.append(chunk)
            bits -= chunk
        return Chain(tuple(chunks))

    return ReluShape(
        count=draw(st.integers(1, 40)),
        ring_bits=k,
        truncated_bits=f,
        output_bits=draw(st.integers(1, 32)),
        high=chain(k - f - 1),
        low=chain(f) if f else None,
    )


@settings(max_examples=60)
@given(shapes(), st.data())
def test_any_shape_and_layout(shape: ReluShape, data: st.DataObject) -> None:
    k, f = shape.ring_bits, shape.truncated_bits
    allowed = st.integers(lowest(k, f), (1 << (k - 1)) - 1)
    z = np.array(data.draw(st.lists(allowed, min_size=shape.count, max_size=shape.count)), np.int64)
    np.testing.assert_array_equal(play(shape, z).y, wanted(z, f, shape.output_bits))


@pytest.mark.parametrize(("k", "f", "k_out"), [(20, 9, 20), (24, 0, 24), (32, 12, 32)])
def test_online_messages_are_uniform_whatever_z_is(k: int, f: int, k_out: int) -> None:
    """Every opened bit array and every bit of every ring element, for z constant and extreme."""
    count = 1 << 13
    for value in (0, lowest(k, f), (1 << (k - 1)) - 1):
        z = np.full(count, value, np.int64)
        layer = play(relu_shape(k, f, k_out, count), z, z0=np.zeros(count, np.uint32))
        for bundle in layer.opened.values():
            for bits in bundle.bits:
                assert abs(bits.values.mean() - 0.5) < 6 * 0.5 / np.sqrt(count)
            for ring in bundle.rings:
                ones = (ring.values[:, None] >> np.arange(ring.bits, dtype=np.uint32)) & np.uint32(1)
                assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(count))


def test_declared_sizes_of_the_document() -> None:
    """The counts in docs/protocol.md, for k = 20, f = 9, chunks (5, 5 | 5, 4)."""
    shape = ReluShape(count=8, ring_bits=20, truncated_bits=9, output_bits=20, high=Chain((5, 5)), low=Chain((5, 4)))
    assert shape.from_p1.body_bytes == 20 + 2 + 2 + 2  # bits of an element are bytes of eight
    assert shape.from_p0.body_bytes == 20 + 2
    assert shape.prepared.body_bytes == 20
    assert shape.corrections.body_bytes == 224 + 5 * 20 + 2 * 9


@pytest.mark.parametrize(
    ("high", "low", "f"),
    [((5, 4), (4,), 4), ((5, 5), (3,), 4), ((5, 5), None, 4), ((5, 5), (5,), 0)],
)
def test_chains_that_do_not_fit_the_ring_are_refused(
    high: tuple[int, ...], low: tuple[int, ...] | None, f: int
) -> None:
    with pytest.raises(ValueError, match="chain"):
        ReluShape(
            count=1, ring_bits=15, truncated_bits=f, output_bits=15, high=Chain(high), low=Chain(low) if low else None
        )


def test_finish_comes_after_open() -> None:
    shape = relu_shape(8, 2, 8, 4)
    seeds = Seeds.fresh()
    layer = play(shape, np.arange(4), seeds=seeds)
    part = LayerAsP1(shape, draws(seeds.p1), layer.opened["corrections"], layer.opened["prepared"])
    with pytest.raises(RuntimeError, match="open comes before finish"):
        part.finish(layer.opened["from_p0"])


def test_a_layer_is_opened_once() -> None:
    """A second opening would need the streams again, and those are drawn once."""
    shape = relu_shape(8, 2, 8, 4)
    seeds = Seeds.fresh()
    layer = play(shape, np.arange(4), seeds=seeds)
    part = LayerAsP1(shape, draws(seeds.p1), layer.opened["corrections"], layer.opened["prepared"])
    part.open(random_ring(4))
    with pytest.raises(RuntimeError, match="a stream is used once"):
        part.open(random_ring(4))


@pytest.mark.parametrize("changed", ["item", "step", "seed"])
def test_material_of_another_item_step_or_seed_gives_garbage(changed: str) -> None:
    """Nothing is shared between two purposes: what D dealt for one does not complete the shares of another."""
    shape = relu_shape(20, 9, 20, 500)
    z = np.arange(500, dtype=np.int64) << 9
    seeds = Seeds.fresh()
    assert np.array_equal(play(shape, z, seeds=seeds).y, wanted(z, 9, 20))
    other = {
        "item": Draws(seeds.p0, item="another", step=3),
        "step": Draws(seeds.p0, item="one page", step=4),
        "seed": Draws(Seed.fresh(), item="one page", step=3),
    }[changed]
    expected = deal_layer(shape, p0=draws(seeds.p0), p1=draws(seeds.p1))
    dealt = deal_layer(shape, p0=other, p1=draws(seeds.p1))
    for mine, theirs in zip(dealt.rings, expected.rings, strict=True):
        assert np.count_nonzero(mine.values == theirs.values) < 500 * 0.1
