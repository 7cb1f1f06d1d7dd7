"""Comparison chain: XOR shares of [c < r], where c is public and r is known to D alone.

c and r are cut into m chunks, 0 the lowest. D shares the one-hot table H^j of each chunk of r: H^j[i] = [i = r_j]. Let
T^j[i] = XOR of H^j over all entries above i, so that T^j[c_j] = [c_j < r_j] and H^j[c_j] = [c_j = r_j]. With P0's bits
t_j, h_j and P1's s_j, y_j read at c_j from their shares of T^j and H^j,

    [c < r] = XOR over j of (t_j ^ s_j) * product over i > j of (h_i ^ y_i)

is, for P0, a polynomial in its own bits whose coefficients P1 knows. Products of one bit of each party use one
primitive, and no message from P0 to P1:

    D                                          P0                         P1
    ---------------------------------------    -----------------------    --------------------------------
    x: P0's table; b from s1; tau from s0
    deals P1 tau'[i] = tau[i] ^ x[i] * b       p                    <--   p = u ^ b, for its bit u
                                               x[c] * p ^ tau[c]          tau'[c]     (XOR: x[c] * u)

First every t_j meets P1's products of y; then h_1, h_2, ... are eliminated from P1's coefficients one by one, until P1
is left with a bit. A table of at most 64 entries is one machine word, so D and both parties work on whole words.

Cost for each comparison: D sends P1 2^(m-1) words for chunk 0 and 2^(m-j) for chunk j >= 1; P1 sends P0
3 * 2^(m-1) - m - 2 bits. Source: one-time truth tables (Ishai et al. 2013); masked-evaluation comparison (Boyle et al.
2020, Escudero et al. 2020); docs/protocol.md, "Comparison".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final, Literal

import numpy as np

from secure_computation.protocols.draws import BitArray, Draws, RingElements, Words

MAX_CHUNK_BITS: Final = 6
Monomial = frozenset[int]
"""A product of P0's bits h_i, by the i."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One use of the primitive: P0's table of a chunk times a bit of P1, added to the coefficient `target`."""

    chunk: int
    table: Literal["less", "equal"]
    """T^j or H^j."""
    source: Monomial
    """less: P1's bit is the product of y_i over the chunks above that are not in `target`.
    equal: P1's bit is its coefficient of `source`, from which h_chunk is eliminated."""
    target: Monomial


@dataclass(frozen=True)
class Chain:
    """How the bits of c and r are cut: bits of each chunk, the lowest chunk first. Public."""

    chunk_bits: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse chunks whose table is not one machine word."""
        if not self.chunk_bits or not all(1 <= bits <= MAX_CHUNK_BITS for bits in self.chunk_bits):
            raise ValueError(f"chunks have 1 to {MAX_CHUNK_BITS} bits, not {self.chunk_bits}")

    @property
    def bits(self) -> int:
        """Bits of c and r."""
        return sum(self.chunk_bits)

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Every use of the primitive, in the order in which both parties and D run them."""
        return tuple(_products(len(self.chunk_bits)))

    @cached_property
    def word_types(self) -> tuple[np.dtype[np.unsignedinteger], ...]:
        """Word of each dealt table: the one-hot tables by chunk, then one for each product."""
        chunks = [*range(len(self.chunk_bits)), *(product.chunk for product in self.products)]
        return tuple(_word_type(self.chunk_bits[chunk]) for chunk in chunks)

    def dealt_bytes(self, count: int) -> int:
        """Bytes that D sends P1 for `count` comparisons."""
        return count * sum(word.itemsize for word in self.word_types)

    def sent_bits(self) -> int:
        """Bits that P1 sends P0 for one comparison."""
        return len(self.products)


def _word_type(chunk_bits: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{max(1, (1 << chunk_bits) // 8)}")


def _subsets(items: range) -> Iterator[Monomial]:
    for size in range(len(items) + 1):
        for subset in combinations(items, size):
            yield frozenset(subset)


def _products(chunks: int) -> Iterator[Product]:
    for chunk in range(chunks):
        above = range(chunk + 1, chunks)
        for target in _subsets(above):
            if target != frozenset(above):  # there P1's factor is 1: P0 has the product by itself
                yield Product(chunk=chunk, table="less", source=frozenset(above) - target, target=target)
    for chunk in range(1, chunks):
        for target in _subsets(range(chunk + 1, chunks)):
            yield Product(chunk=chunk, table="equal", source=target | {chunk}, target=target)


# Tables in words: bit i of a word is entry i.


def _cut(chain: Chain, values: RingElements) -> list[RingElements]:
    chunks, shift = [], 0
    for bits in chain.chunk_bits:
        chunks.append((values >> np.uint32(shift)) & np.uint32((1 << bits) - 1))
        shift += bits
    return chunks


def _one_hot(chunk: RingElements, word: np.dtype[np.unsignedinteger]) -> Words:
    return np.left_shift(np.ones(1, word), chunk.astype(word))


def _above(equal: Words, chunk_bits: int) -> Words:
    """T from H: entry i is the XOR of all entries above i."""
    word = equal >> equal.dtype.type(1)
    for step in range(chunk_bits):
        word ^= word >> word.dtype.type(1 << step)
    return word


def _read(table: Words, chunk: RingElements) -> BitArray:
    return (np.right_shift(table, chunk.astype(table.dtype)) & table.dtype.type(1)).astype(np.uint8)


def _times(table: Words, bit: BitArray) -> Words:
    """The table where the bit is 1, zeros where it is 0."""
    return table & (np.zeros(1, table.dtype) - bit.astype(table.dtype))


def _tables(chain: Chain, draws: Draws, name: str, count: int) -> tuple[list[Words], list[Words]]:
    """P0's shares of H and of T by chunk (D derives the same)."""
    equal = [draws.words(f"{name} equal {j}", count, _word_type(bits)) for j, bits in enumerate(chain.chunk_bits)]
    return equal, [_above(table, bits) for table, bits in zip(equal, chain.chunk_bits, strict=True)]


def deal_comparison(chain: Chain, r: RingElements, *, p0: Draws, p1: Draws, name: str) -> list[Words]:
    """D: the words that complete P1's tables, in the order of `chain.word_types`. `r`: shape (count,), below 2^bits."""
    count = r.size
    equal, less = _tables(chain, p0, name, count)
    corrections: list[Words] = [
        table ^ _one_hot(chunk, table.dtype) for table, chunk in zip(equal, _cut(chain, r), strict=True)
    ]
    for index, product in enumerate(chain.products):
        x = (less if product.table == "less" else equal)[product.chunk]
        b = p1.bits(f"{name} hide {index}", count)
        tau = p0.words(f"{name} tau {index}", count, x.dtype)
        corrections.append(tau ^ _times(x, b))
    return corrections


def compare_as_p1(
    chain: Chain, c: RingElements, corrections: Sequence[Words], *, draws: Draws, name: str
) -> tuple[list[BitArray], BitArray]:
    """P1: the bits p to send to P0, one array for each product, and P1's share of [c < r]."""
    chunks = _cut(chain, c)
    m = len(chunks)
    equal = [_read(corrections[j], chunks[j]) for j in range(m)]
    less = [_read(_above(corrections[j], chain.chunk_bits[j]), chunks[j]) for j in range(m)]
    coefficient: dict[Monomial, BitArray] = {subset: np.zeros(c.size, np.uint8) for subset in _subsets(range(1, m))}
    for j in range(m):
        above = frozenset(range(j + 1, m))
        for target in _subsets(range(j + 1, m)):
            coefficient[target] = coefficient[target] ^ (less[j] & _all(equal, above - target, c.size))
    sent = []
    for index, product in enumerate(chain.products):
        u = _all(equal, product.source, c.size) if product.table == "less" else coefficient[product.source]
        sent.append(u ^ draws.bits(f"{name} hide {index}", c.size))
        share = _read(corrections[m + index], chunks[product.chunk])
        coefficient[product.target] = coefficient[product.target] ^ share
    return sent, coefficient[frozenset()]


def compare_as_p0(chain: Chain, c: RingElements, received: Sequence[BitArray], *, draws: Draws, name: str) -> BitArray:
    """P0: its share of [c < r], from P1's bits p."""
    chunks = _cut(chain, c)
    m = len(chunks)
    equal_tables, less_tables = _tables(chain, draws, name, c.size)
    equal = [_read(table, chunk) for table, chunk in zip(equal_tables, chunks, strict=True)]
    less = [_read(table, chunk) for table, chunk in zip(less_tables, chunks, strict=True)]
    own: dict[Monomial, BitArray] = {subset: np.zeros(c.size, np.uint8) for subset in _subsets(range(1, m))}
    for j in range(m):
        above = frozenset(range(j + 1, m))
        own[above] = own[above] ^ less[j]
    for index, (product, p) in enumerate(zip(chain.products, received, strict=True)):
        x = (less if product.table == "less" else equal)[product.chunk]
        tau = draws.words(f"{name} tau {index}", c.size, _word_type(chain.chunk_bits[product.chunk]))
        own[product.target] = own[product.target] ^ (x & p) ^ _read(tau, chunks[product.chunk])
    share = np.zeros(c.size, np.uint8)
    for monomial, bit in own.items():
        share ^= bit & _all(equal, monomial, c.size)
    return share


def _all(bits: Sequence[BitArray], which: Monomial, count: int) -> BitArray:
    """Product of some of the bits; 1 for none."""
    product = np.ones(count, np.uint8)
    for index in which:
        product &= bits[index]
    return product
