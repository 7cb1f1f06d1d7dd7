"""Whole numbers of so many bits -> [0, 1], as the format says; and a question where a picture seems to be of fewer.

Pictures of 10, 12 or 14 bits are often written into files of 16 as they are. Such a picture is read 64, 16 or 4 times
too dark, and nothing in it tells it from a dark one: a person must look.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imaging.formats import ImageWarning

FEWER_BITS: Final = "fewer-bits"
LITTLE_RANGE: Final = "little-range"
"""Codes of warnings."""

_USUAL_BITS = 8
"""Up to here a file has no bits to spare."""


def scaled(
    values: NDArray[np.integer], bits: int, *, told_bits: int | None = None
) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...]]:
    """Samples of `bits`, signed or not -> float32 in [0, 1], from the smallest to the largest that they could hold.

    `told_bits`: how many of them count, where the file says so beside. They are the low bits where all values fit into
    them, which is said, and else the high ones, with nothing below.
    """
    low = -(1 << (bits - 1)) if np.issubdtype(values.dtype, np.signedinteger) else 0
    smallest, largest = int(values.min()), int(values.max())
    if told_bits is not None and 0 < told_bits < bits and low == 0:
        if largest < 1 << told_bits:
            text = f"the file says that {told_bits} of its {bits} bits count, and the picture was read so"
            return _fractions(values, 0, (1 << told_bits) - 1), (ImageWarning(FEWER_BITS, text),)
        unused = bits - told_bits
        if not np.bitwise_and(values, (1 << unused) - 1).any():
            return _fractions(values, 0, ((1 << told_bits) - 1) << unused), ()
    most = (1 << bits) - 1
    return _fractions(values, low, most), range_question((smallest - low) / most, (largest - low) / most, bits)


def range_question(smallest: float, largest: float, bits: int) -> tuple[ImageWarning, ...]:
    """A question about a picture of more than 8 bits whose values, in [0, 1], span less than half of that range."""
    if bits <= _USUAL_BITS or smallest == largest or (largest - smallest) * 2 >= 1:
        return ()
    used = math.ceil(math.log2(largest * ((1 << bits) - 1) + 1))
    if used < bits:
        text = (
            f"the file has {bits} bits a pixel, and the picture uses {used} of them: if it was made with {used}, it is "
            f"read {1 << (bits - used)} times too dark; look at it, and export it as DICOM or stretched to all {bits}"
        )
        return (ImageWarning(FEWER_BITS, text, needs_confirmation=True),)
    text = (
        f"the picture uses {(largest - smallest) * 100:.0f} % of the range between black and white: look at it, and "
        "export it as DICOM or stretched to the whole range if it is too flat"
    )
    return (ImageWarning(LITTLE_RANGE, text, needs_confirmation=True),)


def _fractions(values: NDArray[np.integer], low: int, span: int) -> NDArray[np.float32]:
    fractions = values.astype(np.float32)
    if low:
        fractions -= np.float32(low)
    fractions /= np.float32(span)
    return fractions
