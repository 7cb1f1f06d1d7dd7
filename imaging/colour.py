"""Pictures in colours as grey: where all their colours are grey, or where the card asks for their brightness."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.errors import ImageError
from contract.model_card import ColourChoice
from imaging.formats import ImageWarning

CHANNEL_TOLERANCE = 8
"""Largest difference between red, green and blue, of 255, that is still grey: the rounding of a JPEG's colours."""


def grey_of_colours(
    colours: NDArray[np.uint8], choice: ColourChoice
) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...]]:
    """(rows, columns, 3), 8 bits -> float32 (rows, columns) in [0, 1]. Raises ImageError for colours not asked for."""
    values, warnings = brightness(colours, choice)
    return values.astype(np.float32) / np.float32(255), warnings


def same_in_all_colours(colours: NDArray[np.uint16]) -> NDArray[np.uint16] | None:
    """The values of a picture, (rows, columns, 3), whose three colours are the same; None where they are not."""
    first = colours[..., 0]
    return first if all(np.array_equal(first, colours[..., other]) for other in (1, 2)) else None


def brightness(colours: NDArray[np.uint8], choice: ColourChoice) -> tuple[NDArray[np.uint8], tuple[ImageWarning, ...]]:
    """The same in 8 bits."""
    grey = all(_alike(colours[..., first], colours[..., second]) for first, second in ((0, 1), (1, 2), (2, 0)))
    if not grey and choice is ColourChoice.REFUSE:
        raise ImageError("this is a colour picture, not a grey radiograph: export the radiograph itself in grey")
    values = np.asarray(Image.fromarray(colours).convert("L"))
    return values, () if grey else (ImageWarning("colour", "the picture is in colours; only its brightness is read"),)


def _alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    difference = np.maximum(first, second) - np.minimum(first, second)
    return int(difference.max()) <= CHANNEL_TOLERANCE
