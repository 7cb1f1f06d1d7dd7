"""Which bits of a decoded sample are the pixel's (PS3.5 8.1.1): the same rule for every transfer syntax."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """One grey frame as its decoder gives it: bare patterns of bits, in the low bits of an unsigned container."""

    patterns: NDArray[np.unsignedinteger] = field(repr=False)
    """Shape (rows, columns), uint8 or uint16."""
    precision: int
    """How many bits of a pattern were coded; those above are 0. BitsAllocated where nothing is compressed."""
    slack: int = 0
    """By how much a lossy compression may have left the range of the values that it was given."""


def stored_values(samples: Samples, *, stored: int, high_bit: int, signed: bool) -> NDArray[np.integer]:
    """The values of `stored` bits below and with `high_bit`, extended by their sign where they are signed.

    Bits above, where old files keep overlays, and below do not count. A codestream of fewer bits than the header
    promises holds the whole value in its own bits. Returns integers of the container's width.
    """
    above = high_bit if high_bit < samples.precision else stored - 1
    if samples.slack and samples.precision > stored and above == stored - 1:
        whole = _field(samples.patterns, low=0, width=samples.precision, signed=signed)
        least, most = (-1 << (stored - 1), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
        if int(whole.min()) >= least - samples.slack and int(whole.max()) <= most + samples.slack:
            return np.asarray(np.clip(whole, least, most))  # cut, or what is a little too bright would become black
    width = min(stored, samples.precision)
    return _field(samples.patterns, low=max(above + 1 - stored, 0), width=width, signed=signed)


def lies_low(samples: Samples, *, stored: int, high_bit: int) -> bool:
    """Whether values lie in the low bits though HighBit says higher: nothing is above, and something below its bits."""
    low = high_bit + 1 - stored
    if low <= 0 or high_bit >= samples.precision:
        return False
    return not (samples.patterns >> stored).any() and bool((samples.patterns & ((1 << low) - 1)).any())


def _field(patterns: NDArray[np.unsignedinteger], *, low: int, width: int, signed: bool) -> NDArray[np.integer]:
    """`width` bits from bit `low` upwards."""
    container = 8 * patterns.dtype.itemsize
    if width == container:
        return patterns.view(f"i{patterns.dtype.itemsize}") if signed else patterns
    at_the_top = np.left_shift(patterns, container - low - width)
    if signed:
        at_the_top = at_the_top.view(f"i{patterns.dtype.itemsize}")
    return np.asarray(np.right_shift(at_the_top, container - width))
