"""ReLU with dithered truncation: y = max(0, floor((z + t) / 2^f)) for a random t, in one round trip and on fewer bits.

z lies in a ring of k bits, -2^(k-1) + 2^f i <= z <= 2^(k-1) - 2^f (2^e - i), where i is 2^(e-1), or 0 for e = 0; y lies
in a ring of k_out bits, chosen freely. P0 holds z0, fixed before the input exists, P1 holds z1, z = z0 + z1. Afterwards
P0 holds rho', fixed in the same way, and P1 y - rho'. z0 is uniform, and so is t = -z0 mod 2^f, the dither: P0 rounds
its share up, P1 rounds down, and U = floor((z1 + 2^(k-1) - 2^f i) / 2^f) + (z0 + t) / 2^f + R mod 2^h needs h = k - f
bits, as do r0 = R and r1. With q = R + r1 - 2^h * w, its wrap w, its top bit g, and m1 = b0 ^ b1 ^ g:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0, b0, rho', and P0's     the same from s0                       r1 (h bits), b1 from s1
    shares from s0
    tables of the chain for                                    -->    corrections: tables; shares of m1, m1*q (k_out
    bits e to h-2 of q                                                bits) and of g, m1*g, w (k_out - h bits)
                               (z0 + t) / 2^f + R mod 2^h      -->
    online
                                                               <--    C = U + r1 mod 2^h, the chain's bits, its share
                                                                      of dd = d ^ m1
                               its share of dd; y0 - rho'      -->
    with C' = floor(C / 2^e), q' = floor(q / 2^e), h' = h - e, and cm the top bit of C:

    d = cm ^ g ^ [C' mod 2^(h'-1) < q' mod 2^(h'-1)]
    y = d * (C - q + 2^h * (1 - cm + cm * g) - 2^(h-1) + i),
    d = dd + (1 - 2 dd) * m1, and q = R + r1 - 2^h * w:  public values and own masks times dealt shares.

t is uniform and independent of z: right on average, with twice the variance of rounding to nearest. For
e > 0, a value Z of the truncated scale passes, as itself, if Z + s >= i with s = q mod 2^e: up to -i it never does,
from i on always, and in between chance decides. For f = 0 and e = 0 or 1 the result is exact: the comparisons of a max
pool run here too.

q is not dealt: P0 knows R and P1 knows r1, which is q but for the wrap. It is dealt times m1, which neither knows.

What is opened, and to whom: C to both (hidden by r1 from P0; P1 computes it), dd to both (hidden by m1). P0 knows t; D,
which knows R, does not.

Source: docs/protocol.md, "Dithered ReLU"; Escudero et al. 2020 for the masked form, Ghodsi et al. 2021 (Circa) and
HummingBird (arXiv 2309.04875) for comparing fewer bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from secure_computation.kernels.comparing import DitheredReluConstants, combine_dithered_relu
from secure_computation.protocols.compared_layer import ComparedShape, Comparison, Part
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.draws import RingElements


@dataclass(frozen=True, kw_only=True)
class DitheredReluShape(ComparedShape):
    """The public parameters of one ReLU layer."""

    high: Chain
    """Cuts bits e to h - 2 of q."""
    sign_cut_bits: int = 0
    """e."""

    keeps_masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a chain that does not fit the ring."""
        wanted = self.quotient_bits - self.sign_cut_bits - 1
        if self.high.bits != wanted:
            raise ValueError(f"the high chain has {self.high.bits} bits, not {wanted}")

    @property
    def quotient_bits(self) -> int:
        """Bits of q: h = k - f."""
        return self.ring_bits - self.truncated_bits

    @property
    def unopened_bits(self) -> int:
        return self.truncated_bits

    @property
    def undecided(self) -> int:
        """Half of what the comparison leaves out: of values nearer to 0 than this, chance decides which pass."""
        return (1 << self.sign_cut_bits) >> 1

    @property
    def offset(self) -> int:
        return (1 << (self.ring_bits - 1)) - (self.undecided << self.truncated_bits)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return (Comparison(name="high", chain=self.high, pad="m1", of_sign=True),)

    @property
    def dealt_rings(self) -> dict[str, int]:
        """2^h times a bit, in the ring of the output, needs k_out - h bits of it."""
        wrap_bits = self.output_bits - self.quotient_bits
        wraps = dict.fromkeys(("g", "m1 g", "w"), wrap_bits) if wrap_bits > 0 else {}
        return {"m1": self.output_bits, "m1 q": self.output_bits} | wraps

    def cut_opened(self, comparison: Comparison, c: RingElements) -> RingElements:
        return c >> np.uint32(self.sign_cut_bits)

    def cut_mask(self, comparison: Comparison, r: RingElements) -> RingElements:
        return r >> np.uint32(self.sign_cut_bits)

    def deal_values(self, r: RingElements, bits: Mapping[str, RingElements]) -> dict[str, RingElements]:
        h = self.quotient_bits
        q = r & np.uint32((1 << h) - 1)
        g = q >> np.uint32(h - 1)
        m1 = bits["m1"] ^ g
        # w counts only in an output ring of more than h bits, and then r = R + r1 has room for it.
        return {"m1": m1, "m1 q": m1 * q, "g": g, "m1 g": m1 * g, "w": r >> np.uint32(min(h, 31))}

    def combine(self, part: Part, out: RingElements) -> None:
        """Y = d * (C - q + 2^h * (1 - cm + cm * g) - 2^(h-1) + i)."""
        h = self.quotient_bits
        constants = DitheredReluConstants(
            public=int(part.public),
            quotient_bits=h,
            wrap=(1 << h) & 0xFFFFFFFF,
            middle=(1 << (h - 1)) - self.undecided,
            output_mask=(1 << self.output_bits) - 1,
            sign_of_rest=part.sign_of_rest,
        )
        assert part.mask is not None  # `keeps_masks`
        shares = tuple(part.share(name) for name in ("m1", "m1 q", "g", "m1 g", "w"))
        combine_dithered_relu(part.c, part.outcomes[0], part.mask, shares, constants, rest=part.rest, out=out)
