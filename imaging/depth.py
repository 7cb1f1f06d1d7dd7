"""Whole numbers of so many bits -> [0, 1], as the format says; and a question where a picture seems to be of fewer.

Pictures of 10, 12 or 14 bits are often written into files of 16 as they are. Such a picture is read 64, 16 or 4 times
too dark (where white is zero, too bright), and nothing in it tells it from a dark one: a person must look.
"""

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
    signed = np.issubdtype(values.dtype, np.signedinteger)
    if told_bits is not None and 0 < told_bits < bits and not signed:
        if int(values.max()) < 1 << told_bits:
            text = f"the file says that {told_bits} of its {bits} bits count, and the picture was read so"
            return _fractions(values, 0, (1 << told_bits) - 1), (ImageWarning(FEWER_BITS, text),)
        unused = bits - told_bits
        if not np.bitwise_and(values, (1 << unused) - 1).any():
            return _fractions(values, 0, ((1 << told_bits) - 1) << unused), ()
    fractions = _fractions(values, -(1 << (bits - 1)) if signed else 0, (1 << bits) - 1)
    return fractions, range_question(fractions, bits, signed=signed)


def range_question(fractions: NDArray[np.float32], bits: int, *, signed: bool = False) -> tuple[ImageWarning, ...]:
    """A question about a picture whose values, in [0, 1], span less than half of that range, though it has the bits.

    Not about pictures of 8 bits, which have none to spare, unless they are signed: few programs mean that.
    """
    if bits <= _USUAL_BITS and not signed:
        return ()
    smallest, largest = float(fractions.min()), float(fractions.max())
    if smallest == largest or (largest - smallest) * 2 >= 1:
        return ()
    used = round(largest * ((1 << bits) - 1)).bit_length()
    if used < bits and not signed:
        text = (
            f"the file has {bits} bits a pixel, and the picture uses {used} of them: if it was made with {used}, its "
            f"contrast is read {1 << (bits - used)} times too small; look at it, and export it as DICOM or stretched "
            f"to all {bits}"
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
