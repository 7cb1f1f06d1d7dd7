"""EXIF's and TIFF's tag Orientation: how a stored picture is turned and mirrored to stand upright."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TRANSPOSED, _ROWS_BACKWARDS, _COLUMNS_BACKWARDS = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
"""By the value of the tag, in the order in which they are done."""


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(rows, columns, ...) as they are to be seen; unchanged for 1 and for what the standard does not know."""
    if orientation in _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _ROWS_BACKWARDS:
        pixels = pixels[::-1]
    if orientation in _COLUMNS_BACKWARDS:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
