"""ReLU with exact truncation: y = max(0, floor(z / 2^f)), in one round trip.

z lies in a ring of k bits, -2^(k-1) + 2^f <= z < 2^(k-1); y lies in a ring of k_out bits, chosen freely. P0 holds z0,
fixed before the input exists, P1 holds z1, z = z0 + z1. Afterwards P0 holds rho', fixed in the same way, and P1
y - rho': the masked form that the next linear layer asks for.

With h = k - f, a mask r = r0 + r1 mod 2^k, q = floor(r / 2^f), g the top bit of q and m1 = b0 ^ b1 ^ g:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0, b0, m2_0, rho', and    the same from s0                       r1, b1, m2_1 from s1
    P0's shares from s0
    tables of the chains for                                   -->    corrections: tables; shares of m1, q, m1*q, m2,
    q mod 2^(h-1), r mod 2^f                                          m1*m2 (k_out bits), g, m1*g (k_out - h bits)
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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secure_computation.kernels.comparing import ReluConstants, combine_relu
from secure_computation.protocols.compared_layer import ComparedShape, Comparison, Part
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.draws import RingElements


@dataclass(frozen=True, kw_only=True)
class ReluShape(ComparedShape):
    """The public parameters of one ReLU layer."""

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
    def offset(self) -> int:
        return 1 << (self.ring_bits - 1)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        sign = Comparison(name="high", chain=self.high, pad="m1", of_sign=True)
        return (sign, Comparison(name="low", chain=self.low, pad="m2", of_sign=False)) if self.low else (sign,)

    @property
    def dealt_rings(self) -> dict[str, int]:
        """2^h * g in the ring of the output needs k_out - h bits of g."""
        rings = {"m1": self.output_bits, "q": self.output_bits, "m1 q": self.output_bits}
        if self.low:
            rings |= {"m2": self.output_bits, "m1 m2": self.output_bits}
        wrap_bits = self.output_bits - self.quotient_bits
        return rings | ({"g": wrap_bits, "m1 g": wrap_bits} if wrap_bits > 0 else {})

    def cut_opened(self, comparison: Comparison, c: RingElements) -> RingElements:
        if not comparison.of_sign or self.truncated_bits == 0:
            return c
        # C' = (floor(C / 2^f) - 1) mod 2^h
        return ((c >> np.uint32(self.truncated_bits)) - np.uint32(1)) & np.uint32((1 << self.quotient_bits) - 1)

    def cut_mask(self, comparison: Comparison, r: RingElements) -> RingElements:
        return r >> np.uint32(self.truncated_bits) if comparison.of_sign else r

    def deal_values(self, r: RingElements, bits: Mapping[str, RingElements]) -> dict[str, RingElements]:
        q = (r & np.uint32((1 << self.ring_bits) - 1)) >> np.uint32(self.truncated_bits)
        g = q >> np.uint32(self.quotient_bits - 1)
        m1 = bits["m1"] ^ g
        dealt = {"m1": m1, "q": q, "m1 q": m1 * q, "g": g, "m1 g": m1 * g}
        return dealt | ({"m2": bits["m2"], "m1 m2": m1 * bits["m2"]} if self.low else {})

    def combine(self, part: Part, out: RingElements) -> None:
        """Y = d * (C' + 1 - q + 2^h * (1 - cm + cm * g) - 2^(h-1) - carry)."""
        h, dd = self.quotient_bits, part.outcomes[0]
        constants = ReluConstants(
            public=int(part.public),
            truncated_bits=self.truncated_bits,
            borrow=1 if self.truncated_bits else 0,
            quotient_bits=h,
            quotient_mask=(1 << h) - 1,
            wrap=(1 << h) & 0xFFFFFFFF,
            middle=1 << (h - 1),
            output_mask=(1 << self.output_bits) - 1,
            sign_of_rest=part.sign_of_rest,
        )
        dc = part.outcomes[1] if self.low else np.zeros_like(dd)
        shares = tuple(part.share(name) for name in ("m1", "q", "m1 q", "m2", "m1 m2", "g", "m1 g"))
        combine_relu(part.c, dd, dc, shares, constants, rest=part.rest, out=out)
