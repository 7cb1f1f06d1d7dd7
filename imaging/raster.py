"""PNG, JPEG and TIFF files through Pillow."""

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from contract.errors import ImageError
from contract.model_card import ColourChoice, InputSpecification
from imaging.colour import grey_of_colours
from imaging.formats import DecodedFile, ImageWarning, Limits, PolarityToldBy, chosen_frame, third_party_reader

_GREY_16_BIT_MODES = ("I;16", "I;16L", "I;16B", "I")
_KINDS = {
    "1": "black and white",
    "L": "grey, 8 bits",
    "LA": "grey with transparency, 8 bits",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "colour, 8 bits",
    "RGBA": "colour with transparency, 8 bits",
} | dict.fromkeys(_GREY_16_BIT_MODES, "grey, 16 bits")
"""What Pillow's modes are called."""


def read_raster(source: BinaryIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode a PNG, JPEG or TIFF to [0, 1]: 8 bits / 255, 16 bits / 65535; an EXIF rotation is applied.

    Raises ImageError for a damaged, huge or animated image, and for colours or pages that the card does not ask for;
    size is checked before pixels are decoded.
    """
    with third_party_reader("the image"):
        try:
            image: Image.Image = Image.open(source, formats=["PNG", "JPEG", "TIFF"])
        except Image.DecompressionBombError:
            raise ImageError(
                f"the image has more than the limit of {limits.max_pixels / 1e6:.0f} million pixels: export it smaller"
            ) from None
        frames = int(getattr(image, "n_frames", 1))
        if frames != 1 and image.format != "TIFF":
            raise ImageError("the file holds several images: export the one to diagnose as a file of its own")
        frame = chosen_frame(specification.frame, frames)
        image.seek(frame)
        limits.check_size(rows=image.height, columns=image.width)
        encoding = f"{image.format}, {_KINDS.get(image.mode, image.mode)}"
        told_by = PolarityToldBy.FILE if image.format == "TIFF" else PolarityToldBy.NOBODY
        image.load()
        image = ImageOps.exif_transpose(image)
        pixels, warnings = _grey(image, specification.colour)
        return DecodedFile(
            pixels=pixels, encoding=encoding, frames=frames, frame=frame + 1, polarity=told_by, warnings=warnings
        )


def _unsigned_16_bit(image: Image.Image) -> NDArray[np.generic]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("the image holds values outside 16 bits: export 8 or 16 bits")
    return values


def _grey(image: Image.Image, choice: ColourChoice) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...]]:
    """The grey values of an image, and what the user should know of its colours."""
    if image.mode in _GREY_16_BIT_MODES:
        return _scaled(_unsigned_16_bit(image), 65535), ()
    if image.mode in ("1", "L"):
        return _scaled(np.asarray(image.convert("L")), 255), ()
    if image.mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(f"images of colour mode {image.mode} are not read: export a grey image")
    see_through = image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255
    pixels, warnings = grey_of_colours(np.asarray(image.convert("RGB")), choice)
    note = ImageWarning("transparency", "the image has transparent parts; transparency was ignored")
    return pixels, (*warnings, note) if see_through else warnings


def _scaled(values: NDArray[np.generic], largest: int) -> NDArray[np.float32]:
    return values.astype(np.float32) / np.float32(largest)
