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

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import Chain, compare_as_p0, compare_as_p1, deal_comparison
from secure_computation.protocols.draws import BitArray, Draws, RingElements
from secure_computation.ring import Bits, reduce_to_bits, reduce_to_ring

OUTPUT_MASK: Final = "output mask"
_HIGH, _LOW = "high", "low"


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


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What both parties know when they combine their shares."""

    c: RingElements
    dd: BitArray
    dc: BitArray | None


# D, the dealer


def deal_relu(shape: ReluShape, *, p0: Draws, p1: Draws) -> Bundle:
    """D: everything that P1's seed cannot give."""
    k, f = shape.ring_bits, shape.truncated_bits
    r = reduce_to_ring(p0.ring("mask", shape.count, bits=k) + p1.ring("mask", shape.count, bits=k), k).values
    q = r >> np.uint32(f)
    g = q >> np.uint32(shape.quotient_bits - 1)
    m1 = (p0.bits("m1", shape.count) ^ p1.bits("m1", shape.count)).astype(np.uint32)
    dealt = {"m1": m1, "q": q, "m1 q": m1 * q, "g": g, "m1 g": m1 * g}
    if shape.low:
        m2 = (p0.bits("m2", shape.count) ^ p1.bits("m2", shape.count)).astype(np.uint32)
        dealt |= {"m2": m2, "m1 m2": m1 * m2}
    high = deal_comparison(shape.high, _low_bits(q, shape.quotient_bits - 1), p0=p0, p1=p1, name=_HIGH)
    low = deal_comparison(shape.low, _low_bits(r, f), p0=p0, p1=p1, name=_LOW) if shape.low else []
    return Bundle(
        words=(*high, *low),
        bits=(reduce_to_bits(g.astype(np.uint8) ^ p0.bits("g bit", shape.count)),),
        rings=tuple(
            reduce_to_ring(dealt[name] - p0.ring(_share(name), shape.count, bits=bits), bits)
            for name, bits in shape.dealt_rings.items()
        ),
    )


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
        self.output_mask = draw_output_mask(shape, draws)
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, z0: RingElements) -> Bundle:
        """Offline: hide P0's share of z. Goes to P1."""
        k = self.shape.ring_bits
        return Bundle(rings=(reduce_to_ring(z0 + self._draws.ring("mask", self.shape.count, bits=k), k),))

    def answer(self, received: Bundle) -> Bundle:
        """Online: P1's message in, P0's message out."""
        shape, draws, c = self.shape, self._draws, received.rings[0].values
        bits = [array.values for array in received.bits]
        high_bits, rest = bits[: shape.high.sent_bits()], bits[shape.high.sent_bits() :]
        quotient = _quotient(shape, c)
        own_d = compare_as_p0(
            shape.high, _low_bits(quotient, shape.quotient_bits - 1), high_bits, draws=draws, name=_HIGH
        )
        own_dd = own_d ^ draws.bits("g bit", shape.count) ^ draws.bits("m1", shape.count)
        if shape.low is None:
            own: tuple[Bits, ...] = (reduce_to_bits(own_dd),)
            opened = _Opened(c=c, dd=own_dd ^ rest[0], dc=None)
        else:
            low_bits, rest = rest[: shape.low.sent_bits()], rest[shape.low.sent_bits() :]
            own_carry = compare_as_p0(shape.low, _low_bits(c, shape.truncated_bits), low_bits, draws=draws, name=_LOW)
            own_dc = own_carry ^ draws.bits("m2", shape.count)
            own = (reduce_to_bits(own_dd), reduce_to_bits(own_dc))
            opened = _Opened(c=c, dd=own_dd ^ rest[0], dc=own_dc ^ rest[1])
        shares = {name: draws.ring(_share(name), shape.count, bits=bits) for name, bits in shape.dealt_rings.items()}
        y0 = _combine(shape, opened, shares, public=False)
        return Bundle(bits=own, rings=(reduce_to_ring(y0 - self.output_mask, shape.output_bits),))


# P1, the model owner


class ReluAsP1:
    """P1's part of one layer. Call `open` and send what it returns; then `finish` with P0's answer."""

    def __init__(self, shape: ReluShape, draws: Draws, corrections: Bundle, prepared: Bundle) -> None:
        """Take P1's draws of this step, D's corrections and what P0 prepared."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._hidden_z0 = prepared.rings[0].values
        self._opened: tuple[RingElements, BitArray, BitArray | None] | None = None

    def open(self, z1: RingElements) -> Bundle:
        """Online: mask and open z; P1's share of the comparison's outcome, masked."""
        shape, draws, k = self._shape, self._draws, self._shape.ring_bits
        r1 = draws.ring("mask", shape.count, bits=k)
        opened = reduce_to_ring(z1 + self._hidden_z0 + r1 + np.uint32(1 << (k - 1)), k)
        c = opened.values
        quotient = _quotient(shape, c)
        high_sent, own_d = compare_as_p1(
            shape.high,
            _low_bits(quotient, shape.quotient_bits - 1),
            self._corrections.words[: len(shape.high.word_types)],
            draws=draws,
            name=_HIGH,
        )
        cm = _top(shape, quotient).astype(np.uint8)
        own_dd = own_d ^ cm ^ self._corrections.bits[0].values ^ draws.bits("m1", shape.count)
        sent = [*high_sent]
        own_dc = None
        if shape.low is not None:
            low_sent, own_carry = compare_as_p1(
                shape.low,
                _low_bits(c, shape.truncated_bits),
                self._corrections.words[len(shape.high.word_types) :],
                draws=draws,
                name=_LOW,
            )
            own_dc = own_carry ^ draws.bits("m2", shape.count)
            sent += low_sent
        self._opened = (c, own_dd, own_dc)
        sent += [own_dd] if own_dc is None else [own_dd, own_dc]
        return Bundle(rings=(opened,), bits=tuple(reduce_to_bits(array) for array in sent))

    def finish(self, received: Bundle) -> RingElements:
        """Online: P1's half of y in masked form, y - rho', reduced to k_out bits."""
        if self._opened is None:
            raise RuntimeError("open comes before finish")
        shape = self._shape
        c, own_dd, own_dc = self._opened
        dc = None if own_dc is None else own_dc ^ received.bits[1].values
        opened = _Opened(c=c, dd=own_dd ^ received.bits[0].values, dc=dc)
        shares = dict(zip(shape.dealt_rings, (ring.values for ring in self._corrections.rings), strict=True))
        y1 = _combine(shape, opened, shares, public=True)
        return reduce_to_ring(y1 + received.rings[0].values, shape.output_bits).values


# Both


def _share(name: str) -> str:
    """The label under which P0's ring share of a dealt value is drawn."""
    return f"share of {name}"


def _low_bits(values: RingElements, bits: int) -> RingElements:
    return values & np.uint32((1 << bits) - 1)


def _quotient(shape: ReluShape, c: RingElements) -> RingElements:
    """C', h bits."""
    if shape.truncated_bits == 0:
        return c
    return _low_bits((c >> np.uint32(shape.truncated_bits)) - np.uint32(1), shape.quotient_bits)


def _top(shape: ReluShape, quotient: RingElements) -> RingElements:
    """Top bit of C': cm."""
    return quotient >> np.uint32(shape.quotient_bits - 1)


def _combine(shape: ReluShape, opened: _Opened, shares: dict[str, RingElements], *, public: bool) -> RingElements:
    """One party's share of y. Exactly one party (P1) adds the terms that hold no share."""
    h = shape.quotient_bits
    one = np.uint32(1) if public else np.uint32(0)
    wrap = np.uint32((1 << h) & 0xFFFFFFFF)
    quotient = _quotient(shape, opened.c)
    cm = _top(shape, quotient)
    dd = opened.dd.astype(np.uint32)
    sign = np.uint32(1) - dd - dd  # 1 - 2 dd
    constant = quotient + wrap * (np.uint32(1) - cm) - np.uint32(1 << (h - 1))
    if opened.dc is not None:
        constant += np.uint32(1)
    d = one * dd + sign * shares["m1"]
    y: RingElements = constant * d - dd * shares["q"] - sign * shares["m1 q"]
    if "g" in shares:
        y += wrap * cm * (dd * shares["g"] + sign * shares["m1 g"])
    if opened.dc is not None:
        dc = opened.dc.astype(np.uint32)
        carry_sign = np.uint32(1) - dc - dc
        y -= dc * d + carry_sign * (dd * shares["m2"] + sign * shares["m1 m2"])
    return y
