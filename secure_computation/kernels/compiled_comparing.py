"""Loops over small tables of bits and over shares, compiled by numba; their twins are in `kernels.comparing`.

Import this module through `comparing.compiled()` only, as `kernels.compiled` through `elementwise`. Tables are one word
each, so every loop works on words of 8, 16, 32 or 64 bits; each width is compiled, or loaded, when it is first asked
for. All arrays are contiguous and of one length; the callers check that.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels.comparing import DitheredReluConstants, ReluConstants, TruncationConstants

Words = NDArray[np.unsignedinteger]
BitArray = NDArray[np.uint8]

jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@jit
def look_up(  # noqa: PLR0917 - arguments of a compiled loop go by position
    table: Words, values: NDArray[np.uint32], shift: int, bits: int, equal: BitArray, less: BitArray
) -> None:
    """Set `equal` to the entry at a chunk of each value, `less` to the XOR of the entries above it."""
    low, mask = np.uint32(shift), np.uint32((1 << bits) - 1)
    # XOR over a word folds it; entries behind the table (words of 8 bits with tables of 2 or 4) stay outside.
    window = np.uint64((1 << (1 << bits)) - 1) if bits < 6 else np.uint64(0xFFFFFFFFFFFFFFFF)
    for index in range(table.size):
        place = (values[index] >> low) & mask
        word = np.uint64(table[index]) >> np.uint64(place)
        equal[index] = np.uint8(word) & np.uint8(1)
        word = (word >> np.uint64(1)) & window
        word ^= word >> np.uint64(32)
        word ^= word >> np.uint64(16)
        word ^= word >> np.uint64(8)
        word ^= word >> np.uint64(4)
        word ^= word >> np.uint64(2)
        word ^= word >> np.uint64(1)
        less[index] = np.uint8(word) & np.uint8(1)


@jit
def add_entry(table: Words, values: NDArray[np.uint32], shift: int, bits: int, total: BitArray) -> None:
    """Add to `total` (XOR) the entry at a chunk of each value."""
    low, mask = np.uint32(shift), np.uint32((1 << bits) - 1)
    for index in range(table.size):
        place = (values[index] >> low) & mask
        total[index] ^= np.uint8(np.uint64(table[index]) >> np.uint64(place)) & np.uint8(1)


@jit
def complete_table(  # noqa: PLR0917 - as above
    table: Words, values: NDArray[np.uint32], shift: int, bits: int, completed: Words, above: Words
) -> None:
    """Set `completed` to the table plus the one-hot table of a chunk, `above` to the XOR of all entries above each."""
    low, mask = np.uint32(shift), np.uint32((1 << bits) - 1)
    for index in range(table.size):
        place = (values[index] >> low) & mask
        completed[index] = table[index] ^ (np.uint64(1) << np.uint64(place))
    # Steps that a narrow table does not need shift by 0 and are masked out: the loop stays free of branches.
    by = np.zeros(6, np.uint64)
    keep = np.zeros(6, np.uint64)
    for step in range(bits):
        by[step] = np.uint64(1 << step)
        keep[step] = np.uint64(0xFFFFFFFFFFFFFFFF)
    by0, by1, by2, by3, by4, by5 = by
    keep0, keep1, keep2, keep3, keep4, keep5 = keep
    for index in range(table.size):
        word = np.uint64(table[index]) >> np.uint64(1)
        word ^= (word >> by0) & keep0
        word ^= (word >> by1) & keep1
        word ^= (word >> by2) & keep2
        word ^= (word >> by3) & keep3
        word ^= (word >> by4) & keep4
        word ^= (word >> by5) & keep5
        above[index] = word


@jit
def hide_product(table: Words, bit: BitArray, pad: Words, hidden: Words) -> None:
    """Set `hidden` to the pad plus (XOR) the table where the bit is 1."""
    for index in range(table.size):
        hidden[index] = pad[index] ^ (table[index] & (np.uint64(0) - np.uint64(bit[index])))


@jit
def open_masked(  # noqa: PLR0917 - as above
    share: NDArray[np.uint32],
    hidden: NDArray[np.uint32],
    mask: NDArray[np.uint32],
    offset: int,
    ring_bits: int,
    cut: int,
    output: NDArray[np.uint32],
) -> None:
    """See `comparing.open_masked`."""
    added, drop = np.uint32(offset), np.uint32(cut)
    ring, kept = np.uint32((1 << ring_bits) - 1), np.uint32((1 << (ring_bits - cut)) - 1)
    for index in range(share.size):
        value = np.uint32(share[index] + added) & ring
        output[index] = np.uint32((value >> drop) + hidden[index] + mask[index]) & kept


@jit
def combine_dithered_relu(  # noqa: PLR0917 - as above
    opened: NDArray[np.uint32],
    dd: BitArray,
    mask: NDArray[np.uint32],
    shares: tuple[NDArray[np.uint32], ...],
    constants: DitheredReluConstants,
    rest: NDArray[np.uint32],
    output: NDArray[np.uint32],
) -> None:
    """See `comparing.combine_dithered_relu`."""
    m1, m1_q, g, m1_g, w = shares
    public, top = np.uint32(constants.public), np.uint32(constants.quotient_bits - 1)
    wrap, middle = np.uint32(constants.wrap), np.uint32(constants.middle)
    cut, sign_of_rest = np.uint32(constants.output_mask), np.uint32(constants.sign_of_rest)
    one = np.uint32(1)
    for index in range(opened.size):
        c, outcome = opened[index], np.uint32(dd[index])
        cm = np.uint32(c >> top)
        sign = np.uint32(one - outcome - outcome)
        d = np.uint32(public * outcome + sign * m1[index])
        constant = np.uint32(c + wrap * np.uint32(one - cm) - middle)
        y = np.uint32(constant * d - outcome * mask[index] - sign * m1_q[index])
        wraps = np.uint32(outcome * np.uint32(w[index] + cm * g[index]) + np.uint32(sign * cm) * m1_g[index])
        output[index] = np.uint32(y + wrap * wraps + sign_of_rest * rest[index]) & cut


@jit
def combine_relu(  # noqa: PLR0917 - as above
    opened: NDArray[np.uint32],
    dd: BitArray,
    dc: BitArray,
    shares: tuple[NDArray[np.uint32], ...],
    constants: ReluConstants,
    rest: NDArray[np.uint32],
    output: NDArray[np.uint32],
) -> None:
    """See `comparing.combine_relu`."""
    m1, q, m1_q, m2, m1_m2, g, m1_g = shares
    public = np.uint32(constants.public)
    shift, borrow = np.uint32(constants.truncated_bits), np.uint32(constants.borrow)
    quotient_mask, top = np.uint32(constants.quotient_mask), np.uint32(constants.quotient_bits - 1)
    wrap, middle = np.uint32(constants.wrap), np.uint32(constants.middle)
    cut, sign_of_rest = np.uint32(constants.output_mask), np.uint32(constants.sign_of_rest)
    one = np.uint32(1)
    for index in range(opened.size):
        quotient = np.uint32(((opened[index] >> shift) - borrow) & quotient_mask)
        cm = np.uint32(quotient >> top)
        outcome = np.uint32(dd[index])
        carry = np.uint32(dc[index])
        sign = np.uint32(one - outcome - outcome)
        carry_sign = np.uint32(one - carry - carry)
        d = np.uint32(public * outcome + sign * m1[index])
        constant = np.uint32(quotient + borrow + wrap * np.uint32(one - cm) - middle)
        y = np.uint32(constant * d - outcome * q[index] - sign * m1_q[index])
        y = np.uint32(y + np.uint32(wrap * cm) * np.uint32(outcome * g[index] + sign * m1_g[index]))
        y = np.uint32(y - carry * d - carry_sign * np.uint32(outcome * m2[index] + sign * m1_m2[index]))
        output[index] = np.uint32(y + sign_of_rest * rest[index]) & cut


@jit
def combine_truncation(  # noqa: PLR0917 - as above
    opened: NDArray[np.uint32],
    dc: BitArray,
    shares: tuple[NDArray[np.uint32], ...],
    constants: TruncationConstants,
    rest: NDArray[np.uint32],
    output: NDArray[np.uint32],
) -> None:
    """See `comparing.combine_truncation`."""
    q, m2, g = shares
    public = np.uint32(constants.public)
    shift, top = np.uint32(constants.truncated_bits), np.uint32(constants.ring_bits - 1)
    wrap, middle = np.uint32(constants.wrap), np.uint32(constants.middle)
    cut, sign_of_rest = np.uint32(constants.output_mask), np.uint32(constants.sign_of_rest)
    one = np.uint32(1)
    for index in range(opened.size):
        carry = np.uint32(dc[index])
        y = np.uint32(public * np.uint32((opened[index] >> shift) - middle - carry) - q[index])
        y = np.uint32(y + np.uint32(carry + carry - one) * m2[index])
        y = np.uint32(y + np.uint32(wrap * np.uint32(one - (opened[index] >> top))) * g[index])
        output[index] = np.uint32(y + sign_of_rest * rest[index]) & cut
