"""What ReLU, truncation and widening have in common: a value is opened under a mask, and its result masked again.

The labels stand here once, because D, P0 and P1 must draw the same streams: r0 and r1 that hide z when C is opened, and
rho' that hides the result.
"""

from typing import Final

import numpy as np

from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.ring import cut_to_ring

OUTPUT_MASK: Final = "output mask"
OPENING_MASK: Final = "mask"


def draw_mask(draws: Draws, count: int, *, bits: int) -> RingElements:
    """One party's part of r (r0 at P0, r1 at P1; D draws both). Shape (count,), ring of `bits` bits."""
    return draws.ring(OPENING_MASK, count, bits=bits)


def draw_whole_mask(count: int, *, bits: int, p0: Draws, p1: Draws) -> RingElements:
    """D: r = r0 + r1, reduced to `bits` bits."""
    r = draw_mask(p0, count, bits=bits) + draw_mask(p1, count, bits=bits)
    r &= np.uint32((1 << bits) - 1)
    return r


def hide_share(z0: RingElements, r0: RingElements, *, bits: int, left_out: int = 0) -> Bundle:
    """P0, offline: z0 + r0, for P1. `z0`: flat. `bits`: of r0 and of what is sent.

    `left_out`: bits of z0, from below, that are not sent. z0 is rounded up, by the t of `find_dither`: a dither that
    neither party chooses, uniform as z0 is, and not known to P1.
    """
    rounded = (z0 + np.uint32((1 << left_out) - 1)) >> np.uint32(left_out)
    return Bundle(rings=(cut_to_ring(rounded + r0, bits),))


def find_dither(z0: RingElements, left_out: int) -> RingElements:
    """The t by which `hide_share` rounds z0 up: z0 + t is a multiple of 2^left_out."""
    return (np.uint32(0) - z0) & np.uint32((1 << left_out) - 1)
