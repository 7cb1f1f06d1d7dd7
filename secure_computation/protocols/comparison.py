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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final, Literal

import numpy as np

from secure_computation.kernels.comparing import Chunk, add_entry, complete_table, hide_product, look_up
from secure_computation.protocols.draws import BitArray, BlockDraws, Draws, RingElements, Words

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
    def chunks(self) -> tuple[Chunk, ...]:
        """Where each chunk lies in a value."""
        starts = (sum(self.chunk_bits[:index]) for index in range(len(self.chunk_bits)))
        return tuple(Chunk(start, bits) for start, bits in zip(starts, self.chunk_bits, strict=True))

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


# Tables in words: bit i of a word is entry i. Names follow the docstring above; T is kept only where D needs it whole.


def deal_comparison(
    chain: Chain, r: RingElements, *, p0: Draws, p1: Draws, name: str, out: Sequence[Words] | None = None
) -> list[Words]:
    """D: the words that complete P1's tables, in the order of `chain.word_types`.

    Args:
        chain: how r is cut.
        r: shape (count,); bits above the chain's are not looked at.
        p0: P0's draws of this step.
        p1: P1's draws of this step.
        name: of the comparison, in the labels of the streams.
        out: arrays to write to, instead of new ones.
    """
    count, m = r.size, len(chain.chunks)
    words = [np.empty(count, word) for word in chain.word_types] if out is None else list(out)
    equal = [p0.words(_equal(name, j), count, chain.word_types[j]) for j in range(m)]
    less = [complete_table(equal[j], r, chain.chunks[j], out=words[j]) for j in range(m)]
    for index, product in enumerate(chain.products):
        x = (less if product.table == "less" else equal)[product.chunk]
        b = p1.bits(_hide(name, index), count)
        tau = p0.words(_tau(name, index), count, x.dtype)
        # tau'[i] = tau[i] ^ x[i] * b
        hide_product(x, b, tau, out=words[m + index])
    return words


def compare_as_p1(
    chain: Chain, c: RingElements, corrections: Sequence[Words], *, draws: Draws, name: str
) -> tuple[list[BitArray], BitArray]:
    """P1: the bits p to send to P0, one array for each product, and P1's share of [c < r].

    Bits of `c` above the chain's are not looked at.
    """
    chunks = chain.chunks
    m = len(chunks)
    equal, less = _look_up_all(chain, corrections[:m], c)
    coefficient: dict[Monomial, BitArray] = {subset: np.zeros(c.size, np.uint8) for subset in _subsets(range(1, m))}
    for j in range(m):
        above = frozenset(range(j + 1, m))
        for target in _subsets(range(j + 1, m)):
            # a_S ^= s_j * product of y_i over i > j, i not in S
            coefficient[target] ^= _times_all(less[j], equal, above - target)
    sent = []
    for index, product in enumerate(chain.products):
        first, *rest = product.source
        u = _times_all(equal[first], equal, rest) if product.table == "less" else coefficient[product.source]
        # p = u ^ b, and P1's share of x[c] * u is tau'[c]
        sent.append(u ^ draws.bits(_hide(name, index), c.size))
        add_entry(coefficient[product.target], corrections[m + index], c, chunks[product.chunk])
    return sent, coefficient[frozenset()]


def compare_as_p0(chain: Chain, c: RingElements, received: Sequence[BitArray], *, draws: Draws, name: str) -> BitArray:
    """P0: its share of [c < r], from P1's bits p. Bits of `c` above the chain's are not looked at."""
    chunks = chain.chunks
    m = len(chunks)
    tables = [draws.words(_equal(name, j), c.size, chain.word_types[j]) for j in range(m)]
    equal, less = _look_up_all(chain, tables, c)
    own: dict[Monomial, BitArray] = {subset: np.zeros(c.size, np.uint8) for subset in _subsets(range(1, m))}
    for j in range(m):
        own[frozenset(range(j + 1, m))] ^= less[j]
    for index, (product, p) in enumerate(zip(chain.products, received, strict=True)):
        x = (less if product.table == "less" else equal)[product.chunk]
        # P0's share of x[c] * u is x[c] * p ^ tau[c]
        total = own[product.target]
        total ^= x & p
        tau = draws.words(_tau(name, index), c.size, chain.word_types[m + index])
        add_entry(total, tau, c, chunks[product.chunk])
    share = np.zeros(c.size, np.uint8)
    for monomial, bit in own.items():
        share ^= _times_all(bit, equal, monomial)
    return share


def expand_for_p0(chain: Chain, draws: BlockDraws, count: int, *, name: str) -> None:
    """P0: draw ahead what `compare_as_p0` will read of each stream."""
    for j in range(len(chain.chunks)):
        draws.expand(_equal(name, j), count * chain.word_types[j].itemsize)
    for index in range(len(chain.products)):
        draws.expand(_tau(name, index), count * chain.word_types[len(chain.chunks) + index].itemsize)


def _equal(name: str, chunk: int) -> str:
    return f"{name} equal {chunk}"


def _tau(name: str, product: int) -> str:
    return f"{name} tau {product}"


def _hide(name: str, product: int) -> str:
    return f"{name} hide {product}"


def _look_up_all(chain: Chain, tables: Sequence[Words], c: RingElements) -> tuple[list[BitArray], list[BitArray]]:
    """By chunk, the entries at c of H and of T."""
    pairs = [look_up(table, c, chunk) for table, chunk in zip(tables, chain.chunks, strict=True)]
    return [equal for equal, _ in pairs], [less for _, less in pairs]


def _times_all(bit: BitArray, bits: Sequence[BitArray], which: Iterable[int]) -> BitArray:
    """A bit times some of the bits."""
    for index in which:
        bit = bit & bits[index]
    return bit
