"""The compiled loops over tables and shares equal their NumPy twins, which equal the plain definition."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_computation.kernels import comparing
from secure_computation.kernels.comparing import Chunk, DitheredReluConstants, ReluConstants, TruncationConstants

seeds = st.integers(0, 2**32 - 1)
table_bits = st.integers(1, 6)
counts = st.sampled_from([0, 1, 7, 8, 65, 300])


def words(rng: np.random.Generator, bits: int, count: int) -> NDArray[np.unsignedinteger]:
    """Random words that hold tables of 2^bits entries; narrow ones have random bits behind the table too."""
    return np.frombuffer(rng.bytes(count * max(1, (1 << bits) // 8)), f"<u{max(1, (1 << bits) // 8)}")


def elements(rng: np.random.Generator, count: int) -> NDArray[np.uint32]:
    return rng.integers(0, 2**32, count, dtype=np.uint32)


def bits_of(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return rng.integers(0, 2, count, dtype=np.uint8)


def both(call: Callable[[bool], Any]) -> Any:
    """What the compiled twin returns, equal to what NumPy returns."""
    fast, plain = call(True), call(False)
    for left, right in zip(fast, plain, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    return fast


def test_the_compiled_twins_are_there() -> None:
    assert comparing.compiled() is not None


@given(seeds, counts, table_bits, st.integers(0, 26))
def test_looking_up(seed: int, count: int, bits: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    table, values, chunk = words(rng, bits, count), elements(rng, count), Chunk(shift, bits)
    equal, less = both(lambda fast: comparing.look_up(table, values, chunk, use_compiled=fast))
    total = bits_of(rng, count)

    def added(fast: bool) -> list[NDArray[Any]]:
        own = total.copy()
        comparing.add_entry(own, table, values, chunk, use_compiled=fast)
        return [own]

    assert (both(added)[0] == total ^ equal).all()
    if bits >= 3:  # else what stands behind the table enters both parties' shares alike and cancels
        for index in range(min(count, 20)):
            entries = [int(table[index]) >> entry & 1 for entry in range(1 << bits)]
            place = int(values[index]) >> shift & ((1 << bits) - 1)
            assert equal[index] == entries[place]
            assert less[index] == sum(entries[place + 1 :]) % 2


@given(seeds, counts, table_bits, st.integers(0, 26))
def test_dealing(seed: int, count: int, bits: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    table, values, chunk = words(rng, bits, count), elements(rng, count), Chunk(shift, bits)

    def completed(fast: bool) -> list[NDArray[Any]]:
        out = np.empty_like(table)
        return [out, comparing.complete_table(table, values, chunk, out=out, use_compiled=fast)]

    out, above = both(completed)
    for index in range(min(count, 20)):
        assert int(out[index] ^ table[index]) == 1 << (int(values[index]) >> shift & ((1 << bits) - 1))
    _, less = comparing.look_up(table, values, chunk, use_compiled=False)
    entry, _ = comparing.look_up(above, values, chunk, use_compiled=False)
    np.testing.assert_array_equal(entry, less)

    bit, pad = bits_of(rng, count), words(rng, bits, count)

    def hidden(fast: bool) -> list[NDArray[Any]]:
        product = np.empty_like(table)
        comparing.hide_product(table, bit, pad, out=product, use_compiled=fast)
        return [product]

    np.testing.assert_array_equal(both(hidden)[0], pad ^ table * bit.astype(table.dtype))


@given(seeds, counts, st.data())
def test_combining_shares(seed: int, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(2, 32))
    f = data.draw(st.integers(0, k - 2))
    h = k - f
    opened, dd, dc, rest = elements(rng, count), bits_of(rng, count), bits_of(rng, count), elements(rng, count)
    shares = tuple(elements(rng, count) for _ in range(7))
    cut = (1 << data.draw(st.integers(1, 32))) - 1
    public, sign = data.draw(st.sampled_from([(0, 2**32 - 1), (1, 1)]))
    opened >>= np.uint32(32 - k)
    relu = ReluConstants(public, f, int(f > 0), h, (1 << h) - 1, (1 << h) % 2**32, 1 << (h - 1), cut, sign)

    def of_relu(fast: bool) -> list[NDArray[Any]]:
        y = np.empty(count, np.uint32)
        comparing.combine_relu(opened, dd, dc, shares, relu, rest=rest, out=y, use_compiled=fast)
        return [y]

    both(of_relu)
    dithered = DitheredReluConstants(public, h, (1 << h) % 2**32, 1 << (h - 1), cut, sign)
    own = elements(rng, count)

    def of_dithered_relu(fast: bool) -> list[NDArray[Any]]:
        y, c = np.empty(count, np.uint32), opened >> np.uint32(f)
        comparing.combine_dithered_relu(c, dd, own, shares[:5], dithered, rest=rest, out=y, use_compiled=fast)
        return [y]

    both(of_dithered_relu)

    def of_masking(fast: bool) -> list[NDArray[Any]]:
        c = np.empty(count, np.uint32)
        comparing.open_masked(rest, own, shares[0], offset=1 << (k - 1), ring_bits=k, cut=f, out=c, use_compiled=fast)
        return [c]

    (masked,) = both(of_masking)
    wanted = ((rest + np.uint32(1 << (k - 1))) & np.uint32((1 << k) - 1)) >> np.uint32(f)
    np.testing.assert_array_equal(masked, (wanted + own + shares[0]) & np.uint32((1 << h) - 1))
    truncation = TruncationConstants(public, k, f, 1 << (h - 1), (1 << h) % 2**32, cut, sign)

    def of_truncation(fast: bool) -> list[NDArray[Any]]:
        y = np.empty(count, np.uint32)
        comparing.combine_truncation(opened, dc, shares[:3], truncation, rest=rest, out=y, use_compiled=fast)
        return [y]

    both(of_truncation)


@pytest.mark.parametrize("count", [0, 1, comparing.BLOCK, 2 * comparing.BLOCK + 5])
def test_blocks_cover_every_element_once(count: int) -> None:
    places = [index for part in comparing.blocks(count) for index in range(part.start, part.stop)]
    assert places == list(range(count))
    assert all(part.start % 8 == 0 for part in comparing.blocks(count))


def test_after_warming_up_nothing_is_compiled() -> None:
    comparing.warm_up()
    module = comparing.compiled()
    assert module is not None
    names = ["look_up", "add_entry", "complete_table", "hide_product", "open_masked"]
    names += ["combine_relu", "combine_dithered_relu", "combine_truncation"]
    loops = [getattr(module, name) for name in names]
    compiled = [len(loop.signatures) for loop in loops]
    test_looking_up()
    test_dealing()
    test_combining_shares()
    assert [len(loop.signatures) for loop in loops] == compiled
