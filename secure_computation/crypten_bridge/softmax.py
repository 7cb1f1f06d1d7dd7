"""Softmax on CrypTen tensors: exp(x - max) / sum of exp(x - max), over the second axis.

    step                              rounds               how
    -------------------------------   ------------------   -------------------------------------------------------
    m = largest of n                  9 ceil(log2 n)       `comparison.largest`
    u = min(m - x, 16)                9                    one batch of comparisons; n exp(-16) is nothing
    e = exp(-u)                       8                    (1 - t + t^2 / 2 - t^3 / 6)^64 with t = u / 64
    d = sum of e, 1 <= d <= n                              local
    y = 1 / d                         2 k                  Newton, k times y (2 - d y), from a line or a constant
    e * y                             1

CrypTen's own softmax changes its process-wide configuration while it runs, which would disturb other sessions, finds a
one-hot maximum that it does not need, and starts Newton's method where it diverges for sums above a few hundred. Here d
lies in a range that is public, so start and number of steps follow from n. d y is close to 1, so no precision is lost
if y is small: CrypTen squares y first, and nothing is left of it at 16 fractional bits from n = 256 on.

Error: below 0.001 for n up to 4096 (tests allow twice that), mostly from fixed point with 16 fractional bits in exp.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from secure_computation.crypten_bridge import comparison
from secure_computation.crypten_bridge.activations import exponential, with_share

_LIMIT: Final = 16.0
_UNIT: Final = 1 << 16
"""CrypTen's scale, to which public factors are rounded."""
_RELATIVE_ERROR: Final = 2.0**-13
"""Of Newton's method, before rounding."""


def softmax(x: Any) -> Any:
    """Encrypted softmax over the second axis, of two elements or more, of an encrypted tensor of any shape."""
    below = with_share(x, comparison.largest(x.share, 1) - x.share)
    below = with_share(x, below.share - comparison.relu((below - _LIMIT).share))
    exponentials = exponential(below, cubic=True)  # errors of many small ones add up in the sum
    total = with_share(x, exponentials.share.sum(dim=1, keepdim=True))
    return exponentials * _reciprocal(total, x.share.shape[1])


def _reciprocal(d: Any, largest: int) -> Any:
    """1 / d for d in [1, largest]."""
    start = newton_start(largest)
    y = d * -start.slope + start.constant if start.slope else (2 - d * start.constant) * start.constant
    for _ in range(start.steps):
        y = y * (2 - d * y)
    return y


@dataclass(frozen=True)
class NewtonStart:
    """First approximation of 1 / d, and how many steps of Newton's method follow that cost rounds."""

    constant: float
    slope: float
    """constant - slope * d; if it is 0, the constant after one step, which is local."""
    steps: int


def newton_start(largest: int) -> NewtonStart:
    """What takes the fewest rounds for d in [1, largest]. Each step squares the relative error 1 - d y."""
    middle, half = (largest + 1) / 2, (largest - 1) / 2
    # The line whose error 1 - d (a - b d) is a Chebyshev polynomial, the smallest there is over the range.
    scale = 2 * middle**2 - half**2
    a, b = round(4 * middle / scale * _UNIT) / _UNIT, round(2 / scale * _UNIT) / _UNIT
    by_line = max(abs(1 - d * (a - b * d)) for d in (1, largest, a / (2 * b))) if b else 1.0
    by_line += 2 * largest / _UNIT  # the last bit of b d is random
    c = math.floor(_UNIT / middle) / _UNIT
    by_constant = max(1 - c, abs(1 - largest * c)) ** 2
    if by_line <= by_constant:
        return NewtonStart(a, b, _steps(by_line))
    return NewtonStart(c, 0.0, _steps(by_constant))


def _steps(error: float) -> int:
    """How often `error` is squared until it does not matter."""
    return max(0, math.ceil(math.log2(math.log(_RELATIVE_ERROR) / math.log(error))))
