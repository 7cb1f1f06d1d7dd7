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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secure_computation.kernels.comparing import TruncationConstants, combine_truncation
from secure_computation.protocols.compared_layer import ComparedShape, Comparison, Part
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.draws import RingElements


@dataclass(frozen=True, kw_only=True)
class TruncationShape(ComparedShape):
    """The public parameters of one truncation layer."""

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
    def offset(self) -> int:
        return 1 << (self.ring_bits - (2 if self.wide else 1))

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return (Comparison(name="low", chain=self.low, pad="m2", of_sign=False),) if self.low else ()

    @property
    def dealt_rings(self) -> dict[str, int]:
        rings = {"q": self.output_bits}
        if self.low:
            rings |= {"m2": self.output_bits}
        wrap_bits = self.output_bits - self.ring_bits + self.truncated_bits
        return rings | ({"g": wrap_bits} if self.wide else {})

    def cut_opened(self, comparison: Comparison, c: RingElements) -> RingElements:
        return c

    def cut_mask(self, comparison: Comparison, r: RingElements) -> RingElements:
        return r

    def deal_values(self, r: RingElements, bits: Mapping[str, RingElements]) -> dict[str, RingElements]:
        r = r & np.uint32((1 << self.ring_bits) - 1)
        return {"q": r >> np.uint32(self.truncated_bits), "g": r >> np.uint32(self.ring_bits - 1), **bits}

    def combine(self, part: Part, out: RingElements) -> None:
        """Y = floor(C / 2^f) - q - carry - offset / 2^f, and 2^(k-f) * wrap in the wide form."""
        k, f = self.ring_bits, self.truncated_bits
        constants = TruncationConstants(
            public=int(part.public),
            ring_bits=k,
            truncated_bits=f,
            middle=self.offset >> f,
            wrap=(1 << (k - f)) & 0xFFFFFFFF,
            output_mask=(1 << self.output_bits) - 1,
            sign_of_rest=part.sign_of_rest,
        )
        dc = part.outcomes[0] if self.low else np.zeros(part.c.size, np.uint8)
        shares = tuple(part.share(name) for name in ("q", "m2", "g"))
        combine_truncation(part.c, dc, shares, constants, rest=part.rest, out=out)
