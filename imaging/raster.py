"""PNG and JPEG files: through Pillow, except JPEG of 12 bits, which it does not read.

Neither format says what its black and white stand for. PNG's gamma (gAMA, sRGB, cHRM) is ignored: it tells how a
screen is to glow, while models are trained on the numbers of the file, and whether a copy of a radiograph holds it
depends on the program that wrote the copy.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from contract.errors import ImageError
from contract.model_card import ColourChoice, InputSpecification
from imaging.codestream import JpegHeader, check_passes, has_end, read_jpeg_header
from imaging.formats import DecodedFile, ImageWarning, ImageWarnings, Limits, PolaritySource, guard_library
from imaging.grey_scale import find_common_channel, make_grey, question_range, scale, turn_upright

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


_SIGNATURE_BYTES = 8
_MOST_CHUNKS = 1000
_MOST_CHUNKS_OF_A_FAULTY_FILE = 1_000_000
_CUT = "is cut short"
_GREY_TYPES = (0, 4)


@dataclass(frozen=True, kw_only=True)
class PngHeader:
    """Of chunks IHDR and sBIT (PNG 11.2.2 and 11.3.2.7)."""

    bits: int
    """Of each sample."""
    significant_bits: int | None = None
    """How many of a grey sample count; None if the file does not say, or has colours."""


def read_png_header(data: bytes) -> PngHeader:
    """Walk the chunks before the pixels. Damaged ones tell nothing: decoding will refuse them."""
    bits, grey, significant = 8, False, None
    for name, content, _ in islice(_walk_chunks(data), _MOST_CHUNKS):
        if name == b"IHDR" and len(content) >= 13:
            bits, grey = content[8], content[9] in _GREY_TYPES
        if name == b"sBIT" and grey and len(content):
            significant = content[0]
        if name == b"IDAT":
            break
    return PngHeader(bits=bits, significant_bits=significant)


def find_png_fault(data: bytes) -> str | None:
    """What is wrong with a file that could not be decoded, to follow "the image"; None if its chunks are whole."""
    name = b""
    for name, content, checksum in islice(_walk_chunks(data), _MOST_CHUNKS_OF_A_FAULTY_FILE):
        if len(checksum) < 4:
            return _CUT
        if zlib.crc32(content, zlib.crc32(name)) != int.from_bytes(checksum):
            return "was changed on its way: a checksum in it is wrong"
    return None if name == b"IEND" else _CUT


def _walk_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """Name, content and checksum of each chunk; the last may be cut short."""
    at, whole = _SIGNATURE_BYTES, memoryview(data)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], whole[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        at += 12 + length


def read_png(source: io.BytesIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode a PNG to [0, 1] by its bits a sample, or by those that its sBIT chunk counts; turned as its EXIF says.

    Raises ImageError for a damaged, huge or animated image, and for colours that the card does not ask for; size is
    checked before pixels are decoded.
    """
    with guard_library("the image", lambda: find_png_fault(source.getvalue())):
        data = source.getvalue()
        header = read_png_header(data)
        image = _open(data, "PNG", limits)
        if int(getattr(image, "n_frames", 1)) != 1:
            raise ImageError(_SEVERAL)
        encoding = _KINDS.get(image.mode, image.mode)
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        ImageOps.exif_transpose(image, in_place=True)
        image.load()  # Pillow refuses damage that the decoder of 16 bits forgives
        if header.bits == 16 and image.mode not in _GREY_16_BIT_MODES and (deep := _decode_16_bits(data)) is not None:
            pixels, warnings = scale(turn_upright(deep, orientation), 16, significant_bits=header.significant_bits)
        else:
            pixels, warnings = _read_grey(image, header, specification.colour)
        if _is_see_through(image):
            warnings = (*warnings, _TRANSPARENCY)
        return DecodedFile(pixels=pixels, encoding=encoding, polarity=PolaritySource.NOBODY, warnings=warnings)


def read_jpeg(source: io.BytesIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode a JPEG of 8 or 12 bits to [0, 1], turned as its EXIF says; of a file with several, the one viewers show.

    Raises ImageError as `read_png` does, and for kinds of JPEG that no decoder here reads.
    """
    with guard_library("the image", lambda: None if has_end(source.getvalue(), padding=_MOST_PADDING) else _CUT):
        data = source.getvalue()
        header = read_jpeg_header(data)
        if header is not None:
            limits.check_size(rows=header.rows, columns=header.columns)
            if header.obstacle is not None:
                advice = "export the picture as PNG or as ordinary JPEG"
                raise ImageError(f"{header.obstacle} cannot be decoded here: {advice}")
            check_passes(data, rows=header.rows, columns=header.columns, limits=limits)
            if header.bits == 12:
                return _read_12_bits(data, header, specification)
        image = _open(data, "JPEG", limits)
        encoding = _KINDS.get(image.mode, image.mode)
        ImageOps.exif_transpose(image, in_place=True)
        pixels, warnings = _read_grey(image, PngHeader(bits=8), specification.colour)
        warnings = (*warnings, *_report_others(image))
        return DecodedFile(pixels=pixels, encoding=encoding, polarity=PolaritySource.NOBODY, warnings=warnings)


def _decode_16_bits(data: bytes) -> NDArray[np.uint16] | None:
    """Grey values of a PNG of 16 bits in colours or with transparency, which Pillow cuts to 8; None of real colours."""
    import imagecodecs  # with tens of decoders; few files need any

    samples = np.asarray(imagecodecs.png_decode(data))
    if samples.dtype != np.uint16 or samples.ndim != 3:
        return None
    return samples[..., 0] if samples.shape[2] == 2 else find_common_channel(samples)


def _read_12_bits(data: bytes, header: JpegHeader, specification: InputSpecification) -> DecodedFile:
    import imagecodecs  # with tens of decoders; this is the one that Pillow lacks

    if not has_end(data, padding=_MOST_PADDING):
        raise ImageError("the image is cut short: export or copy the file again")
    if header.components not in (1, 3):
        raise ImageError(f"JPEG of 12 bits with {header.components} values a pixel is not read: export a grey picture")
    exif = Image.Exif()
    exif.load(header.exif)
    samples = turn_upright(imagecodecs.jpeg8_decode(data), int(exif.get(_ORIENTATION, 1)))
    if header.components == 3:
        pixels, warnings = make_grey((samples >> 4).astype(np.uint8), specification.colour)
        warnings = (*warnings, *question_range(pixels, header.bits))
    else:
        pixels, warnings = scale(samples, 12)
    encoding = f"{'grey' if header.components == 1 else 'colour'}, 12 bits"
    return DecodedFile(pixels=pixels, encoding=encoding, polarity=PolaritySource.NOBODY, warnings=warnings)


def _open(data: bytes, file_format: str, limits: Limits) -> Image.Image:
    """Only the header is read. Raises ImageError for what has too many pixels."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=[file_format])
    except Image.DecompressionBombError:
        raise ImageError(
            f"the image has more than the limit of {limits.max_pixels / 1e6:.0f} million pixels: export it smaller"
        ) from None
    limits.check_size(rows=image.height, columns=image.width)
    return image


def _report_others(image: Image.Image) -> ImageWarnings:
    """Cameras put previews and brightness maps behind a JPEG's picture; viewers show the first."""
    frames = int(getattr(image, "n_frames", 1))
    if frames == 1:
        return ()
    return (
        ImageWarning("several-pictures", f"the file holds {frames} pictures; the first, which viewers show, was read"),
    )


def _read_grey(
    image: Image.Image, header: PngHeader, choice: ColourChoice
) -> tuple[NDArray[np.float32], ImageWarnings]:
    """The grey values of an image, and what the user should know of them."""
    if image.mode in _GREY_16_BIT_MODES:
        return scale(np.asarray(image).astype(np.uint16), 16, significant_bits=header.significant_bits)
    if image.mode in ("1", "L"):
        counted = header.significant_bits if header.bits == 8 else None
        return scale(np.asarray(image if image.mode == "L" else image.convert("L")), 8, significant_bits=counted)
    if image.mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        name = {"CMYK": "printing colours (CMYK)"}.get(image.mode, f"colour mode {image.mode}")
        raise ImageError(f"images in {name} are not read: export a grey image")
    pixels, warnings = make_grey(np.asarray(image.convert("RGB")), choice)
    return pixels, (*warnings, *question_range(pixels, header.bits))


def _is_see_through(image: Image.Image) -> bool:
    key = image.info.get("transparency")
    if image.mode in ("1", "L", *_GREY_16_BIT_MODES):  # one grey value that stands for nothing
        return isinstance(key, int) and bool((np.asarray(image) == key).any())
    return image.has_transparency_data and int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255
