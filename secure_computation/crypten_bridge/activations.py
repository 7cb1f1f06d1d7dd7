"""Sigmoid, tanh, SiLU and GELU on CrypTen tensors, as approximations by squares and products.

All four are one logistic function s(u) = 1 / (1 + exp(-u)) of an odd function u of x, worked out for a = |x| cut off at
a limit beyond which s is 0 or 1 to 16 bits, so that nothing can overflow whatever x is. If |x| is known to stay
below a bound at which exp(-u) as computed here is still 0, nothing is cut off: that spares two of three comparisons.

    step                            rounds   how
    -----------------------------   ------   ----------------------------------------------------------------
    [x >= 0], [x >= L], [x <= -L]   9        one batch of comparisons (`comparison`); the first alone within a bound
    a = min(|x|, L), or |x|         1        one batch of products with these bits
    u                               0 or 2   a, 2 a, or 1.596 (a + 0.044715 a^3) for GELU
    e = exp(-u)                     7 or 8   (1 - t + t^2 / 2)^64 with t = u / 64, or with 128
    1 / (1 + e)                     4        Newton from 24/17 - 8/17 d, which is within 6 % for d in [1, 2]; twice
    s(u) by the sign of x           1
    SiLU, GELU: x * s(u)            1

CrypTen's own `sigmoid` and `tanh` change its process-wide configuration while they run, which would disturb other
sessions, and overflow for large x. Error of s: below 0.001, mostly from fixed point with 16 fractional bits.
"""

import math
from typing import Any, Final, Literal

from secure_computation.crypten_bridge import comparison
from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.session import current_session

Function = Literal["sigmoid", "tanh", "silu", "gelu"]

_LIMITS: Final[dict[Function, float]] = {"sigmoid": 16.0, "silu": 16.0, "tanh": 8.0, "gelu": 6.0}
_HALVINGS: Final = 6
_FARTHEST: Final[dict[int, float]] = {6: 100.0, 7: 200.0}
"""By h: up to this u, (1 - t + t^2 / 2)^(2^h) with t = u / 2^h stays below 2^-16 if exp(-u) does."""
_GELU_FACTOR: Final = 1.5957691216057308  # 2 sqrt(2 / pi)
_GELU_CUBIC: Final = 0.044715
_NEWTON_STEPS: Final = 2


def halvings_within(function: Function, largest: float) -> int | None:
    """How often u is halved where |x| stays below `largest` and is not cut off; None if it has to be."""
    u = {"sigmoid": largest, "silu": largest, "tanh": 2 * largest}.get(function)
    if u is None:
        u = _GELU_FACTOR * (largest + _GELU_CUBIC * largest**3)
    # The seventh halving doubles the error of fixed point, which tanh would double again.
    most = 7 if function in {"sigmoid", "silu"} else 6
    return next((halvings for halvings, farthest in _FARTHEST.items() if u <= farthest and halvings <= most), None)


def apply_activation(function: Function, x: Any, *, largest: float = math.inf) -> Any:
    """Encrypted function of an encrypted tensor of any shape; scale 2^16, as every CrypTen tensor here.

    `largest`: what |x| is known to stay below.
    """
    limit, halvings = _LIMITS[function], halvings_within(function, largest)
    near = halvings is not None
    candidates = load_crypten().stack([x] if near else [x, x - limit, -x - limit])
    bits = comparison.not_negative(candidates.share)
    positive = bits[0]
    # |x| = x (2 [x >= 0] - 1); what exceeds the limit, on either side, is taken off.
    factors = bits.clone()
    factors[0] = 2 * positive - _one()
    parts = comparison.product(candidates.share, factors)
    magnitude = with_share(x, parts[0] if near else parts[0] - parts[1] - parts[2])
    logistic = _reciprocal(exponential(_odd_function(function, magnitude), halvings=halvings or _HALVINGS) + 1)
    # s(-u) = 1 - s(u): half plus a signed half.
    signed = with_share(x, comparison.product((logistic - 0.5).share, factors[0]))
    if function == "tanh":
        return signed * 2
    result = signed + 0.5
    return result if function == "sigmoid" else x * result


def with_share(x: Any, share: Any) -> Any:
    """A CrypTen tensor of the same scale as `x` with another share."""
    result = x.shallow_copy()
    result._tensor = x._tensor.shallow_copy()  # noqa: SLF001 - CrypTen has no public way to give a tensor a new share
    result.share = share
    return result


def _one() -> int:
    """This party's share of the whole number 1."""
    return 1 if current_session().communicator.get_rank() == DATA_OWNER_RANK else 0


def _odd_function(function: Function, magnitude: Any) -> Any:
    match function:
        case "sigmoid" | "silu":
            return magnitude
        case "tanh":
            return magnitude * 2
        case "gelu":
            cube = magnitude.square() * magnitude
            return (magnitude + cube * _GELU_CUBIC) * _GELU_FACTOR


def exponential(u: Any, *, cubic: bool = False, halvings: int = _HALVINGS) -> Any:
    """exp(-u) for an encrypted u, 0 <= u <= 32, or up to `_FARTHEST` if large ones need only be 0.

    `cubic` takes one round more and leaves out less: 64 (u / 64)^4 / 24 of the result, not 64 (u / 64)^3 / 6.
    """
    t = u.div(1 << halvings)
    square = t.square()
    result = (square * (0.5 - t * (1 / 6)) if cubic else square.div(2)) - t + 1
    for _ in range(halvings):
        result = result.square()
    return result


def _reciprocal(d: Any) -> Any:
    """1 / d for d in [1, 2]."""
    result = d * (-8 / 17) + 24 / 17
    for _ in range(_NEWTON_STEPS):
        result = result * 2 - result.square() * d
    return result
