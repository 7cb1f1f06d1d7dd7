"""Which bits of a decoded sample are the pixel's (PS3.5 8.1.1), and which pixels are padding (PS3.3 C.7.5.1.1.2).

Bits follow one rule for every transfer syntax. Padding says nothing about the range of grey values.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging.dicom.header import PixelLayout
from imaging.dicom.tags import read_integer, read_number, read_numbers
from imaging.formats import ImageWarning, ImageWarnings


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """One grey frame as its decoder gives it: bare patterns of bits, in the low bits of an unsigned container."""

    patterns: NDArray[np.unsignedinteger] = field(repr=False)
    """Shape (rows, columns), uint8 or uint16."""
    precision: int
    """How many bits of a pattern were coded; those above are 0. BitsAllocated if nothing is compressed."""
    slack: int = 0
    """By how much a lossy compression may have left the range of the values that it was given."""


def extract_values(samples: Samples, *, stored: int, high_bit: int, signed: bool) -> NDArray[np.integer]:
    """The values of `stored` bits below and with `high_bit`, extended by their sign if they are signed.

    Bits above, where old files keep overlays, and below do not count. A codestream of fewer bits than the header
    promises holds the whole value in its own bits. Returns integers of the container's width.
    """
    above = high_bit if high_bit < samples.precision else stored - 1
    if samples.slack and samples.precision > stored and above == stored - 1:
        whole = _extract_bits(samples.patterns, low=0, width=samples.precision, signed=signed)
        least, most = (-1 << (stored - 1), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
        if int(whole.min()) >= least - samples.slack and int(whole.max()) <= most + samples.slack:
            return np.asarray(np.clip(whole, least, most))  # cut, or what is a little too bright would become black
    width = min(stored, samples.precision)
    return _extract_bits(samples.patterns, low=max(above + 1 - stored, 0), width=width, signed=signed)


def lies_low(samples: Samples, *, stored: int, high_bit: int) -> bool:
    """Whether values lie in the low bits though HighBit says higher: nothing is above, and something below its bits."""
    low = high_bit + 1 - stored
    if low <= 0 or high_bit >= samples.precision:
        return False
    return not (samples.patterns >> stored).any() and bool((samples.patterns & ((1 << low) - 1)).any())


def _extract_bits(patterns: NDArray[np.unsignedinteger], *, low: int, width: int, signed: bool) -> NDArray[np.integer]:
    """`width` bits from bit `low` upwards."""
    container = 8 * patterns.dtype.itemsize
    if width == container:
        return patterns.view(f"i{patterns.dtype.itemsize}") if signed else patterns
    at_the_top = np.left_shift(patterns, container - low - width)
    if signed:
        at_the_top = at_the_top.view(f"i{patterns.dtype.itemsize}")
    return np.asarray(np.right_shift(at_the_top, container - width))


PADDING_TAGS = tuple(
    f"{kind}PixelPadding{what}" for kind in ("", "Float", "DoubleFloat") for what in ("Value", "RangeLimit")
)


def find_padding(
    stored: NDArray[np.integer] | NDArray[np.floating], samples: Samples | None, tags: Dataset, layout: PixelLayout
) -> NDArray[np.bool] | None:
    """Which pixels are padding, (rows, columns), by their stored values; None if none is, or all are.

    Padding that needs more bits than are stored is looked for in all bits that are there.
    """
    values: NDArray[np.integer] | NDArray[np.floating] = stored
    if samples is None:
        kind = "Float" if layout.allocated == 32 else "DoubleFloat"
        ends = [read_number(tags, f"{kind}PixelPadding{what}") for what in ("Value", "RangeLimit")]
    else:
        whole = [read_integer(tags, f"PixelPadding{what}") for what in ("Value", "RangeLimit")]
        as_stored = [None if value is None else _convert_to_stored(value, layout) for value in whole]
        if any(end is None and value is not None for end, value in zip(as_stored, whole, strict=True)):
            values = samples.patterns
            as_stored = [None if value is None else value % (1 << layout.allocated) for value in whole]
        ends = list[float | None](as_stored)
    if ends[0] is None:
        return None
    value, limit = ends[0], ends[0] if ends[1] is None else ends[1]
    found = (values >= min(value, limit)) & (values <= max(value, limit))
    return found if found.any() and not found.all() else None


def check_padding(tags: Dataset) -> ImageWarnings:
    """A remark if the file names padding that cannot be read."""
    if all(None not in read_numbers(tags, keyword)[:1] for keyword in PADDING_TAGS):
        return ()
    return (ImageWarning("bad-padding", "the file's padding value is no number; it was left out"),)


def _convert_to_stored(value: int, layout: PixelLayout) -> int | None:
    """The same bits as a stored value, for the tag's VR often has the other sign; None if it needs more bits."""
    if layout.signed and value >> (layout.allocated - 1) == 1:
        value -= 1 << layout.allocated
    if not -(1 << (layout.stored - 1)) <= value < 1 << layout.stored:
        return None
    bits = value % (1 << layout.stored)
    return bits - (1 << layout.stored) if layout.signed and bits >> (layout.stored - 1) else bits
