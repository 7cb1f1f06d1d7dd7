"""Arithmetic of comparisons over many elements: small tables of bits, and shares put together.

A table of 2^bits entries, bits at most 6, is one unsigned word; entry i is bit i. A chunk of a value is its bits from
`shift` on, `bits` of them. The compiled twins (`kernels.compiled_comparing`) equal the NumPy forms in every bit. Each
function takes `use_compiled`: None (the default) uses the compiled twin where it can be loaded.

Callers work through a layer in blocks of `BLOCK` elements, so that what one loop leaves the next finds in the cache.
"""

import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels.elementwise import load_compiled

RingElements = NDArray[np.uint32]
BitArray = NDArray[np.uint8]
Words = NDArray[np.unsignedinteger]

BLOCK: Final = 1 << 16
"""Elements of a block: a multiple of 8, so that packed bits of a block fill whole bytes."""


def blocks(count: int) -> Iterator[slice]:
    """Cut `count` elements into blocks, the last one smaller."""
    return (slice(start, min(count, start + BLOCK)) for start in range(0, count, BLOCK))


class Chunk(NamedTuple):
    """Some bits of a value: where they begin, and how many."""

    shift: int
    bits: int

    def of(self, values: RingElements) -> RingElements:
        """The chunk of each value."""
        return (values >> np.uint32(self.shift)) & np.uint32((1 << self.bits) - 1)


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled twins, loaded at the first call, or None without numba or a place for what it compiles."""
    return load_compiled("secure_computation.kernels.compiled_comparing")


def _twin(*, use_compiled: bool | None) -> ModuleType | None:
    return None if use_compiled is False else compiled()


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: numba compiles a loop for each kind of array, so that all are made of one kind."""
    if array.flags.writeable or not array.flags.c_contiguous:
        array = np.ascontiguousarray(array).view()
        array.setflags(write=False)
    return array


def look_up(
    table: Words, values: RingElements, chunk: Chunk, *, use_compiled: bool | None = None
) -> tuple[BitArray, BitArray]:
    """The table's entry at the chunk of each value, and the XOR of all entries above it."""
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        place = chunk.of(values)
        return _entry(table, place), _entry(all_above(table, chunk.bits), place)
    equal, less = np.empty(values.size, np.uint8), np.empty(values.size, np.uint8)
    twin.look_up(_sealed(table), _sealed(values), chunk.shift, chunk.bits, equal, less)
    return equal, less


def add_entry(
    total: BitArray, table: Words, values: RingElements, chunk: Chunk, *, use_compiled: bool | None = None
) -> None:
    """Add to `total` (XOR, in place) the table's entry at the chunk of each value."""
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        total ^= _entry(table, chunk.of(values))
    else:
        twin.add_entry(_sealed(table), _sealed(values), chunk.shift, chunk.bits, total)


def complete_table(
    table: Words, values: RingElements, chunk: Chunk, *, out: Words, use_compiled: bool | None = None
) -> Words:
    """Set `out` to the table plus (XOR) the one-hot table of the chunk; return the table of XORs of all above."""
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        np.bitwise_xor(table, np.left_shift(np.ones(1, table.dtype), chunk.of(values).astype(table.dtype)), out=out)
        return all_above(table, chunk.bits)
    above = np.empty_like(table)
    twin.complete_table(_sealed(table), _sealed(values), chunk.shift, chunk.bits, out, above)
    return above


def hide_product(table: Words, bit: BitArray, pad: Words, *, out: Words, use_compiled: bool | None = None) -> None:
    """Set `out` to the pad plus (XOR) the table where the bit is 1."""
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        np.bitwise_xor(pad, table & (np.zeros(1, table.dtype) - bit.astype(table.dtype)), out=out)
    else:
        twin.hide_product(_sealed(table), _sealed(bit), _sealed(pad), out)


def all_above(table: Words, bits: int) -> Words:
    """The table whose entry i is the XOR of all entries above i."""
    word = table >> table.dtype.type(1)
    for step in range(bits):
        word ^= word >> word.dtype.type(1 << step)
    return word


def _entry(table: Words, place: RingElements) -> BitArray:
    return (np.right_shift(table, place.astype(table.dtype)) & table.dtype.type(1)).astype(np.uint8)


def open_masked(
    share: RingElements,
    hidden: RingElements,
    mask: RingElements,
    *,
    offset: int,
    ring_bits: int,
    cut: int,
    out: RingElements,
    use_compiled: bool | None = None,
) -> None:
    """Set `out` to (share + offset mod 2^ring_bits), its low `cut` bits dropped, plus `hidden` and `mask`, reduced."""
    kept = ring_bits - cut
    twin = _twin(use_compiled=use_compiled)
    if twin is not None:
        twin.open_masked(_sealed(share), _sealed(hidden), _sealed(mask), offset, ring_bits, cut, out)
        return
    np.add(share, np.uint32(offset), out=out)
    out &= np.uint32((1 << ring_bits) - 1)
    out >>= np.uint32(cut)
    out += hidden
    out += mask
    out &= np.uint32((1 << kept) - 1)


class ReluConstants(NamedTuple):
    """Public numbers of one ReLU layer, by the names of `protocols.relu`."""

    public: int
    """1 for the party (P1) that adds the terms without a share, else 0."""
    truncated_bits: int
    """f."""
    borrow: int
    """What C' takes off floor(C / 2^f): 1, or 0 for f = 0."""
    quotient_bits: int
    """h."""
    quotient_mask: int
    """2^h - 1."""
    wrap: int
    """2^h mod 2^32."""
    middle: int
    """2^(h-1)."""
    output_mask: int
    """2^k_out - 1."""
    sign_of_rest: int
    """`rest` is added (1) or taken off (2^32 - 1)."""


def combine_relu(
    opened: RingElements,
    dd: BitArray,
    dc: BitArray,
    shares: tuple[RingElements, ...],
    constants: ReluConstants,
    *,
    rest: RingElements,
    out: RingElements,
    use_compiled: bool | None = None,
) -> None:
    """Set `out` to one party's share of y, plus or minus `rest`, cut to the ring of the output.

    Args:
        opened: C.
        dd: d ^ m1, opened.
        dc: carry ^ m2, opened; zeros for f = 0.
        shares: of m1, q, m1 q, m2, m1 m2, g, m1 g; zeros for those that the layer does without.
        constants: of the layer and party.
        rest: rho' at P0, what P0 sent at P1.
        out: uint32.
        use_compiled: see above.
    """
    twin = _twin(use_compiled=use_compiled)
    if twin is not None:
        sealed = tuple(_sealed(share) for share in shares)
        twin.combine_relu(_sealed(opened), _sealed(dd), _sealed(dc), sealed, constants, _sealed(rest), out)
        return
    m1, q, m1_q, m2, m1_m2, g, m1_g = shares
    one, borrow, wrap = np.uint32(1), np.uint32(constants.borrow), np.uint32(constants.wrap)
    quotient = ((opened >> np.uint32(constants.truncated_bits)) - borrow) & np.uint32(constants.quotient_mask)
    cm = quotient >> np.uint32(constants.quotient_bits - 1)
    outcome, carry = dd.astype(np.uint32), dc.astype(np.uint32)
    sign, carry_sign = one - outcome - outcome, one - carry - carry  # 1 - 2 dd, 1 - 2 dc
    d = np.uint32(constants.public) * outcome + sign * m1
    y = (quotient + borrow + wrap * (one - cm) - np.uint32(constants.middle)) * d - outcome * q - sign * m1_q
    y += wrap * cm * (outcome * g + sign * m1_g)
    y -= carry * d + carry_sign * (outcome * m2 + sign * m1_m2)
    y += np.uint32(constants.sign_of_rest) * rest
    np.bitwise_and(y, np.uint32(constants.output_mask), out=out)


class DitheredReluConstants(NamedTuple):
    """Public numbers of one ReLU layer, by the names of `protocols.dithered_relu`."""

    public: int
    """1 for the party (P1) that adds the terms without a share, else 0."""
    quotient_bits: int
    """h."""
    wrap: int
    """2^h mod 2^32."""
    middle: int
    """2^(h-1)."""
    output_mask: int
    """2^k_out - 1."""
    sign_of_rest: int
    """`rest` is added (1) or taken off (2^32 - 1)."""


def combine_dithered_relu(
    opened: RingElements,
    dd: BitArray,
    mask: RingElements,
    shares: tuple[RingElements, ...],
    constants: DitheredReluConstants,
    *,
    rest: RingElements,
    out: RingElements,
    use_compiled: bool | None = None,
) -> None:
    """Set `out` to one party's share of y, plus or minus `rest`, cut to the ring of the output.

    Args:
        opened: C.
        dd: d ^ m1, opened.
        mask: R at P0, r1 at P1.
        shares: of m1, m1 q, g, m1 g, w; zeros for those that the layer does without.
        constants: of the layer and party.
        rest: rho' at P0, what P0 sent at P1.
        out: uint32.
        use_compiled: see above.
    """
    twin = _twin(use_compiled=use_compiled)
    if twin is not None:
        sealed = tuple(_sealed(share) for share in shares)
        twin.combine_dithered_relu(_sealed(opened), _sealed(dd), _sealed(mask), sealed, constants, _sealed(rest), out)
        return
    m1, m1_q, g, m1_g, w = shares
    one, wrap = np.uint32(1), np.uint32(constants.wrap)
    cm = opened >> np.uint32(constants.quotient_bits - 1)
    outcome = dd.astype(np.uint32)
    sign = one - outcome - outcome  # 1 - 2 dd
    d = np.uint32(constants.public) * outcome + sign * m1
    y = (opened + wrap * (one - cm) - np.uint32(constants.middle)) * d - outcome * mask - sign * m1_q
    y += wrap * (outcome * (w + cm * g) + sign * cm * m1_g)
    y += np.uint32(constants.sign_of_rest) * rest
    np.bitwise_and(y, np.uint32(constants.output_mask), out=out)


class TruncationConstants(NamedTuple):
    """Public numbers of one truncation layer, by the names of `protocols.truncation`."""

    public: int
    """1 for the party (P1) that adds the terms without a share, else 0."""
    ring_bits: int
    """k."""
    truncated_bits: int
    """f."""
    middle: int
    """The offset of C, divided by 2^f."""
    wrap: int
    """2^(k-f) mod 2^32."""
    output_mask: int
    """2^k_out - 1."""
    sign_of_rest: int
    """`rest` is added (1) or taken off (2^32 - 1)."""


def combine_truncation(
    opened: RingElements,
    dc: BitArray,
    shares: tuple[RingElements, ...],
    constants: TruncationConstants,
    *,
    rest: RingElements,
    out: RingElements,
    use_compiled: bool | None = None,
) -> None:
    """Set `out` to one party's share of floor(z / 2^f), plus or minus `rest`, cut to the ring of the output.

    Args:
        opened: C.
        dc: carry ^ m2, opened; zeros for f = 0.
        shares: of q, m2, g; zeros for those that the layer does without.
        constants: of the layer and party.
        rest: rho' at P0, what P0 sent at P1.
        out: uint32.
        use_compiled: see above.
    """
    twin = _twin(use_compiled=use_compiled)
    if twin is not None:
        sealed = tuple(_sealed(share) for share in shares)
        twin.combine_truncation(_sealed(opened), _sealed(dc), sealed, constants, _sealed(rest), out)
        return
    q, m2, g = shares
    public, carry = np.uint32(constants.public), dc.astype(np.uint32)
    y = public * ((opened >> np.uint32(constants.truncated_bits)) - np.uint32(constants.middle) - carry) - q
    y += (carry + carry - np.uint32(1)) * m2
    y += np.uint32(constants.wrap) * (np.uint32(1) - (opened >> np.uint32(constants.ring_bits - 1))) * g
    y += np.uint32(constants.sign_of_rest) * rest
    np.bitwise_and(y, np.uint32(constants.output_mask), out=out)


def warm_up() -> None:
    """Compile every loop for every kind of table, or load it, now rather than in the middle of a session."""
    values, bit = np.ones(2, np.uint32), np.ones(2, np.uint8)
    for bits in range(3, 7):
        table = np.ones(2, f"<u{(1 << bits) // 8}")
        look_up(table, values, Chunk(0, bits))
        add_entry(bit, table, values, Chunk(0, bits))
        above = complete_table(table, values, Chunk(0, bits), out=table.copy())
        hide_product(above, bit, table, out=table.copy())
    open_masked(values, values, values, offset=1, ring_bits=2, cut=1, out=values.copy())
    relu = ReluConstants(1, 1, 1, 1, 1, 1, 1, 1, 1)
    combine_relu(values, bit, bit, (values,) * 7, relu, rest=values, out=values.copy())
    dithered = DitheredReluConstants(1, 1, 1, 1, 1, 1)
    combine_dithered_relu(values, bit, values, (values,) * 5, dithered, rest=values, out=values.copy())
    truncation = TruncationConstants(1, 2, 1, 1, 1, 1, 1)
    combine_truncation(values, bit, (values,) * 3, truncation, rest=values, out=values.copy())
