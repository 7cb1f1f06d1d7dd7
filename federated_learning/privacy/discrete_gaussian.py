"""Integers of the discrete Gaussian distribution, P(y) ~ exp(-y^2 / (2 V)), from the project's own random streams.

Rejection from the discrete Laplace distribution (Canonne, Kamath and Steinke 2020, algorithm 3), many samples at once.
On integers there is no low-order bit of a float that could give a sum away (Mironov 2012).

Every decision is one about a uniform real number U of which 63 or 64 binary digits are known: is -t ln U above an
integer, is U below exp(-g)? It is taken in float64 if U lies further from the border than the arithmetic errs, and
else with more digits of U and decimal arithmetic to as many places. So the distribution is the one above, and no
statistical distance has to be added to delta. What is assumed: NumPy's log and exp err by less than 2^-45 of their
value (its documentation says a few units in the last place, 2^-52).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_computation.randomness import RandomStream, Seed

MAX_VARIANCE: Final = 1 << 56
"""A deviation of 2^28 grid steps; above, too many decisions would need more digits."""
_CHUNK: Final = 1 << 14
_WORD_BITS: Final = 64
_MORE_WORDS: Final = 3

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How near to a border a decision is not taken in float64. Only a test gives others."""

    uniform: int = 1 << 43
    """Of 63 bits: below it a float64 knows too few digits of U."""
    logarithm: float = 2.0**-40
    """Of -ln U. Rounding U to float64 and the digits that are not drawn yet change it by 2^-43 at most."""
    exponential: float = 2.0**-38
    """Of exp(-g), where g is known to 2^-40 of the value of exp(-g)."""


def draw_discrete_gaussian(
    seed: Seed, *, step: int, variance: int, count: int, margins: Margins = Margins()
) -> Integers:
    """`count` independent samples of mean 0 with V = `variance`, int64. A step of a seed is used once.

    V is the parameter; from V = 1 on the distribution's own variance is V too, to one part in a million.
    """
    if not 1 <= variance <= MAX_VARIANCE:
        raise ValueError(f"the variance lies between 1 and {MAX_VARIANCE} grid steps squared")
    words = seed.stream(item="discrete-gaussian", step=step, label="decisions")
    digits = seed.stream(item="discrete-gaussian", step=step, label="digits")
    samples: Integers = np.empty(count, np.int64)
    done = 0
    while done < count:
        first, second = words.int64((2, _CHUNK)).view(np.uint64)
        accepted = _choose(first, second, variance, digits, margins)[: count - done]
        samples[done : done + accepted.size] = accepted
        done += accepted.size
    return samples


def _choose(
    first: NDArray[np.uint64], second: NDArray[np.uint64], variance: int, digits: RandomStream, margins: Margins
) -> Integers:
    """The accepted ones of as many proposals as there are words in `first` and in `second`."""
    scale = isqrt(variance) + 1
    negative = (first & np.uint64(1)).astype(bool)
    size = _draw_laplace(first >> np.uint64(1), scale, digits, margins)
    # Zero comes once, not once with each sign; then a proposal is taken with probability exp(-g).
    taken = _accept(second, size, scale, variance, digits, margins=margins) & ~(negative & (size == 0))
    signed: Integers = np.where(negative, -size, size)
    chosen: Integers = signed[taken]
    return chosen


def _draw_laplace(uniform: NDArray[np.uint64], scale: int, digits: RandomStream, margins: Margins) -> Integers:
    """floor(-t ln U), which is at least x with probability exp(-x / t); U begins with the 63 bits of `uniform`."""
    real = -scale * np.log((uniform.astype(np.float64) + 0.5) * 2.0**-63)
    whole = np.floor(real)
    part, margin = real - whole, margins.logarithm * scale
    unsure = (part < margin) | (part > 1 - margin) | (uniform < np.uint64(margins.uniform))
    size: Integers = whole.astype(np.int64)
    for index in np.flatnonzero(unsure):
        size[index] = _decide_laplace(int(uniform[index]), scale, digits)
    return size


def _accept(
    uniform: NDArray[np.uint64],
    size: Integers,
    scale: int,
    variance: int,
    digits: RandomStream,
    *,
    margins: Margins,
) -> NDArray[np.bool_]:
    """Whether U < exp(-g) with g = (|y| - V / t)^2 / (2 V); U begins with the 64 bits of `uniform`."""
    away = size.astype(np.float64) - variance / scale
    chance = np.exp(away * away * (-0.5 / variance))
    distance = (uniform.astype(np.float64) + 0.5) * 2.0**-64 - chance
    accepted: NDArray[np.bool_] = distance < 0
    for index in np.flatnonzero(np.abs(distance) < margins.exponential):
        accepted[index] = _decide_chance(int(uniform[index]), int(size[index]), scale, variance, digits)
    return accepted


def _decide_laplace(known: int, scale: int, digits: RandomStream) -> int:
    """As `_draw_laplace`, of one U, with as many digits as it takes."""
    for low, high, places in _bounds(known, 63, digits):
        if low == 0:
            continue
        largest, smallest = (_floor_of_log(bound, places, scale) for bound in (low, high))
        if largest == smallest:
            return largest
    raise AssertionError("digits do not end")


def _floor_of_log(numerator: int, places: int, scale: int) -> int:
    context = _context(places)
    real = context.multiply(-scale, context.ln(context.divide(Decimal(numerator), Decimal(1 << places))))
    return int(real)  # towards zero: it is not negative


def _decide_chance(known: int, size: int, scale: int, variance: int, digits: RandomStream) -> bool:
    """As `_accept`, of one U, with as many digits as it takes."""
    numerator, denominator = (size * scale - variance) ** 2, 2 * variance * scale**2
    for low, high, places in _bounds(known, _WORD_BITS, digits):
        context = _context(places)
        chance = context.exp(context.divide(Decimal(-numerator), Decimal(denominator)))
        least, most = (context.divide(Decimal(bound), Decimal(1 << places)) for bound in (low, high))
        if most <= chance:
            return True
        if least >= chance:
            return False
    raise AssertionError("digits do not end")


def _context(places: int) -> Context:
    """Decimal digits for so many binary ones, and twenty more."""
    return Context(prec=places * 302 // 1000 + 20)


def _bounds(known: int, bits: int, digits: RandomStream) -> Iterator[tuple[int, int, int]]:
    """Ever closer bounds of U, as numerators of a power of two, and its exponent."""
    while True:
        for word in digits.int64((_MORE_WORDS,)).view(np.uint64):
            known, bits = known << _WORD_BITS | int(word), bits + _WORD_BITS
        yield known, known + 1, bits
