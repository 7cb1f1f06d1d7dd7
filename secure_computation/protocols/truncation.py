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

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import Chain, compare_as_p0, compare_as_p1, deal_comparison
from secure_computation.protocols.draws import BitArray, Draws, RingElements, Words
from secure_computation.ring import Bits, reduce_to_bits, reduce_to_ring

_LOW = "low"


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
    k, f = shape.ring_bits, shape.truncated_bits
    r = reduce_to_ring(p0.ring("mask", shape.count, bits=k) + p1.ring("mask", shape.count, bits=k), k).values
    dealt = {"q": r >> np.uint32(f), "g": r >> np.uint32(k - 1)}
    words: list[Words] = []
    if shape.low:
        dealt["m2"] = (p0.bits("m2", shape.count) ^ p1.bits("m2", shape.count)).astype(np.uint32)
        words = deal_comparison(shape.low, r & np.uint32((1 << f) - 1), p0=p0, p1=p1, name=_LOW)
    return Bundle(
        words=tuple(words),
        rings=tuple(
            reduce_to_ring(dealt[name] - p0.ring(_share(name), shape.count, bits=bits), bits)
            for name, bits in shape.dealt_rings.items()
        ),
    )


def draw_output_mask(shape: TruncationShape, draws: Draws) -> RingElements:
    """D and P0: rho', the mask under which P1 will hold the output. Shape (count,), ring of k_out bits."""
    return draws.ring("output mask", shape.count, bits=shape.output_bits)


# P0, the data owner


class TruncationAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; then `answer`, and send that."""

    def __init__(self, shape: TruncationShape, draws: Draws) -> None:
        """Take P0's draws of this step."""
        self.shape = shape
        self._draws = draws
        self.output_mask = draw_output_mask(shape, draws)
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, z0: RingElements) -> Bundle:
        """Offline: hide P0's share of z. Goes to P1."""
        k = self.shape.ring_bits
        return Bundle(rings=(reduce_to_ring(z0 + self._draws.ring("mask", self.shape.count, bits=k), k),))

    def answer(self, received: Bundle) -> Bundle:
        """Online: P1's message in, P0's message out."""
        shape, draws, c = self.shape, self._draws, received.rings[0].values
        own: tuple[Bits, ...] = ()
        dc = None
        if shape.low:
            bits = [array.values for array in received.bits]
            low = c & np.uint32((1 << shape.truncated_bits) - 1)
            own_carry = compare_as_p0(shape.low, low, bits[:-1], draws=draws, name=_LOW)
            own_dc = own_carry ^ draws.bits("m2", shape.count)
            own, dc = (reduce_to_bits(own_dc),), own_dc ^ bits[-1]
        shares = {name: draws.ring(_share(name), shape.count, bits=ring) for name, ring in shape.dealt_rings.items()}
        y0 = _combine(shape, c, dc, shares, public=False)
        return Bundle(bits=own, rings=(reduce_to_ring(y0 - self.output_mask, shape.output_bits),))


# P1, the model owner


class TruncationAsP1:
    """P1's part of one layer. Call `open` and send what it returns; then `finish` with P0's answer."""

    def __init__(self, shape: TruncationShape, draws: Draws, corrections: Bundle, prepared: Bundle) -> None:
        """Take P1's draws of this step, D's corrections and what P0 prepared."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._hidden_z0 = prepared.rings[0].values
        self._opened: tuple[RingElements, BitArray | None] | None = None

    def open(self, z1: RingElements) -> Bundle:
        """Online: mask and open z; P1's share of the carry, masked."""
        shape, draws, k = self._shape, self._draws, self._shape.ring_bits
        r1 = draws.ring("mask", shape.count, bits=k)
        opened = reduce_to_ring(z1 + self._hidden_z0 + r1 + np.uint32(1 << shape.offset_bits), k)
        if shape.low is None:
            self._opened = (opened.values, None)
            return Bundle(rings=(opened,))
        low = opened.values & np.uint32((1 << shape.truncated_bits) - 1)
        sent, own_carry = compare_as_p1(shape.low, low, self._corrections.words, draws=draws, name=_LOW)
        own_dc = own_carry ^ draws.bits("m2", shape.count)
        self._opened = (opened.values, own_dc)
        return Bundle(rings=(opened,), bits=tuple(reduce_to_bits(array) for array in (*sent, own_dc)))

    def finish(self, received: Bundle) -> RingElements:
        """Online: P1's half of y in masked form, y - rho', reduced to k_out bits."""
        if self._opened is None:
            raise RuntimeError("open comes before finish")
        c, own_dc = self._opened
        names = self._shape.dealt_rings
        shares = dict(zip(names, (ring.values for ring in self._corrections.rings), strict=True))
        dc = None if own_dc is None else own_dc ^ received.bits[0].values
        y1 = _combine(self._shape, c, dc, shares, public=True)
        return reduce_to_ring(y1 + received.rings[0].values, self._shape.output_bits).values


# Both


def _share(name: str) -> str:
    """The label under which P0's ring share of a dealt value is drawn."""
    return f"share of {name}"


def _combine(
    shape: TruncationShape, c: RingElements, dc: BitArray | None, shares: dict[str, RingElements], *, public: bool
) -> RingElements:
    """One party's share of y. Exactly one party (P1) adds the terms that hold no share."""
    k, f = shape.ring_bits, shape.truncated_bits
    y: RingElements = np.uint32(0) - shares["q"]
    if public:
        y += (c >> np.uint32(f)) - np.uint32(1 << (shape.offset_bits - f))
    if dc is not None:
        carried = dc.astype(np.uint32)
        y += (carried + carried - np.uint32(1)) * shares["m2"] - (carried if public else np.uint32(0))
    if "g" in shares:
        lost = np.uint32(1) - (c >> np.uint32(k - 1))
        y += np.uint32((1 << (k - f)) & 0xFFFFFFFF) * lost * shares["g"]
    return y
