"""Grey PNG and JPEG files through Pillow."""

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from contract.errors import ImageError
from imaging.formats import DecodedFile, ImageWarning, Limits, third_party_reader

CHANNEL_TOLERANCE = 8
"""Largest difference between red, green and blue, of 255, that is still grey: the rounding of a JPEG's colours."""

_GREY_16_BIT_MODES = ("I;16", "I;16L", "I;16B", "I")


def read_raster(source: BinaryIO, limits: Limits) -> DecodedFile:
    """Decode a PNG or JPEG to [0, 1]: 8 bits / 255, 16 bits / 65535; an EXIF rotation is applied.

    Raises ImageError for a damaged, huge, animated or coloured image; size is checked before pixels are decoded.
    """
    with third_party_reader("the image"):
        try:
            image: Image.Image = Image.open(source, formats=["PNG", "JPEG"])
        except Image.DecompressionBombError:
            raise ImageError(
                f"the image has more than the limit of {limits.max_pixels / 1e6:.0f} million pixels: export it smaller"
            ) from None
        limits.check_size(rows=image.height, columns=image.width)
        if getattr(image, "n_frames", 1) != 1:
            raise ImageError("the file holds several images: export the one to diagnose as a file of its own")
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in _GREY_16_BIT_MODES:
            return DecodedFile(pixels=_scaled(np.asarray(image), 65535))
        grey, warnings = _grey_8_bit(image)
        return DecodedFile(pixels=_scaled(np.asarray(grey), 255), warnings=warnings)


def _grey_8_bit(image: Image.Image) -> tuple[Image.Image, tuple[ImageWarning, ...]]:
    """The grey channel (mode L) of any 8-bit image whose colours are all grey."""
    if image.mode in ("1", "L"):
        return image.convert("L"), ()
    if image.mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(f"images of colour mode {image.mode} are not read: export a grey image")
    see_through = image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255
    colours = image.convert("RGB")
    red, green, blue = colours.split()
    for first, second in ((red, green), (green, blue), (blue, red)):
        difference = np.asarray(ImageChops.difference(first, second))
        if difference.max() > CHANNEL_TOLERANCE:
            raise ImageError("this is a colour picture, not a grey radiograph: export the radiograph itself in grey")
    note = ImageWarning("transparency", "the image has transparent parts; transparency was ignored")
    return colours.convert("L"), (note,) if see_through else ()


def _scaled(values: NDArray[np.generic], largest: int) -> NDArray[np.float32]:
    return values.astype(np.float32) / np.float32(largest)
