"""At which scale each drafted value is computed.

Scales are exact fractions. The weight scale of a private product can be any number, so each product gets the scale at
which it meets its partners: sum pools put factors such as 9 into the scale of a residual stream, and every product that
is added to the stream takes the same factor, so that the two differ by a power of two.
"""

import math
from fractions import Fraction
from typing import Final

from contract.errors import ModelFileError
from secure_computation.engines.masked.lowering.drafts import LARGEST_FACTOR, Draft, Precision
from secure_computation.engines.masked.plan.steps import MAX_RING_BITS, WEIGHT_LIMIT
from secure_computation.network import Convolution2d, FullyConnected
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
        products, settled, between = trace_scales(draft)
        anchor = settled[0] if settled else self._unit(target)
        units = {product: anchor / growth for product, growth in products.items()}
        wanted = {product: self._exponent(product, unit, target) for product, unit in units.items()}
        fitting = {product: self._limit(product, unit) for product, unit in units.items()}
        if units and self._precision.allotment is None:  # as fine as any of them wants to be
            wanted = dict.fromkeys(units, max(wanted.values()))
            fitting = dict.fromkeys(units, min(fitting.values()))
        most = floor_log2(self.largest_integer / (draft.magnitude * anchor))
        for product, unit in units.items():
            product.scale = unit * Fraction(2) ** min(wanted[product], fitting[product], most)
        for step in between:
            join_scales(step)

    @property
    def largest_integer(self) -> Fraction:
        """What surely fits a ring with headroom, a sign and a spare bit."""
        return Fraction(1 << (MAX_RING_BITS - 3 - self._precision.headroom_bits))

    def _unit(self, target: Fraction | None) -> Fraction:
        """What scales that no other value binds are powers of two of."""
        if target is None or self._precision.allotment is None:
            return Fraction(1)
        return target / Fraction(2) ** floor_log2(target)

    def _exponent(self, product: Draft, unit: Fraction, target: Fraction | None) -> int:
        """The scale that a product would like to have, as unit * 2^exponent."""
        source = product.inputs[0]
        if self._precision.allotment is not None:
            levels = Fraction(self._precision.allotment.levels[product.name])
            exponent = floor_log2(levels / self._largest_weight(product) * source.known_scale() / unit)
            return exponent if target is None else max(exponent, ceil_log2(target / unit))
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
        return min(floor_log2(fitting), floor_log2(self.largest_integer / (product.magnitude * unit)))

    def _largest_weight(self, product: Draft) -> Fraction:
        weight = self._weights[f"{product.name}.weight"]
        return Fraction(float(max(weight.max(), -weight.min()))) or Fraction(1, 1024)


def trace_scales(draft: Draft) -> tuple[dict[Draft, int], list[Fraction], list[Draft]]:
    """What a fine value without a scale depends on, through public-linear steps without a scale.

    Returns the products that have no scale yet, with the growth of scale on the way; the scales, as seen at `draft`, of
    all values that have one; and the steps in between, in order of evaluation, `draft` last.
    """
    products: dict[Draft, int] = {}
    settled: list[Fraction] = []
    between: dict[Draft, None] = {}

    to_visit = [(draft, 1, False)]  # no recursion: a network may have thousands of steps one behind the other
    while to_visit:
        value, growth, sources_done = to_visit.pop()
        if sources_done:
            between[value] = None
        elif value.scale is not None:
            settled.append(value.scale * growth)
        elif isinstance(value.operation, Convolution2d | FullyConnected):
            products.setdefault(value, growth)
        elif value not in between:
            to_visit.append((value, growth, True))
            to_visit.extend((source, growth * value.divisor, False) for source in reversed(value.inputs))
    return products, settled, list(between)


def join_scales(draft: Draft) -> None:
    """Set the scale at which the inputs of a public-linear step meet. Raises ModelFileError where they cannot."""
    scales = [source.known_scale() for source in draft.inputs]
    draft.scale = common_scale(scales) * draft.divisor
    if max(draft.scale / scale for scale in scales) > LARGEST_FACTOR * draft.divisor:
        raise ModelFileError(
            f"'{draft.name}' joins values of too different magnitude: scale the branches alike and train again"
        )


# Arithmetic of scales


def common_scale(scales: list[Fraction]) -> Fraction:
    """The smallest scale that is a whole multiple of each."""
    numerator = math.lcm(*(scale.numerator for scale in scales))
    return Fraction(numerator, math.gcd(*(scale.denominator for scale in scales)))


def floor_log2(value: Fraction) -> int:
    """The largest e with 2^e <= value, for a positive value."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


def ceil_log2(value: Fraction) -> int:
    """The smallest e with 2^e >= value, for a positive value."""
    return -floor_log2(1 / value)


def nearest_log2(value: Fraction) -> int:
    """log2 of a positive value, rounded."""
    return floor_log2(2 * value * value) // 2


def nearest_power_of_two(value: Fraction) -> Fraction:
    """By ratio, for a positive value."""
    return Fraction(2) ** nearest_log2(value)


def power_of_two_scale(bits: int, magnitude: float) -> Fraction:
    """The largest power of two at which `magnitude` has at most `bits` bits."""
    return Fraction(2) ** floor_log2(Fraction(1 << bits) / Fraction(magnitude or 1.0))
