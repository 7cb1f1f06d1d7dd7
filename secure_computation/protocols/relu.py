"""ReLU with exact truncation: y = max(0, floor(z / 2^f)), in one round trip.

z lies in a ring of k bits, -2^(k-1) + 2^f <= z < 2^(k-1); y lies in a ring of k_out bits, chosen freely. P0 holds z0,
fixed before the input exists, P1 holds z1, z = z0 + z1. Afterwards P0 holds rho', fixed in the same way, and P1
y - rho': the masked form that the next linear layer asks for.

With h = k - f, a mask r = r0 + r1 mod 2^k, q = floor(r / 2^f) and g the top bit of q:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0, m1_0, m2_0, rho', and  the same from s0                       r1, m1_1, m2_1 from s1
    P0's shares from s0
    tables of the chains for                                   -->    corrections: tables; g; shares of m1, q, m1*q,
    q mod 2^(h-1), r mod 2^f                                          m2, m1*m2 (k_out bits), g, m1*g (k_out - h bits)
                               z0 + r0                         -->
    online
                                                               <--    C = z + 2^(k-1) + r, the chains' bits,
                                                                      its shares of dd = d ^ m1, dc = carry ^ m2
                               its shares of dd and dc,        -->
                               y0 - rho'
    with C' = (floor(C / 2^f) - 1) mod 2^h, cm its top bit, d = cm ^ g ^ [C' mod 2^(h-1) < q mod 2^(h-1)] and
    carry = [C mod 2^f < r mod 2^f]; for f = 0: C' = C, no carry, and no + 1 below:

    y = d * (C' + 1 - q + 2^h * (1 - cm + cm * g) - 2^(h-1) - carry),
    d = dd + (1 - 2 dd) * m1,  carry = dc + (1 - 2 dc) * m2:  public values times dealt shares.

The sign need not wait for the carry: C' in place of floor(C / 2^f) tests floor(z / 2^f) + carry - 1 >= 0, and where
that differs from floor(z / 2^f) >= 0, the result is 0 either way.

What is opened, and to whom: C to both (hidden by r, which neither knows), dd and dc to both (hidden by m1 and m2).

Source: docs/protocol.md, "ReLU"; Boyle et al. 2020 and Escudero et al. 2020 for comparison and truncation of masked
values.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from secure_computation.kernels.comparing import ReluConstants, blocks, combine_relu
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

_HIGH, _LOW = "high", "low"
_SHARES: Final = ("m1", "q", "m1 q", "m2", "m1 m2", "g", "m1 g")
"""All that a layer may be dealt in rings, in the order of `combine_relu`."""


@dataclass(frozen=True, kw_only=True)
class ReluShape:
    """The public parameters of one ReLU layer."""

    count: int
    """Elements."""
    ring_bits: int
    """k."""
    truncated_bits: int
    """f."""
    output_bits: int
    """k_out."""
    high: Chain
    """Cuts q mod 2^(h-1)."""
    low: Chain | None
    """Cuts r mod 2^f; None for f = 0."""

    def __post_init__(self) -> None:
        """Refuse chains that do not fit the ring."""
        if self.high.bits != self.quotient_bits - 1:
            raise ValueError(f"the high chain has {self.high.bits} bits, not {self.quotient_bits - 1}")
        if (self.low.bits if self.low else 0) != self.truncated_bits:
            raise ValueError(f"the low chain does not have {self.truncated_bits} bits")

    @property
    def quotient_bits(self) -> int:
        """Bits of q: h = k - f."""
        return self.ring_bits - self.truncated_bits

    @property
    def dealt_rings(self) -> dict[str, int]:
        """Ring of each dealt share, in bits, by name. 2^h * g in the ring of the output needs k_out - h bits of g."""
        rings = {"m1": self.output_bits, "q": self.output_bits, "m1 q": self.output_bits}
        if self.low:
            rings |= {"m2": self.output_bits, "m1 m2": self.output_bits}
        wrap_bits = self.output_bits - self.quotient_bits
        return rings | ({"g": wrap_bits, "m1 g": wrap_bits} if wrap_bits > 0 else {})

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: tables of the high and the low chain; P1's XOR share of g; its ring shares."""
        low = self.low.word_types if self.low else ()
        rings = tuple(self.dealt_rings.values())
        return BundleLayout(count=self.count, word_types=(*self.high.word_types, *low), bit_arrays=1, ring_bits=rings)

    @cached_property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: z0 + r0."""
        return BundleLayout(count=self.count, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: C; the high chain's bits, the low chain's, P1's shares of dd and (for f > 0) dc."""
        low = self.low.sent_bits() + 1 if self.low else 0
        return BundleLayout(count=self.count, bit_arrays=self.high.sent_bits() + 1 + low, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online: P0's shares of dd and (for f > 0) dc; y0 - rho'."""
        return BundleLayout(count=self.count, bit_arrays=2 if self.low else 1, ring_bits=(self.output_bits,))


# D, the dealer


def deal_relu(shape: ReluShape, *, p0: Draws, p1: Draws) -> Bundle:
    """D: everything that P1's seed cannot give."""
    k, f, count = shape.ring_bits, shape.truncated_bits, shape.count
    r = draw_whole_mask(count, bits=k, p0=p0, p1=p1)
    body, words = shape.corrections.room()
    bits = np.empty((1, count), np.uint8)
    rings = {name: np.empty(count, np.uint32) for name in shape.dealt_rings}
    s0, s1 = p0.in_blocks(), p1.in_blocks()
    for part in blocks(count):
        size = part.stop - part.start
        tables = [word[part] for word in words]
        q = r[part] >> np.uint32(f)
        high = len(shape.high.word_types)
        deal_comparison(shape.high, q, p0=s0, p1=s1, name=_HIGH, out=tables[:high])
        if shape.low:
            deal_comparison(shape.low, r[part], p0=s0, p1=s1, name=_LOW, out=tables[high:])
        dealt = _draw_dealt_values(shape, q, s0, s1)
        # P1's share = value - P0's share; for the bit g: g ^ P0's share
        bits[0, part] = dealt["g"].astype(np.uint8) ^ s0.bits("g bit", size)
        for name, ring in rings.items():
            np.subtract(dealt[name], s0.ring(share_label(name), size, bits=32), out=ring[part])
    return Bundle(
        words=words,
        bits=cut_to_bits(bits),
        rings=tuple(cut_to_ring(rings[name], ring_bits) for name, ring_bits in shape.dealt_rings.items()),
        body=body,
    )


def _draw_dealt_values(shape: ReluShape, q: RingElements, s0: Draws, s1: Draws) -> dict[str, RingElements]:
    """What D shares in rings, of one block, by name."""
    g = q >> np.uint32(shape.quotient_bits - 1)
    m1 = (s0.bits("m1", q.size) ^ s1.bits("m1", q.size)).astype(np.uint32)
    dealt = {"m1": m1, "q": q, "m1 q": m1 * q, "g": g, "m1 g": m1 * g}
    if shape.low:
        m2 = (s0.bits("m2", q.size) ^ s1.bits("m2", q.size)).astype(np.uint32)
        dealt |= {"m2": m2, "m1 m2": m1 * m2}
    return dealt


def draw_output_mask(shape: ReluShape, draws: Draws) -> RingElements:
    """D and P0: rho', the mask under which P1 will hold the output. Shape (count,), ring of k_out bits."""
    return draws.ring(OUTPUT_MASK, shape.count, bits=shape.output_bits)


# P0, the data owner


class ReluAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; then `answer`, and send that."""

    def __init__(self, shape: ReluShape, draws: Draws) -> None:
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
        """Draw ahead what `answer` needs: some 70 bytes an element. For the time that P0 waits; may be left out."""
        shape, count = self.shape, self.shape.count
        expand_for_p0(shape.high, self._blocks, count, name=_HIGH)
        if shape.low:
            expand_for_p0(shape.low, self._blocks, count, name=_LOW)
        for label in ("g bit", "m1", "m2") if shape.low else ("g bit", "m1"):
            self._blocks.expand(label, (count + 7) // 8)
        for name in shape.dealt_rings:
            self._blocks.expand(share_label(name), 4 * count)

    def answer(self, received: Bundle) -> Bundle:
        """Online: P1's message in, P0's message out."""
        shape, c = self.shape, received.rings[0].values
        own = np.empty((shape.from_p0.bit_arrays, shape.count), np.uint8)
        y0 = np.empty(shape.count, np.uint32)
        constants, nothing = _constants(shape, public=False), zeros(shape.count)
        for part in blocks(shape.count):
            mine = self._own_bits(c[part], [array.values[part] for array in received.bits])
            for index, array in enumerate(mine):
                own[index, part] = array
            # dd = P0's share ^ P1's share, dc likewise: opened to both
            opened = [array ^ received.bits[index - len(mine)].values[part] for index, array in enumerate(mine)]
            size = part.stop - part.start
            shares = {name: self._blocks.ring(share_label(name), size, bits=32) for name in shape.dealt_rings}
            dd, dc = opened if shape.low else (opened[0], nothing.bits[:size])
            ordered = tuple(shares.get(name, nothing.ring[:size]) for name in _SHARES)
            # y0 - rho', y0 = P0's share of d * (C' + 1 - q + 2^h * (1 - cm + cm * g) - 2^(h-1) - carry)
            combine_relu(c[part], dd, dc, ordered, constants, rest=self.output_mask[part], out=y0[part])
        self._spent, self._blocks = self._blocks, self._draws.in_blocks()
        return Bundle(bits=cut_to_bits(own), rings=(cut_to_ring(y0, shape.output_bits),))

    def _own_bits(self, c: RingElements, bits: list[BitArray]) -> list[BitArray]:
        """P0's shares of dd and (for f > 0) dc, of one block."""
        shape, draws = self.shape, self._blocks
        sent = shape.high.sent_bits()
        # dd = d ^ m1 = cm ^ g ^ [C' mod 2^(h-1) < q mod 2^(h-1)] ^ m1; P1 adds cm
        dd = compare_as_p0(shape.high, _quotient(shape, c), bits[:sent], draws=draws, name=_HIGH)
        dd ^= draws.bits("g bit", c.size) ^ draws.bits("m1", c.size)
        if shape.low is None:
            return [dd]
        # dc = carry ^ m2 = [C mod 2^f < r mod 2^f] ^ m2
        dc = compare_as_p0(shape.low, c, bits[sent : sent + shape.low.sent_bits()], draws=draws, name=_LOW)
        dc ^= draws.bits("m2", c.size)
        return [dd, dc]

    def release(self) -> None:
        """Free what was drawn ahead, for the time that P0 waits: giving memory back takes as long as a loop over it."""
        self._spent = None


# P1, the model owner


class ReluAsP1:
    """P1's part of one layer. Call `open` and send what it returns; then `finish` with P0's answer."""

    def __init__(self, shape: ReluShape, draws: Draws, corrections: Bundle, prepared: Bundle) -> None:
        """Take P1's draws of this step, D's corrections and what P0 prepared."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._hidden_z0 = prepared.rings[0].values
        self._opened: tuple[RingElements, BitArray] | None = None

    def open(self, z1: RingElements) -> Bundle:
        """Online: mask and open z; P1's share of the comparison's outcome, masked."""
        shape, k = self._shape, self._shape.ring_bits
        c = draw_mask(self._draws, shape.count, bits=k)
        bits = np.empty((shape.from_p1.bit_arrays, shape.count), np.uint8)
        draws = self._draws.in_blocks()
        for part in blocks(shape.count):
            block = c[part]  # so far r1
            # C = z1 + (z0 + r0) + r1 + 2^(k-1) mod 2^k
            block += z1[part]
            block += self._hidden_z0[part]
            block += np.uint32(1 << (k - 1))
            block &= np.uint32((1 << k) - 1)
            for index, array in enumerate(self._open_block(block, part, draws)):
                bits[index, part] = array
        opened = cut_to_ring(c, k)
        rows = cut_to_bits(bits)
        self._opened = (opened.values, bits[-shape.from_p0.bit_arrays :])
        return Bundle(rings=(opened,), bits=rows)

    def _open_block(self, c: RingElements, part: slice, draws: Draws) -> list[BitArray]:
        """The chains' bits, P1's shares of dd and (for f > 0) dc, of one block."""
        shape, dealt = self._shape, self._corrections
        tables = [word[part] for word in dealt.words]
        high = len(shape.high.word_types)
        quotient = _quotient(shape, c)
        # dd = d ^ m1 = [C' mod 2^(h-1) < q mod 2^(h-1)] ^ cm ^ g ^ m1, term by term
        sent, dd = compare_as_p1(shape.high, quotient, tables[:high], draws=draws, name=_HIGH)
        dd ^= (quotient >> np.uint32(shape.quotient_bits - 1)).astype(np.uint8)
        dd ^= dealt.bits[0].values[part]
        dd ^= draws.bits("m1", c.size)
        if shape.low is None:
            return [*sent, dd]
        # dc = carry ^ m2 = [C mod 2^f < r mod 2^f] ^ m2
        low_sent, dc = compare_as_p1(shape.low, c, tables[high:], draws=draws, name=_LOW)
        dc ^= draws.bits("m2", c.size)
        return [*sent, *low_sent, dd, dc]

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
            dd = own[0, part] ^ received.bits[0].values[part]
            dc = own[1, part] ^ received.bits[1].values[part] if shape.low else nothing.bits[:size]
            ordered = tuple(shares[name][part] if name in shares else nothing.ring[:size] for name in _SHARES)
            # y - rho' = y1 + (y0 - rho'), y1 = P1's share of the same product
            combine_relu(c[part], dd, dc, ordered, constants, rest=received.rings[0].values[part], out=y[part])
        return y


# Both


def _quotient(shape: ReluShape, c: RingElements) -> RingElements:
    """C', h bits."""
    if shape.truncated_bits == 0:
        return c
    # C' = (floor(C / 2^f) - 1) mod 2^h
    quotient = (c >> np.uint32(shape.truncated_bits)) - np.uint32(1)
    return quotient & np.uint32((1 << shape.quotient_bits) - 1)


def _constants(shape: ReluShape, *, public: bool) -> ReluConstants:
    h = shape.quotient_bits
    return ReluConstants(
        public=int(public),
        truncated_bits=shape.truncated_bits,
        borrow=1 if shape.truncated_bits else 0,
        quotient_bits=h,
        quotient_mask=(1 << h) - 1,
        wrap=(1 << h) & 0xFFFFFFFF,
        middle=1 << (h - 1),
        output_mask=(1 << shape.output_bits) - 1,
        sign_of_rest=1 if public else 0xFFFFFFFF,
    )
