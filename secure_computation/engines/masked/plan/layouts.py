"""How a comparison is cut into chunks, and what one element of a chain costs. Public, the same for all parties.

A chain compares two numbers of `sum(chunks)` bits, chunk 0 being the lowest. Each chunk of c bits is looked up in
tables of 2^c bits; c is at most 6, so that one table is one machine word.
"""

from collections.abc import Iterator
from functools import cache
from typing import Final

MAX_CHUNK_BITS: Final = 6
MAX_CHUNKS: Final = 6
ONLINE_WEIGHT: Final = 32
"""How many dealt bits one online bit is worth: an image waits for online bits, material can be stocked."""

Chunks = tuple[int, ...]


def tables(chunks: Chunks) -> tuple[int, ...]:
    """How many tables are dealt for each chunk: 2^(m-1) for chunk 0, 2^(m-j) for chunk j >= 1."""
    count = len(chunks)
    return tuple(1 << (count - max(1, index)) for index in range(count))


def table_bits(chunks: Chunks) -> int:
    """Bits of dealt tables for one element of a chain."""
    return sum(number << bits for number, bits in zip(tables(chunks), chunks, strict=True))


def online_bits(chunks: Chunks) -> int:
    """Masked bits that the model owner sends for one element of a chain: 3 * 2^(m-1) - m - 2, none without chunks."""
    count = len(chunks)
    return 3 * (1 << (count - 1)) - count - 2 if count else 0


@cache
def best_chunks(bits: int) -> Chunks:
    """The cheapest way to cut a comparison of `bits` bits, by dealt bits + ONLINE_WEIGHT * online bits."""
    if bits == 0:
        return ()
    candidates = (chunks for count in range(1, MAX_CHUNKS + 1) for chunks in _cuts(bits, count))
    return min(candidates, key=lambda chunks: (table_bits(chunks) + ONLINE_WEIGHT * online_bits(chunks), chunks))


def _cuts(bits: int, count: int) -> Iterator[Chunks]:
    """All ways to write `bits` as `count` chunks of 1 to MAX_CHUNK_BITS bits."""
    if count == 1:
        if 1 <= bits <= MAX_CHUNK_BITS:
            yield (bits,)
        return
    for first in range(1, min(MAX_CHUNK_BITS, bits - count + 1) + 1):
        yield from ((first, *rest) for rest in _cuts(bits - first, count - 1))
