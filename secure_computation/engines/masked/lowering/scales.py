"""Arithmetic of scales, which are exact fractions."""

import math
from fractions import Fraction


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


def power_of_two_scale(bits: int, magnitude: float) -> Fraction:
    """The largest power of two at which `magnitude` has at most `bits` bits."""
    return Fraction(2) ** floor_log2(Fraction(1 << bits) / Fraction(magnitude or 1.0))
