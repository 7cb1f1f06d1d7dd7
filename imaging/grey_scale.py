"""Decoded samples -> grey in [0, 1]: by their bits, by a window or their own range, out of colours; and upright.

Pictures of 10, 12 or 14 bits are often written into files of 16 as they are. Such a picture is read 64, 16 or 4 times
too dark (if white is zero, too bright), and nothing in it tells it from a dark one: a person must look.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.errors import ImageError
from contract.model_card import ColourChoice, Window
from imaging.formats import ImageWarning, ImageWarnings

LARGEST: Final = 1e30
"""Of a value, either way: leaves room for differences of two in float32."""


def stretch(values: NDArray[np.float32], window: Window | None) -> NDArray[np.float32]:
    """Values of a file that names no window -> [0, 1]: by the card's, else from the smallest value to the largest."""
    if window is None:
        return stretch_to_range(values)[0]
    return apply_window(values, center=window.center, width=window.width, function="LINEAR_EXACT")


def apply_window(values: NDArray[np.float32], *, center: float, width: float, function: str) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output range of 0 to 1. `function`: LINEAR, LINEAR_EXACT or SIGMOID."""
    with np.errstate(all="ignore"):
        if function == "SIGMOID":
            curve: NDArray[np.float32] = 1 / (1 + np.exp(np.float32(-4 / width) * (values - np.float32(center))))
            return curve
        if function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:  # LINEAR with a width of 1: a threshold
            return (values > np.float32(center)).astype(np.float32)
        shown: NDArray[np.float32] = (values - np.float32(center - width / 2)) / np.float32(width)
    return np.clip(np.nan_to_num(shown), 0, 1, out=shown)


def stretch_to_range(
    values: NDArray[np.float32], counted: NDArray[np.bool] | None = None
) -> tuple[NDArray[np.float32], float, float]:
    """Values -> [0, 1] from the smallest to the largest of those that are `counted` (None: all), and these two.

    What lies outside takes the nearest end.
    """
    within = values if counted is None else values[counted]
    smallest, largest = within.min(), within.max()
    if smallest == largest:
        return (values > largest).astype(np.float32), float(smallest), float(largest)
    shown: NDArray[np.float32] = (values - smallest) / (largest - smallest)
    return np.clip(shown, 0, 1, out=shown), float(smallest), float(largest)


CHANNEL_TOLERANCE = 8
"""Largest difference between red, green and blue, of 255, that is still grey: the rounding of a JPEG's colours."""


def make_grey(colours: NDArray[np.uint8], choice: ColourChoice) -> tuple[NDArray[np.float32], ImageWarnings]:
    """(rows, columns, 3), 8 bits -> float32 (rows, columns) in [0, 1]. Raises ImageError for colours not asked for."""
    values, warnings = read_brightness(colours, choice)
    return values.astype(np.float32) / np.float32(255), warnings


def find_common_channel(colours: NDArray[np.uint16]) -> NDArray[np.uint16] | None:
    """The values of a picture, (rows, columns, 3), whose three colours are the same; None if they are not."""
    first = colours[..., 0]
    return first if all(np.array_equal(first, colours[..., other]) for other in (1, 2)) else None


def read_brightness(colours: NDArray[np.uint8], choice: ColourChoice) -> tuple[NDArray[np.uint8], ImageWarnings]:
    """The same in 8 bits."""
    grey = all(_alike(colours[..., first], colours[..., second]) for first, second in ((0, 1), (1, 2), (2, 0)))
    if not grey and choice is ColourChoice.REFUSE:
        raise ImageError("this is a colour picture, not a grey radiograph: export the radiograph itself in grey")
    values = np.asarray(Image.fromarray(colours).convert("L"))
    return values, () if grey else (ImageWarning("colour", "the picture is in colours; only its brightness is read"),)


def _alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    difference = np.maximum(first, second) - np.minimum(first, second)
    return int(difference.max()) <= CHANNEL_TOLERANCE


FEWER_BITS: Final = "fewer-bits"
LITTLE_RANGE: Final = "little-range"
"""Codes of warnings."""

_USUAL_BITS = 8
"""Up to here a file has no bits to spare."""


def scale(
    values: NDArray[np.integer], bits: int, *, significant_bits: int | None = None
) -> tuple[NDArray[np.float32], ImageWarnings]:
    """Samples of `bits`, signed or not -> float32 in [0, 1], from the smallest to the largest that they could hold.

    `significant_bits`: how many of them count, if the file says so beside. They are the low bits if all values fit into
    them, which is said, and else the high ones, with nothing below.
    """
    signed = np.issubdtype(values.dtype, np.signedinteger)
    if significant_bits is not None and 0 < significant_bits < bits and not signed:
        if int(values.max()) < 1 << significant_bits:
            text = f"the file says that {significant_bits} of its {bits} bits count, and the picture was read so"
            return _scale_span(values, 0, (1 << significant_bits) - 1), (ImageWarning(FEWER_BITS, text),)
        unused = bits - significant_bits
        if not np.bitwise_and(values, (1 << unused) - 1).any():
            return _scale_span(values, 0, ((1 << significant_bits) - 1) << unused), ()
    fractions = _scale_span(values, -(1 << (bits - 1)) if signed else 0, (1 << bits) - 1)
    return fractions, question_range(fractions, bits, signed=signed)


def question_range(fractions: NDArray[np.float32], bits: int, *, signed: bool = False) -> ImageWarnings:
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


def _scale_span(values: NDArray[np.integer], low: int, span: int) -> NDArray[np.float32]:
    fractions = values.astype(np.float32)
    if low:
        fractions -= np.float32(low)
    fractions /= np.float32(span)
    return fractions


_TRANSPOSED, _ROWS_BACKWARDS, _COLUMNS_BACKWARDS = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
"""By the value of the tag, in the order in which they are done."""


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(rows, columns, ...) as they are to be seen; unchanged for 1 and for what the standard does not know."""
    if orientation in _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _ROWS_BACKWARDS:
        pixels = pixels[::-1]
    if orientation in _COLUMNS_BACKWARDS:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
