"""At which scale each private product is computed.

Scales are exact fractions. The weight scale of a product can be any number, so each product gets the scale at which it
meets its partners: sum pools put factors such as 9 into the scale of a residual stream, and every product that is added
to the stream takes the same factor, so that the two differ by a power of two.
"""

import math
from fractions import Fraction
from typing import Final

import numpy as np

from secure_computation.engines.masked.lowering.drafts import Draft, Precision, behind, magnitude_of, scale_from_inputs
from secure_computation.engines.masked.lowering.scales import ceil_log2, floor_log2
from secure_computation.engines.masked.plan.step_bases import MAX_RING_BITS, WEIGHT_LIMIT
from secure_computation.private_weights import PrivateWeights

_DIFFUSED_BITS: Final = 2
"""By how much error diffusion lowers the error of rounded weights."""


class ProductScales:
    """Sets the scales of drafts that wait for one."""

    def __init__(self, weights: PrivateWeights, precision: Precision) -> None:
        """The weights that the drafts' products multiply by, and how finely to compute."""
        self._weights, self._precision = weights, precision

    def settle(self, draft: Draft, target: Fraction | None) -> None:
        """Choose the scales of all products behind a fine value and carry them forward to it.

        target: scale of the truncation that is to come; None at the output.
        """
        if draft.scale is not None:
            return
        products, settled, between = behind(draft)
        if products:
            anchor = settled[0] if settled else Fraction(1)
            exponent = max(self._exponent(product, anchor / growth, target) for product, growth in products.items())
            limits = (self._limit(product, anchor / growth) for product, growth in products.items())
            exponent = min(exponent, *limits, floor_log2(self.largest_integer / (magnitude_of(draft) * anchor)))
            for product, growth in products.items():
                product.scale = anchor / growth * Fraction(2) ** exponent
        for step in between:
            scale_from_inputs(step)

    @property
    def largest_integer(self) -> Fraction:
        """What surely fits a ring with headroom, a sign and a spare bit."""
        return Fraction(1 << (MAX_RING_BITS - 3 - self._precision.headroom_bits))

    def _exponent(self, product: Draft, unit: Fraction, target: Fraction | None) -> int:
        """The scale that a product would like to have, as unit * 2^exponent."""
        source = product.inputs[0]
        weight_scale = Fraction(1 << self._precision.weight_bits) / self._largest_weight(product)
        exponent = floor_log2(weight_scale * source.known_scale() / unit)
        if target is None:
            return exponent
        # Rounding the weights moves the sum by about the norm of the integers that they meet, an eighth to a quarter
        # of it as their errors cancel (`diffuse`); rounding the result moves it by 2^shift.
        inputs = math.prod(self._weights[f"{product.name}.weight"].shape[1:])
        norm = math.sqrt(inputs * source.range.mean_square) * float(source.known_scale())
        shift = max(0, math.ceil(math.log2(max(1.0, norm))) - _DIFFUSED_BITS + self._precision.guard_bits)
        return min(exponent, ceil_log2(target * (1 << shift) / unit))

    def _limit(self, product: Draft, unit: Fraction) -> int:
        """The largest exponent for which weights and results fit."""
        fitting = (WEIGHT_LIMIT - 1) * product.inputs[0].known_scale() / (self._largest_weight(product) * unit)
        return min(floor_log2(fitting), floor_log2(self.largest_integer / (magnitude_of(product) * unit)))

    def _largest_weight(self, product: Draft) -> Fraction:
        return Fraction(float(np.abs(self._weights[f"{product.name}.weight"]).max())) or Fraction(1, 1024)
