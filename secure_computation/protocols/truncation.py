"""Truncation: y = floor(z / 2^f), in one round trip, without a comparison of signs.

Two forms, by the ring of y. `narrow`: z in a ring of k bits, any value; y in a ring of at most k - f bits. `wide`: y in
a wider ring of k_out bits, with one spare bit in z: -2^(k-2) <= z < 2^(k-2). P0 holds z0, fixed before the input is
known, P1 holds z1; afterwards y is in masked form. With q = floor(r / 2^f), g the top bit of r:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0, m2_0, rho' from s0     the same                               r1, m2_1 from s1
    table of the chain for                                     -->    corrections: table; shares of q, m2 (ring of y)
    r mod 2^f                                                         and, wide, of g (k_out - k + f bits)
                               z0 + r0                         -->
    online
                                                               <--    C = z + offset + r, the chain's bits,
                                                                      its share of dc = carry ^ m2
                               its share of dc, y0 - rho'      -->
    with carry = [C mod 2^f < r mod 2^f] = dc + (1 - 2 dc) * m2:

    narrow, offset 2^(k-1):  y = floor(C / 2^f) - q - carry - 2^(k-1-f)                        mod 2^k_out
    wide,   offset 2^(k-2):  y = floor(C / 2^f) - q - carry - 2^(k-2-f) + 2^(k-f) * wrap       mod 2^k_out
                             wrap = (1 - top bit of C) * g: z + offset < 2^(k-1), so C wrapped if its top bit is
                             gone and r had it

For f = 0 there is no carry: the wide form then only widens the ring.

What is opened, and to whom: C to both (hidden by r, which neither knows), dc to both (hidden by m2).

Source: docs/protocol.md, "Truncation"; Escudero et al. 2020 for the masked form.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from secure_computation.kernels.comparing import TruncationConstants, blocks, combine_truncation
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import (
    Chain,
    compare_as_p0,
    compare_as_p1,
    deal_comparison,
    expand_for_p0,
)
from secure_computation.protocols.draws import BitArray, BlockDraws, Draws, RingElements
from secure_computation.protocols.opening import OUTPUT_MASK, draw_mask, draw_whole_mask, hide_share, share_label, zeros
from secure_computation.ring import cut_to_bits, cut_to_ring

_LOW = "low"
_SHARES = ("q", "m2", "g")
"""All that a layer may be dealt in rings, in the order of `combine_truncation`."""


@dataclass(frozen=True, kw_only=True)
class TruncationShape:
    """The public parameters of one truncation layer."""

    count: int
    """Elements."""
    ring_bits: int
    """k."""
    truncated_bits: int
    """f."""
    output_bits: int
    """k_out."""
    low: Chain | None
    """Cuts r mod 2^f; None for f = 0."""

    def __post_init__(self) -> None:
        """Refuse a chain that does not fit."""
        if (self.low.bits if self.low else 0) != self.truncated_bits:
            raise ValueError(f"the low chain does not have {self.truncated_bits} bits")

    @property
    def wide(self) -> bool:
        """Whether the wide form is run, which needs one spare bit in z."""
        return self.output_bits > self.ring_bits - self.truncated_bits

    @property
    def offset_bits(self) -> int:
        """The offset that makes z non-negative is 2 to this."""
        return self.ring_bits - (2 if self.wide else 1)

    @property
    def dealt_rings(self) -> dict[str, int]:
        """Ring of each dealt share, in bits, by name."""
        rings = {"q": self.output_bits}
        if self.low:
            rings |= {"m2": self.output_bits}
        wrap_bits = self.output_bits - self.ring_bits + self.truncated_bits
        return rings | ({"g": wrap_bits} if self.wide else {})

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: tables of the chain; P1's ring shares."""
        rings = tuple(self.dealt_rings.values())
        words = self.low.word_types if self.low else ()
        return BundleLayout(count=self.count, word_types=words, ring_bits=rings)

    @cached_property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: z0 + r0."""
        return BundleLayout(count=self.count, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: C; the chain's bits, P1's share of dc."""
        bits = self.low.sent_bits() + 1 if self.low else 0
        return BundleLayout(count=self.count, bit_arrays=bits, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online: P0's share of dc; y0 - rho'."""
        return BundleLayout(count=self.count, bit_arrays=1 if self.low else 0, ring_bits=(self.output_bits,))


# D, the dealer


def deal_truncation(shape: TruncationShape, *, p0: Draws, p1: Draws) -> Bundle:
    """D: everything that P1's seed cannot give."""
    k, f, count = shape.ring_bits, shape.truncated_bits, shape.count
    r = draw_whole_mask(count, bits=k, p0=p0, p1=p1)
    body, words = shape.corrections.room()
    rings = {name: np.empty(count, np.uint32) for name in shape.dealt_rings}
    s0, s1 = p0.in_blocks(), p1.in_blocks()
    for part in blocks(count):
        size = part.stop - part.start
        dealt = {"q": r[part] >> np.uint32(f), "g": r[part] >> np.uint32(k - 1)}
        if shape.low:
            deal_comparison(shape.low, r[part], p0=s0, p1=s1, name=_LOW, out=[word[part] for word in words])
            dealt["m2"] = (s0.bits("m2", size) ^ s1.bits("m2", size)).astype(np.uint32)
        for name, ring in rings.items():
            np.subtract(dealt[name], s0.ring(share_label(name), size, bits=32), out=ring[part])
    return Bundle(
        words=words,
        rings=tuple(cut_to_ring(rings[name], bits) for name, bits in shape.dealt_rings.items()),
        body=body,
    )


def draw_output_mask(shape: TruncationShape, draws: Draws) -> RingElements:
    """D and P0: rho', the mask under which P1 will hold the output. Shape (count,), ring of k_out bits."""
    return draws.ring(OUTPUT_MASK, shape.count, bits=shape.output_bits)


# P0, the data owner


class TruncationAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; then `answer`, and send that."""

    def __init__(self, shape: TruncationShape, draws: Draws) -> None:
        """Take P0's draws of this step."""
        self.shape = shape
        self._draws = draws
        self._blocks = draws.in_blocks()
        self._spent: BlockDraws | None = None
        self.output_mask = draw_output_mask(shape, draws)
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, z0: RingElements) -> Bundle:
        """Offline: hide P0's share of z. Goes to P1."""
        return hide_share(z0, self._draws, bits=self.shape.ring_bits)

    def expand(self) -> None:
        """Draw ahead what `answer` needs. For the time that P0 waits; may be left out."""
        shape, count = self.shape, self.shape.count
        if shape.low:
            expand_for_p0(shape.low, self._blocks, count, name=_LOW)
            self._blocks.expand("m2", (count + 7) // 8)
        for name in shape.dealt_rings:
            self._blocks.expand(share_label(name), 4 * count)

    def answer(self, received: Bundle) -> Bundle:
        """Online: P1's message in, P0's message out."""
        shape, draws, c = self.shape, self._blocks, received.rings[0].values
        own = np.empty((shape.from_p0.bit_arrays, shape.count), np.uint8)
        y0 = np.empty(shape.count, np.uint32)
        constants, nothing = _constants(shape, public=False), zeros(shape.count)
        for part in blocks(shape.count):
            size = part.stop - part.start
            dc = nothing.bits[:size]
            if shape.low:
                *chain, p1_dc = (array.values[part] for array in received.bits)
                # dc = carry ^ m2 = [C mod 2^f < r mod 2^f] ^ m2
                own_dc = compare_as_p0(shape.low, c[part], chain, draws=draws, name=_LOW) ^ draws.bits("m2", size)
                own[0, part] = own_dc
                dc = own_dc ^ p1_dc
            shares = {name: draws.ring(share_label(name), size, bits=32) for name in shape.dealt_rings}
            ordered = tuple(shares.get(name, nothing.ring[:size]) for name in _SHARES)
            # y0 - rho', y0 = P0's share of floor(C / 2^f) - q - carry - offset / 2^f (+ 2^(k-f) * wrap)
            combine_truncation(c[part], dc, ordered, constants, rest=self.output_mask[part], out=y0[part])
        self._spent, self._blocks = self._blocks, self._draws.in_blocks()
        return Bundle(bits=cut_to_bits(own), rings=(cut_to_ring(y0, shape.output_bits),))

    def release(self) -> None:
        """Free what was drawn ahead, for the time that P0 waits: giving memory back takes as long as a loop over it."""
        self._spent = None


# P1, the model owner


class TruncationAsP1:
    """P1's part of one layer. Call `open` and send what it returns; then `finish` with P0's answer."""

    def __init__(self, shape: TruncationShape, draws: Draws, corrections: Bundle, prepared: Bundle) -> None:
        """Take P1's draws of this step, D's corrections and what P0 prepared."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._hidden_z0 = prepared.rings[0].values
        self._opened: tuple[RingElements, BitArray] | None = None

    def open(self, z1: RingElements) -> Bundle:
        """Online: mask and open z; P1's share of the carry, masked."""
        shape, k = self._shape, self._shape.ring_bits
        c = draw_mask(self._draws, shape.count, bits=k)
        bits = np.empty((shape.from_p1.bit_arrays, shape.count), np.uint8)
        draws = self._draws.in_blocks()
        for part in blocks(shape.count):
            block = c[part]  # so far r1
            # C = z1 + (z0 + r0) + r1 + offset mod 2^k
            block += z1[part]
            block += self._hidden_z0[part]
            block += np.uint32(1 << shape.offset_bits)
            block &= np.uint32((1 << k) - 1)
            if shape.low:
                tables = [word[part] for word in self._corrections.words]
                # dc = carry ^ m2 = [C mod 2^f < r mod 2^f] ^ m2
                sent, carry = compare_as_p1(shape.low, block, tables, draws=draws, name=_LOW)
                for index, array in enumerate((*sent, carry ^ draws.bits("m2", block.size))):
                    bits[index, part] = array
        opened = cut_to_ring(c, k)
        rows = cut_to_bits(bits)
        self._opened = (opened.values, bits[shape.from_p1.bit_arrays - shape.from_p0.bit_arrays :])
        return Bundle(rings=(opened,), bits=rows)

    def release(self) -> None:
        """Free the tables, which `open` alone needs, for the time that P1 waits for P0's answer."""
        self._corrections = replace(self._corrections, words=(), body=None)

    def finish(self, received: Bundle) -> RingElements:
        """Online: P1's half of y in masked form, y - rho', reduced to k_out bits."""
        if self._opened is None:
            raise RuntimeError("open comes before finish")
        shape = self._shape
        c, own = self._opened
        y = np.empty(shape.count, np.uint32)
        constants, nothing = _constants(shape, public=True), zeros(shape.count)
        shares = dict(zip(shape.dealt_rings, (ring.values for ring in self._corrections.rings), strict=True))
        for part in blocks(shape.count):
            size = part.stop - part.start
            dc = own[0, part] ^ received.bits[0].values[part] if shape.low else nothing.bits[:size]
            ordered = tuple(shares[name][part] if name in shares else nothing.ring[:size] for name in _SHARES)
            # y - rho' = y1 + (y0 - rho'), y1 = P1's share of the same sum
            combine_truncation(c[part], dc, ordered, constants, rest=received.rings[0].values[part], out=y[part])
        return y


# Both


def _constants(shape: TruncationShape, *, public: bool) -> TruncationConstants:
    k, f = shape.ring_bits, shape.truncated_bits
    return TruncationConstants(
        public=int(public),
        ring_bits=k,
        truncated_bits=f,
        middle=1 << (shape.offset_bits - f),
        wrap=(1 << (k - f)) & 0xFFFFFFFF,
        output_mask=(1 << shape.output_bits) - 1,
        sign_of_rest=1 if public else 0xFFFFFFFF,
    )
