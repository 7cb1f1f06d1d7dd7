"""Truncation with a dither: y = floor((z + t) / 2^f) for a random t; without a message where nothing can wrap.

P0 holds z0, fixed before the input is known, P1 holds z1; afterwards y is in masked form. Offline, P0 sends (z0 + t) /
2^f + R mod 2^h, where t = -z0 mod 2^f is uniform as z0 is, and R has h = k - f bits. So P1 knows U as soon as it has
z1: z is masked already, and a masked value is truncated by both sides alone:

    U = floor((z1 + offset) / 2^f) + (z0 + t) / 2^f + R mod 2^h
      = floor((z + t) / 2^f) + offset / 2^f + R - 2^h * W,    W = 1 where the sum before it wrapped.

**Narrow**, y in a ring of k_out <= h bits, any z: the wrap vanishes in the ring of y. P0's half is rho' = -R, P1's
U - 2^(k-1-f), and nothing is dealt, opened or sent.

**Wide**, k_out > h, with one spare bit in z: -2^(k-2) <= z < 2^(k-2). z + t + offset is below 2^(k-1) + 2^f, so U
wrapped if its top bit is gone and R had it: W = a * g, a bit of P1 times a bit of P0. With b from s1 and a share x of
b * g,

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    R, n, x0 from s0           the same                               b from s1
                                                               -->    x1 = b * g - x0          (k_out - h bits)
                               (z0 + t) / 2^f + R mod 2^h      -->
    online
                                                               <--    E = a ^ b
                               m = E * g + (1 - 2 E) * x0 - n  -->                             (k_out - h bits)
    P0: rho' = 2^h * n - R     P1: y - rho' = U - 2^(k-2-f) + 2^h * (m + (1 - 2 E) * x1)

For f = 0 nothing is rounded: the wide form then only widens the ring.

What is opened, and to whom: E to P0 (hidden by b); m to P1 (hidden by n). rho' is uniform in its ring, because R and n
are; P1 has seen no more of R than U.

Source: docs/protocol.md, "Dithered truncation"; Escudero et al. 2020 for the masked form.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import BitArray, Draws, RingElements
from secure_computation.protocols.opening import draw_mask, hide_share
from secure_computation.ring import cut_to_bits, cut_to_ring

_SHARE, _PAD, _HIDE = "share of wrap", "output mask", "wrap bit"


@dataclass(frozen=True, kw_only=True)
class DitheredTruncationShape:
    """The public parameters of one truncation layer."""

    count: int
    """Elements."""
    ring_bits: int
    """k."""
    truncated_bits: int
    """f."""
    output_bits: int
    """k_out."""

    @property
    def kept_bits(self) -> int:
        """Bits of R and of U: h = k - f."""
        return self.ring_bits - self.truncated_bits

    @property
    def wide(self) -> bool:
        """Whether the wide form is run, with its round trip."""
        return self.wrap_bits > 0

    @property
    def wrap_bits(self) -> int:
        """Bits of the wrap in the ring of y: k_out - h; none in the narrow form."""
        return max(0, self.output_bits - self.kept_bits)

    @property
    def offset_bits(self) -> int:
        """The offset that makes z non-negative is 2 to this."""
        return self.ring_bits - (2 if self.wide else 1)

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: x1. Wide form."""
        return BundleLayout(count=self.count, ring_bits=(self.wrap_bits,))

    @cached_property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: (z0 + t) / 2^f + R."""
        return BundleLayout(count=self.count, ring_bits=(self.kept_bits,))

    @cached_property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: E. Wide form."""
        return BundleLayout(count=self.count, bit_arrays=1)

    @cached_property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online: m. Wide form."""
        return BundleLayout(count=self.count, ring_bits=(self.wrap_bits,))


# D, the dealer


class DitheredTruncationAsDealer:
    """D's part of one layer."""

    def __init__(self, shape: DitheredTruncationShape, p0: Draws) -> None:
        """Take P0's draws of this step."""
        self._shape = shape
        self._p0 = p0
        self._own = _OwnedByP0(shape, p0)
        self.output_mask = self._own.output_mask
        """rho', which D knows as P0 does."""

    def deal(self, p1: Draws) -> Bundle:
        """Wide form: everything that P1's seed cannot give. `p1`: P1's draws of this step."""
        b = p1.bits(_HIDE, self._shape.count)
        product = b.astype(np.uint32) * self._own.top_bit
        return Bundle(rings=(cut_to_ring(product - _draw_share(self._shape, self._p0), self._shape.wrap_bits),))


# P0, the data owner


class DitheredTruncationAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; wide form: `answer`, and send that."""

    def __init__(self, shape: DitheredTruncationShape, draws: Draws) -> None:
        """Take P0's draws of this step."""
        self.shape = shape
        self._draws = draws
        self._own = _OwnedByP0(shape, draws)
        self.output_mask = self._own.output_mask
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, z0: RingElements) -> Bundle:
        """Offline: hide P0's share of z. Goes to P1."""
        mask = self._own.spend_mask()
        return hide_share(z0, mask, bits=self.shape.kept_bits, left_out=self.shape.truncated_bits)

    def answer(self, received: Bundle) -> Bundle:
        """Online, wide form: P1's message in, P0's message out."""
        share = _draw_share(self.shape, self._draws)
        opened = received.bits[0].values.astype(np.uint32)
        # m = E * g + (1 - 2 E) * x0 - n
        m = opened * self._own.top_bit + (np.uint32(1) - opened - opened) * share - self._own.pad
        return Bundle(rings=(cut_to_ring(m, self.shape.wrap_bits),))


class _OwnedByP0:
    """What P0 and D know of a layer before it has an input."""

    def __init__(self, shape: DitheredTruncationShape, draws: Draws) -> None:
        h = shape.kept_bits
        mask = draw_mask(draws, shape.count, bits=h)
        self._mask: RingElements | None = mask
        self.top_bit: RingElements = mask >> np.uint32(h - 1)
        self.output_mask: RingElements = np.uint32(0) - mask
        if shape.wide:
            self.pad = draws.ring(_PAD, shape.count, bits=shape.wrap_bits)
            self.output_mask += self.pad << np.uint32(h)
        self.output_mask &= np.uint32((1 << shape.output_bits) - 1)

    def spend_mask(self) -> RingElements:
        """R, once: under it goes one value."""
        if self._mask is None:
            raise RuntimeError("a value was hidden under this mask before; a mask is used once")
        mask, self._mask = self._mask, None
        return mask


# P1, the model owner


class DitheredTruncationAsP1:
    """P1's part of one layer. Narrow: `truncate`. Wide: `open`, send what it returns; then `finish` with the answer."""

    def __init__(
        self, shape: DitheredTruncationShape, draws: Draws, corrections: Bundle | None, prepared: Bundle
    ) -> None:
        """Take P1's draws of this step, D's corrections (none in the narrow form) and what P0 prepared."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._hidden_z0 = prepared.rings[0].values
        self._opened: tuple[RingElements, BitArray] | None = None

    def truncate(self, z1: RingElements) -> RingElements:
        """Narrow form: P1's half of y in masked form, reduced to k_out bits."""
        shape = self._shape
        return self._without_offset(self._mask(z1)) & np.uint32((1 << shape.output_bits) - 1)

    def _mask(self, z1: RingElements) -> RingElements:
        """U."""
        shape = self._shape
        u = z1 + np.uint32(1 << shape.offset_bits)
        u &= np.uint32((1 << shape.ring_bits) - 1)
        u >>= np.uint32(shape.truncated_bits)
        u += self._hidden_z0
        u &= np.uint32((1 << shape.kept_bits) - 1)
        return u

    def _without_offset(self, u: RingElements) -> RingElements:
        return u - np.uint32(1 << (self._shape.offset_bits - self._shape.truncated_bits))

    def open(self, z1: RingElements) -> Bundle:
        """Online, wide form: whether u may have wrapped, hidden."""
        u = self._mask(z1)
        a = np.uint8(1) ^ (u >> np.uint32(self._shape.kept_bits - 1)).astype(np.uint8)
        opened = a ^ self._draws.bits(_HIDE, self._shape.count)
        self._opened = (self._without_offset(u), opened)
        return Bundle(bits=cut_to_bits(opened[np.newaxis]))

    def finish(self, received: Bundle) -> RingElements:
        """Online, wide form: P1's half of y in masked form, y - rho', reduced to k_out bits."""
        if self._opened is None or self._corrections is None:
            raise RuntimeError("open comes before finish")
        shape, (y, bits) = self._shape, self._opened
        opened = bits.astype(np.uint32)
        wraps = received.rings[0].values + (np.uint32(1) - opened - opened) * self._corrections.rings[0].values
        return (y + (wraps << np.uint32(shape.kept_bits))) & np.uint32((1 << shape.output_bits) - 1)


# Both


def _draw_share(shape: DitheredTruncationShape, p0: Draws) -> RingElements:
    """D and P0: x0."""
    return p0.ring(_SHARE, shape.count, bits=shape.wrap_bits)
