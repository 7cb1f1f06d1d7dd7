"""PNG and JPEG files: through Pillow, but for JPEG of 12 bits, which it does not read.

Neither format says what its black and white stand for. PNG's gamma (gAMA, sRGB, cHRM) is left alone: it tells how a
screen is to glow, while models are trained on the numbers of the file, and it stands in copies of the same radiograph
or does not, by chance of the program that wrote them.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from contract.errors import ImageError
from contract.model_card import ColourChoice, InputSpecification
from imaging.codestream import has_end
from imaging.colour import grey_of_colours, same_in_all_colours
from imaging.depth import range_question, scaled
from imaging.exif_orientation import upright
from imaging.formats import DecodedFile, ImageWarning, Limits, PolarityToldBy, third_party_reader
from imaging.jpeg_header import JpegHeader, check_passes, read_jpeg_header
from imaging.png_header import PngHeader, png_fault, read_png_header

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
_TRANSPARENCY = ImageWarning("transparency", "the image has transparent parts; transparency was ignored")
_MOST_PADDING = 1024
_ORIENTATION = 0x0112
_SEVERAL = "the file holds several images: export the one to diagnose as a file of its own"


def read_png(source: io.BytesIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode a PNG to [0, 1] by its bits a sample, or by those that its sBIT chunk counts; turned as its EXIF says.

    Raises ImageError for a damaged, huge or animated image, and for colours that the card does not ask for; size is
    checked before pixels are decoded.
    """
    with third_party_reader("the image", lambda: png_fault(source.getvalue())):
        data = source.getvalue()
        header = read_png_header(data)
        image = _opened(data, "PNG", limits)
        if int(getattr(image, "n_frames", 1)) != 1:
            raise ImageError(_SEVERAL)
        encoding = _KINDS.get(image.mode, image.mode)
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        ImageOps.exif_transpose(image, in_place=True)
        image.load()  # Pillow refuses damage that the decoder of 16 bits forgives
        if header.bits == 16 and image.mode not in _GREY_16_BIT_MODES and (deep := _of_16_bits(data)) is not None:
            pixels, warnings = scaled(upright(deep, orientation), 16, told_bits=header.significant_bits)
        else:
            pixels, warnings = _grey(image, header, specification.colour)
        if _is_see_through(image):
            warnings = (*warnings, _TRANSPARENCY)
        return DecodedFile(pixels=pixels, encoding=encoding, polarity=PolarityToldBy.NOBODY, warnings=warnings)


def read_jpeg(source: io.BytesIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode a JPEG of 8 or 12 bits to [0, 1], turned as its EXIF says; of a file with several, the one viewers show.

    Raises ImageError as `read_png` does, and for kinds of JPEG that no decoder here reads.
    """
    with third_party_reader("the image", lambda: None if _has_end(source.getvalue()) else "is cut short"):
        data = source.getvalue()
        header = read_jpeg_header(data)
        if header is not None:
            _check_jpeg(header, limits)
            check_passes(data, rows=header.rows, columns=header.columns, limits=limits)
            if header.bits == 12:
                return _read_12_bits(data, header, specification)
        image = _opened(data, "JPEG", limits)
        encoding = _KINDS.get(image.mode, image.mode)
        ImageOps.exif_transpose(image, in_place=True)
        pixels, warnings = _grey(image, PngHeader(bits=8), specification.colour)
        warnings = (*warnings, *_others(image))
        return DecodedFile(pixels=pixels, encoding=encoding, polarity=PolarityToldBy.NOBODY, warnings=warnings)


def _of_16_bits(data: bytes) -> NDArray[np.uint16] | None:
    """Grey values of a PNG of 16 bits in colours or with transparency, which Pillow cuts to 8; None of real colours."""
    import imagecodecs  # with tens of decoders, of which few files need any

    samples = np.asarray(imagecodecs.png_decode(data))
    if samples.dtype != np.uint16 or samples.ndim != 3:
        return None
    return samples[..., 0] if samples.shape[2] == 2 else same_in_all_colours(samples)


def _check_jpeg(header: JpegHeader, limits: Limits) -> None:
    limits.check_size(rows=header.rows, columns=header.columns)
    if header.obstacle is not None:
        raise ImageError(f"{header.obstacle} cannot be decoded here: export the picture as PNG or as ordinary JPEG")


def _read_12_bits(data: bytes, header: JpegHeader, specification: InputSpecification) -> DecodedFile:
    import imagecodecs  # with tens of decoders, of which this is the one that Pillow lacks

    if not _has_end(data):
        raise ImageError("the image is cut short: export or copy the file again")
    if header.components not in (1, 3):
        raise ImageError(f"JPEG of 12 bits with {header.components} values a pixel is not read: export a grey picture")
    exif = Image.Exif()
    exif.load(header.exif)
    samples = upright(imagecodecs.jpeg8_decode(data), int(exif.get(_ORIENTATION, 1)))
    if header.components == 3:
        pixels, warnings = grey_of_colours((samples >> 4).astype(np.uint8), specification.colour)
        warnings = (*warnings, *range_question(pixels, header.bits))
    else:
        pixels, warnings = scaled(samples, 12)
    encoding = f"{'grey' if header.components == 1 else 'colour'}, 12 bits"
    return DecodedFile(pixels=pixels, encoding=encoding, polarity=PolarityToldBy.NOBODY, warnings=warnings)


def _has_end(jpeg: bytes) -> bool:
    return has_end(jpeg, padding=_MOST_PADDING)


def _opened(data: bytes, file_format: str, limits: Limits) -> Image.Image:
    """Only the header is read. Raises ImageError for what has too many pixels."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=[file_format])
    except Image.DecompressionBombError:
        raise ImageError(
            f"the image has more than the limit of {limits.max_pixels / 1e6:.0f} million pixels: export it smaller"
        ) from None
    limits.check_size(rows=image.height, columns=image.width)
    return image


def _others(image: Image.Image) -> tuple[ImageWarning, ...]:
    """Cameras put previews and brightness maps behind a JPEG's picture; viewers show the first."""
    frames = int(getattr(image, "n_frames", 1))
    if frames == 1:
        return ()
    return (
        ImageWarning("several-pictures", f"the file holds {frames} pictures; the first, which viewers show, was read"),
    )


def _grey(
    image: Image.Image, header: PngHeader, choice: ColourChoice
) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...]]:
    """The grey values of an image, and what the user should know of them."""
    if image.mode in _GREY_16_BIT_MODES:
        return scaled(np.asarray(image).astype(np.uint16), 16, told_bits=header.significant_bits)
    if image.mode in ("1", "L"):
        told = header.significant_bits if header.bits == 8 else None
        return scaled(np.asarray(image if image.mode == "L" else image.convert("L")), 8, told_bits=told)
    if image.mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        name = {"CMYK": "printing colours (CMYK)"}.get(image.mode, f"colour mode {image.mode}")
        raise ImageError(f"images in {name} are not read: export a grey image")
    pixels, warnings = grey_of_colours(np.asarray(image.convert("RGB")), choice)
    return pixels, (*warnings, *range_question(pixels, header.bits))


def _is_see_through(image: Image.Image) -> bool:
    key = image.info.get("transparency")
    if image.mode in ("1", "L", *_GREY_16_BIT_MODES):  # one grey value that stands for nothing
        return isinstance(key, int) and bool((np.asarray(image) == key).any())
    return image.has_transparency_data and int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255
