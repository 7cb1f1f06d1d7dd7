"""A PNG or JPEG file of each kind, drawn here, with the right picture. docs/images.md lists them."""

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.imaging.drawn import COLUMNS, ROWS, Kind, grey, part, smooth
from tests.imaging.samples import png_bytes, png_file


def lines_of(values: NDArray[Any], bits: int) -> list[bytes]:
    """Packed lines of a PNG."""
    if bits == 16:
        return [line.tobytes() for line in values.astype(">u2")]
    steps = np.unpackbits(values.astype(np.uint8)[..., np.newaxis], axis=-1)[..., 8 - bits :]
    return [np.packbits(line).tobytes() for line in steps.reshape(len(values), -1)]


def png(values: NDArray[Any], bits: int, *, colour: int = 0, **chunks: bytes) -> Callable[[], bytes]:
    lines = lines_of(values, bits)
    return lambda: png_file(lines, columns=COLUMNS, rows=ROWS, bits=bits, colour=colour, chunks=chunks)


def interlaced() -> bytes:
    """Adam7, as PNG 8.2 defines its passes."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = [line for row, column, down, across in passes for line in lines_of(grey(16)[row::down, column::across], 16)]
    return png_file(lines, columns=COLUMNS, rows=ROWS, bits=16, colour=0, interlaced=True)


def animated() -> bytes:
    target = io.BytesIO()
    Image.new("L", (8, 8)).save(target, "PNG", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    return target.getvalue()


def changed_on_its_way() -> bytes:
    content = bytearray(png_bytes(grey(8).astype(np.uint8)))
    content[content.index(b"IDAT") + 20] ^= 1
    return bytes(content)


def deep_png(*, colours: int, opaque: bool = False) -> bytes:
    """16 bits: the same value in each colour, and transparency that hides nothing behind it."""
    samples = np.stack([grey(16)] * colours + [np.full((ROWS, COLUMNS), 65535)] * opaque, axis=-1)
    lines = [line.astype(">u2").tobytes() for line in samples]
    kind = (4 if opaque else 0) + (2 if colours == 3 else 0)
    return png_file(lines, columns=COLUMNS, rows=ROWS, bits=16, colour=kind)


EXIF_TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x05\0\0\0\0\0\0\0"
"""Orientation 5: to be mirrored and turned."""

PNGS: dict[str, Kind] = {
    **{
        f"grey, {bits} bit{'s' * (bits > 1)}": Kind(make=png(grey(bits), bits), right=part(grey(bits), bits))
        for bits in (1, 2, 4, 8, 16)
    },
    "interlaced": Kind(make=interlaced, right=part(grey(16), 16)),
    "12 bits in 16": Kind(make=png(grey(12), 16), right=part(grey(12), 16)),
    "10 bits in 16": Kind(make=png(grey(10), 16), right=part(grey(10), 16)),
    "14 bits in 16": Kind(make=png(grey(14), 16), right=part(grey(14), 16)),
    "12 bits in 16, sBIT 12, in the high bits": Kind(
        make=png(grey(12) << 4, 16, sBIT=b"\x0c"), right=part(grey(12), 12)
    ),
    "12 bits in 16, sBIT 12, scaled by repeating": Kind(
        make=png(grey(12) << 4 | grey(12) >> 8, 16, sBIT=b"\x0c"), right=part(grey(12), 12), tolerance=1 / 65535
    ),
    "12 bits in 16, sBIT 12, in the low bits": Kind(make=png(grey(12), 16, sBIT=b"\x0c"), right=part(grey(12), 12)),
    "5 bits in 8, sBIT 5": Kind(make=png(grey(5) << 3, 8, sBIT=b"\x05"), right=part(grey(5), 5)),
    "12 bits in colours of 16 that are grey": Kind(
        make=png(np.repeat(grey(12), 3, axis=1), 16, colour=2), right=part(grey(12), 16), tolerance=1 / 255
    ),
    "gamma of 1/2.2": Kind(make=png(grey(8), 8, gAMA=(45455).to_bytes(4, "big")), right=part(grey(8), 8)),
    "one grey value is transparent": Kind(make=png(grey(8), 8, tRNS=b"\0\0"), right=part(grey(8), 8)),
    "turned and mirrored by EXIF": Kind(make=png(grey(8), 8, eXIf=EXIF_TURNED), right=part(grey(8), 8).T),
    "animated": Kind(make=animated),
    "cut short": Kind(make=lambda: png_bytes(grey(8).astype(np.uint8))[:-99]),
    "changed on its way": Kind(make=changed_on_its_way),
    "colours of 16 bits that are the same": Kind(make=lambda: deep_png(colours=3), right=part(grey(16), 16)),
    "grey of 16 bits with transparency": Kind(make=lambda: deep_png(colours=1, opaque=True), right=part(grey(16), 16)),
}


def jpeg(image: Image.Image, **options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        target = io.BytesIO()
        image.save(target, "JPEG", **({"quality": 95} | options))
        return target.getvalue()

    return make


def several_pictures() -> bytes:
    target = io.BytesIO()
    small = Image.fromarray(smooth()[::2, ::2])
    Image.fromarray(smooth()).save(target, "MPO", quality=95, save_all=True, append_images=[small])
    return target.getvalue()


SMOOTH = Image.fromarray(smooth())
JPEGS: dict[str, Kind] = {
    "grey": Kind(make=jpeg(SMOOTH), right=part(smooth(), 8), tolerance=0.03),
    "progressive, colours that are grey": Kind(
        make=jpeg(SMOOTH.convert("RGB"), progressive=True), right=part(smooth(), 8), tolerance=0.03
    ),
    "12 bits": Kind(
        make=lambda: bytes(imagecodecs.jpeg8_encode(smooth().astype(np.uint16) * 16, level=98, bitspersample=12)),
        right=part(smooth().astype(int) * 16, 12),
        tolerance=0.003,
    ),
    "turned and mirrored by EXIF": Kind(
        make=jpeg(SMOOTH, exif=b"Exif\0\0" + EXIF_TURNED), right=part(smooth(), 8).T, tolerance=0.03
    ),
    "several pictures (MPO)": Kind(make=several_pictures, right=part(smooth(), 8), tolerance=0.03),
    "printing colours (CMYK)": Kind(make=jpeg(SMOOTH.convert("CMYK"))),
    "lossless": Kind(make=lambda: bytes(imagecodecs.ljpeg_encode(grey(12), bitspersample=12))),
    "cut short": Kind(make=lambda: jpeg(SMOOTH)()[:-99]),
}
