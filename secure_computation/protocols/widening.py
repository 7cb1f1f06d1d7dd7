"""Widening: shares mod 2^k become shares mod 2^64, where CrypTen computes; and the way back into masked form.

x lies in a ring of k bits with one spare bit: -2^(k-2) <= x < 2^(k-2). P0 holds x0, fixed before the input is known, P1
holds x1. Afterwards both hold additive shares of the same integer mod 2^64. With g the top bit of r = r0 + r1 mod 2^k:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0 and, mod 2^64, shares   the same                               r1 from s1
    of r and g; rho', from s0
                                                               -->    corrections: its shares of r and g, mod 2^64
                               x0 + r0                         -->
    online
                                                               <--    C = x + 2^(k-2) + r mod 2^k
    x = C - r - 2^(k-2) + 2^k * (1 - top bit of C) * g: x + 2^(k-2) < 2^(k-1), so C wrapped if its top bit is gone
    and r had it. C is public, so each party works out its share alone.

    back: y = y0 + y1 mod 2^64 becomes y mod 2^k_out
                               y0 - rho' mod 2^k_out           -->    v = y1 + y0 - rho'

What is opened, and to whom: C to both, hidden by r, which neither knows. y0 - rho' to P1, hidden by rho'.

Source: docs/protocol.md, "To and from CrypTen"; the wrap is that of the wide truncation.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contract.errors import MaterialSpent
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.opening import OUTPUT_MASK, draw_mask, draw_whole_mask, hide_share
from secure_computation.ring import Reduced, cut_to_ring, reduce_to_ring

WideElements = NDArray[np.uint64]
"""Elements of the ring mod 2^64."""

WORD = np.dtype(np.uint64)


@dataclass(frozen=True, kw_only=True)
class WideningShape:
    """The public parameters of one layer that is widened and comes back."""

    count: int
    """Elements, of x and of y."""
    ring_bits: int
    """k."""
    output_bits: int
    """k_out."""

    @property
    def correction_elements(self) -> int:
        """Elements mod 2^64 that D sends P1: its shares of r, then of g."""
        return 2 * self.count

    @cached_property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: x0 + r0."""
        return BundleLayout(count=self.count, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: C."""
        return BundleLayout(count=self.count, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online: y0 - rho'."""
        return BundleLayout(count=self.count, ring_bits=(self.output_bits,))


# D, the dealer


def deal_widening(shape: WideningShape, *, p0: Draws, p1: Draws) -> WideElements:
    """D: P1's shares of r and of g, one after the other."""
    k, count = shape.ring_bits, shape.count
    r = draw_whole_mask(count, bits=k, p0=p0, p1=p1)
    dealt = np.concatenate([r, r >> np.uint32(k - 1)]).astype(np.uint64)
    return dealt - _own_shares(shape, p0)


def draw_output_mask(shape: WideningShape, draws: Draws) -> RingElements:
    """D and P0: rho', the mask under which P1 will hold y. Shape (count,), ring of k_out bits."""
    return draws.ring(OUTPUT_MASK, shape.count, bits=shape.output_bits)


# P0, the data owner


class WideningAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; `widen` P1's opening; `narrow`, and send that."""

    def __init__(self, shape: WideningShape, draws: Draws) -> None:
        """Take P0's draws of this step."""
        self._shape = shape
        self._draws = draws
        self.output_mask = draw_output_mask(shape, draws)
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, x0: RingElements) -> Bundle:
        """Offline: hide P0's share of x. Goes to P1."""
        bits = self._shape.ring_bits
        return hide_share(x0.reshape(-1), draw_mask(self._draws, x0.size, bits=bits), bits=bits)

    def widen(self, received: Bundle) -> WideElements:
        """Online: P0's share of x mod 2^64, shape (count,), from P1's opening."""
        return _share(self._shape, received.rings[0], _own_shares(self._shape, self._draws))

    def narrow(self, y0: WideElements) -> Bundle:
        """Online: P0's share of y under rho', in the ring of k_out bits. Goes to P1."""
        bits = self._shape.output_bits
        return Bundle(rings=(reduce_to_ring(y0 - self.output_mask, bits),))


# P1, the model owner


class WideningAsP1:
    """P1's part of one layer. Call `open` and send what it returns; `widen`; then `narrow` with P0's answer."""

    def __init__(self, shape: WideningShape, draws: Draws, corrections: WideElements, prepared: Bundle) -> None:
        """Take P1's draws of this step, D's corrections and what P0 prepared."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._hidden_x0 = prepared.rings[0].values
        self._opened: Reduced | None = None

    def open(self, x1: RingElements) -> Bundle:
        """Online: mask and open x."""
        k = self._shape.ring_bits
        # C = x1 + (x0 + r0) + r1 + 2^(k-2) mod 2^k
        c = x1.reshape(-1) + self._hidden_x0 + draw_mask(self._draws, self._shape.count, bits=k)
        c += np.uint32(1 << (k - 2))
        self._opened = cut_to_ring(c, k)
        return Bundle(rings=(self._opened,))

    def widen(self) -> WideElements:
        """Online: P1's share of x mod 2^64, shape (count,). Once, after `open`. Raises MaterialSpent."""
        if self._opened is None:
            raise MaterialSpent("this layer's opening was used before, or not made yet; start a new session")
        opened, self._opened = self._opened, None
        # P1 adds the public C - 2^(k-2) to its share of -r + 2^k * (1 - top bit of C) * g
        share = _share(self._shape, opened, self._corrections)
        share += opened.values
        share -= np.uint64(1 << (self._shape.ring_bits - 2))
        return share

    def narrow(self, y1: WideElements, received: Bundle) -> RingElements:
        """Online: P1's half of y in masked form, y - rho', reduced to k_out bits."""
        bits = self._shape.output_bits
        return reduce_to_ring(y1 + received.rings[0].values, bits).values


# Both


def _own_shares(shape: WideningShape, p0: Draws) -> WideElements:
    """D and P0: P0's shares of r and of g, one after the other."""
    return p0.words("wide shares", shape.correction_elements, WORD).astype(np.uint64, copy=False)


def _share(shape: WideningShape, opened: Reduced, shares: WideElements) -> WideElements:
    """One party's -r + 2^k * (1 - top bit of C) * g."""
    r, g = shares[: shape.count], shares[shape.count :]
    top = (opened.values >> np.uint32(shape.ring_bits - 1)).astype(np.uint64)
    wraps = (np.uint64(1) - top) * g
    return (wraps << np.uint64(shape.ring_bits)) - r
