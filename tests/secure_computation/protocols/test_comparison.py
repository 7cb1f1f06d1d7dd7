"""The comparison chain: right for every pair, as dear as declared, and uniform in what P0 sees."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.engines.masked.plan.layouts import online_bits, table_bits
from secure_computation.protocols.comparison import Chain, compare_as_p1, deal_comparison
from tests.secure_computation.protocols.one_page import Seeds, compare, draws, random_ring


def layouts(bits: int, chunks: int) -> Iterator[tuple[int, ...]]:
    """All ways to cut `bits` bits into `chunks` chunks of 1 to 6."""
    if chunks == 1:
        if 1 <= bits <= 6:
            yield (bits,)
        return
    for first in range(1, min(6, bits - chunks + 1) + 1):
        yield from ((first, *rest) for rest in layouts(bits - first, chunks - 1))


SMALL = [layout for bits in range(1, 6) for chunks in range(1, 5) for layout in layouts(bits, chunks)]
LARGER = [(6,), (6, 1), (3, 4), (2, 6), (6, 2), (4, 4), (3, 2, 3), (1, 6, 1), (2, 2, 2, 2), (1, 3, 1, 3), (4, 1, 1, 2)]
ALL = [layout for bits in range(6, 9) for chunks in range(1, 5) for layout in layouts(bits, chunks)]


def check_every_pair(layout: tuple[int, ...]) -> None:
    chain = Chain(layout)
    numbers = np.arange(1 << chain.bits, dtype=np.uint32)
    c, r = (grid.ravel() for grid in np.meshgrid(numbers, numbers))
    np.testing.assert_array_equal(compare(chain, c, r).less, c < r)


@pytest.mark.parametrize("layout", SMALL + LARGER, ids=str)
def test_every_pair(layout: tuple[int, ...]) -> None:
    check_every_pair(layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ALL, ids=str)
def test_every_pair_of_every_layout_up_to_eight_bits(layout: tuple[int, ...]) -> None:
    check_every_pair(layout)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda layout: sum(layout) <= 32))
def test_wide_numbers(layout: list[int]) -> None:
    """Random ones, and pairs that agree in all chunks but one, where a chain is decided late."""
    chain = Chain(tuple(layout))
    mask = np.uint32((1 << chain.bits) - 1)
    c = random_ring(300) & mask
    r = random_ring(300) & mask
    close = c ^ np.left_shift(np.uint32(1), np.arange(300, dtype=np.uint32) % np.uint32(chain.bits))
    r[100:200], r[200:] = close[100:200], c[200:]
    np.testing.assert_array_equal(compare(chain, c, r).less, c < r)


@pytest.mark.parametrize(
    "layout", [*SMALL, *LARGER, (5, 5, 4), (6, 6, 6), (3, 3, 3, 3, 3), (4, 4, 4, 4, 4, 4)], ids=str
)
def test_costs_are_the_closed_forms(layout: tuple[int, ...]) -> None:
    chain, m = Chain(layout), len(layout)
    assert chain.sent_bits() == 3 * 2 ** (m - 1) - m - 2 == online_bits(layout)
    words = [2 ** (m - max(1, j)) for j in range(m)]
    assert chain.dealt_bytes(5) == 5 * sum(n * max(1, 2**bits // 8) for n, bits in zip(words, layout, strict=True))
    assert table_bits(layout) == sum(n * 2**bits for n, bits in zip(words, layout, strict=True))
    values = random_ring(4) & np.uint32((1 << chain.bits) - 1)
    comparison = compare(chain, values, values)
    assert len(comparison.sent) == chain.sent_bits()


def test_counts_of_the_document() -> None:
    """k = 20, f = 9: 224 table bits in the design's count; online 10 bits for the high chain and 10 for the low one."""
    assert table_bits((5, 5)) + table_bits((5, 4)) == 224
    assert (Chain((5,)).sent_bits(), Chain((5, 5)).sent_bits(), Chain((5, 5, 5)).sent_bits()) == (0, 2, 7)


@pytest.mark.parametrize("layout", [(3, 3), (2, 2, 2), (2, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("same", [True, False], ids=["equal numbers", "unequal numbers"])
def test_shares_and_messages_are_uniform_for_every_input(layout: tuple[int, ...], same: bool) -> None:
    """What P0 receives, each party's share, and the dealt tables: half ones, pairs independent of each other."""
    chain, count = Chain(layout), 1 << 14
    c = np.full(count, 5, np.uint32)
    r = c if same else np.full(count, 50, np.uint32)
    seeds = Seeds.fresh()
    words = deal_comparison(chain, r, p0=draws(seeds.p0), p1=draws(seeds.p1), name="x")
    comparison = compare(chain, c, r, seeds)
    seen_by_p0 = [*comparison.sent, comparison.p0]
    bound = 6.5 * 0.5 / np.sqrt(count)
    for first in range(len(seen_by_p0)):
        for second in range(first + 1):
            together = seen_by_p0[first] ^ seen_by_p0[second] if first != second else seen_by_p0[first]
            assert abs(together.mean() - 0.5) < bound
    for word, bits in zip(words, [*layout, *(layout[product.chunk] for product in chain.products)], strict=True):
        ones = np.unpackbits(word.view(np.uint8).reshape(count, -1), axis=1, bitorder="little").mean(axis=0)
        assert np.all(np.abs(ones - 0.5) < bound), bits
    _, share = compare_as_p1(chain, c, words, draws=draws(seeds.p1), name="x")
    assert abs(share.mean() - 0.5) < bound


@pytest.mark.parametrize("layout", [(), (0,), (7,), (3, 0), (6, 8)], ids=str)
def test_chunks_are_one_machine_word(layout: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="chunks have 1 to 6 bits"):
        Chain(layout)
