"""A TIFF file of each kind, drawn here, with the right picture. docs/images.md lists them."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.imaging.drawn import COLUMNS, FIRST, MIDDLE, ROWS, Kind, grey, part, smooth


def tiff(values: NDArray[Any], **options: Any) -> Callable[[], bytes]:
    """As tifffile writes it."""

    def make() -> bytes:
        target = io.BytesIO()
        tifffile.imwrite(target, values, **({"photometric": "minisblack", "metadata": None} | options))
        return target.getvalue()

    return make


def with_tags(values: NDArray[Any], tags: dict[int, int], **options: Any) -> Callable[[], bytes]:
    """With further tags of 16 bits."""
    return tiff(values, extratags=[(tag, "H", 1, value, True) for tag, value in tags.items()], **options)


def retagged(make: Callable[[], bytes], tag: int, value: int) -> Callable[[], bytes]:
    """With another value of a tag that stands in the directory itself: what no writer at hand would write."""

    def change() -> bytes:
        content = bytearray(make())
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            at = file.pages.first.tags[tag].valueoffset
        content[at : at + 2] = value.to_bytes(2, "little")
        return bytes(content)

    return change


def packed(bits: int, *, white_is_zero: bool = False) -> Callable[[], bytes]:
    values = grey(bits).astype(np.uint8 if bits <= 8 else np.uint16)
    return tiff(values, bitspersample=bits, photometric="miniswhite" if white_is_zero else "minisblack")


def fax(compression: str) -> Callable[[], bytes]:
    def make() -> bytes:
        target = io.BytesIO()
        Image.fromarray(grey(8) > 99).save(target, "TIFF", compression=compression)
        return target.getvalue()

    return make


def with_previews() -> bytes:
    """A preview before the picture, one behind it, and one beneath it."""
    values, target = grey(8).astype(np.uint8), io.BytesIO()
    with tifffile.TiffWriter(target) as writer:
        writer.write(values[::4, ::4], subfiletype=1)
        writer.write(values, subifds=1)
        writer.write(values[::2, ::2], subfiletype=1)
        writer.write(values[::3, ::3], subfiletype=1)
    return target.getvalue()


def stack_of_one_directory() -> bytes:
    """As ImageJ writes stacks of over 4 GiB: the second picture and the third follow the first without a word."""
    stack = np.stack([grey(8) // (number + 1) for number in range(3)]).astype(np.uint8)
    content = tiff(stack[:1], description="ImageJ=1.54f\nimages=3\nslices=3\n", software=False, metadata=None)()
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        (start,) = file.pages.first.dataoffsets
    assert start + stack[0].size == len(content)
    return content + stack[1:].tobytes()


def two_pages() -> bytes:
    return tiff(np.stack([grey(8), grey(8)]).astype(np.uint8))()


def colour_of(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.dstack([values] * 3).astype(np.uint8)


def tiles_placed_as_strips() -> bytes:
    """As old writers did: the places of tiles under the strips' tags."""
    content = tiff(grey(8).astype(np.uint8), tile=(16, 16))()
    for tile, strip in ((324, 273), (325, 279)):
        at = content.index(struct.pack("<H", tile))
        content = content[:at] + struct.pack("<H", strip) + content[at + 2 :]
    return content


PALETTE = np.linspace(0, 65535, 256).astype(np.uint16)[::-1]
SIGNED_8, SIGNED_16 = (grey(8).astype(int) - 128).astype(np.int8), (grey(16).astype(int) - 32768).astype(np.int16)

TIFFS: dict[str, Kind] = {
    "grey, 8 bits": Kind(make=tiff(grey(8).astype(np.uint8)), right=part(grey(8), 8)),
    "grey, 16 bits, big-endian": Kind(make=tiff(grey(16), byteorder=">"), right=part(grey(16), 16)),
    "BigTIFF": Kind(make=tiff(grey(16), bigtiff=True), right=part(grey(16), 16)),
    "BigTIFF, big-endian": Kind(make=tiff(grey(16), bigtiff=True, byteorder=">"), right=part(grey(16), 16)),
    "black and white": Kind(make=tiff(grey(8) > 99), right=(grey(8) > 99) * 1.0),
    **{f"{bits} bits": Kind(make=packed(bits), right=part(grey(bits), bits)) for bits in (4, 10, 12, 14)},
    "WhiteIsZero, 1 bit": Kind(make=tiff(grey(8) > 99, photometric="miniswhite"), right=(grey(8) <= 99) * 1.0),
    **{
        f"WhiteIsZero, {bits} bits": Kind(make=packed(bits, white_is_zero=True), right=1 - part(grey(bits), bits))
        for bits in (4, 12)
    },
    "WhiteIsZero, 8 bits": Kind(
        make=tiff(grey(8).astype(np.uint8), photometric="miniswhite"), right=1 - part(grey(8), 8)
    ),
    "WhiteIsZero, 16 bits": Kind(make=tiff(grey(16), photometric="miniswhite"), right=1 - part(grey(16), 16)),
    "signed, 8 bits": Kind(make=tiff(SIGNED_8), right=part(grey(8), 8)),
    "signed, 16 bits": Kind(make=tiff(SIGNED_16), right=part(grey(16), 16)),
    "signed, 16 bits, WhiteIsZero": Kind(make=tiff(SIGNED_16, photometric="miniswhite"), right=1 - part(grey(16), 16)),
    "signed, 8 bits, none below 0": Kind(make=tiff(grey(7).astype(np.int8)), right=part(grey(7) + 128.0, 8)),
    "signed, 16 bits, a CT's units": Kind(
        make=tiff(grey(12).astype(np.int16) - np.int16(1024)), right=part(grey(12) + 31744.0, 16)
    ),
    "12 bits in 16": Kind(make=tiff(grey(12)), right=part(grey(12), 16)),
    "12 bits in 16, WhiteIsZero": Kind(make=tiff(grey(12), photometric="miniswhite"), right=1 - part(grey(12), 16)),
    "12 bits in 16, MaxSampleValue 4095": Kind(make=with_tags(grey(12), {281: 4095}), right=part(grey(12), 12)),
    "12 bits in 16, SMaxSampleValue 4095": Kind(
        make=with_tags(grey(12), {340: 0, 341: 4095}), right=part(grey(12), 12)
    ),
    "12 bits in 16, above an offset": Kind(make=tiff(grey(12) + np.uint16(32768)), right=part(grey(12) + 32768.0, 16)),
    "whole numbers of 32 bits": Kind(make=tiff(grey(8).astype(np.uint32) * 70_000), right=part(grey(8), 8)),
    "decimal numbers": Kind(make=tiff(grey(8).astype(np.float32) * 9 - 3), right=part(grey(8), 8)),
    "decimal numbers, WhiteIsZero": Kind(
        make=tiff(grey(8).astype(np.float64), photometric="miniswhite"), right=1 - part(grey(8), 8)
    ),
    "decimal numbers, SMinSampleValue and SMaxSampleValue": Kind(
        make=tiff(grey(8).astype(np.float32), extratags=[(340, "f", 1, -255.0, True), (341, "f", 1, 255.0, True)]),
        right=part(grey(8) + 255.0, 8) / 2,
    ),
    "LZW with prediction, in tiles": Kind(
        make=tiff(grey(16), compression="lzw", predictor=2, tile=(16, 16)), right=part(grey(16), 16)
    ),
    "deflate with prediction, big-endian, in strips": Kind(
        make=tiff(grey(16), compression="deflate", predictor=2, rowsperstrip=5, byteorder=">"), right=part(grey(16), 16)
    ),
    "deflate with prediction of decimal numbers": Kind(
        make=tiff(grey(8).astype(np.float32), compression="deflate", predictor=3), right=part(grey(8), 8)
    ),
    **{
        name: Kind(make=tiff(grey(16), compression=name.lower()), right=part(grey(16), 16))
        for name in ("PackBits", "LZMA", "ZSTD")
    },
    **{
        f"fax, {name}": Kind(make=fax(compression), right=(grey(8) > 99) * 1.0)
        for name, compression in {"group 3": "group3", "group 4": "group4", "RLE": "tiff_ccitt"}.items()
    },
    "JPEG": Kind(make=tiff(smooth(), compression="jpeg", rowsperstrip=16), right=part(smooth(), 8), tolerance=0.03),
    "JPEG, WhiteIsZero": Kind(
        make=tiff(smooth(), compression="jpeg", photometric="miniswhite"), right=1 - part(smooth(), 8), tolerance=0.03
    ),
    "JPEG in colours that are grey": Kind(
        make=tiff(colour_of(smooth()), compression="jpeg", photometric="rgb"), right=part(smooth(), 8), tolerance=0.03
    ),
    "JPEG, 12 bits": Kind(
        make=tiff(smooth().astype(np.uint16) * 16, compression="jpeg", bitspersample=12),
        right=part(smooth().astype(int) * 16, 12),
        tolerance=0.001,
    ),
    "grey with transparency": Kind(
        make=tiff(np.dstack([grey(8), grey(8)]).astype(np.uint8), extrasamples=[2], planarconfig="contig"),
        right=part(grey(8), 8),
    ),
    "colours of 16 bits that are grey, plane by plane": Kind(
        make=tiff(np.stack([grey(8) * 257] * 3).astype(np.uint16), photometric="rgb", planarconfig="separate"),
        right=part(grey(8), 8),
    ),
    "12 bits in colours of 16 that are grey": Kind(
        make=tiff(np.dstack([grey(12)] * 3), photometric="rgb"), right=part(grey(12), 16), tolerance=1 / 255
    ),
    "palette that is grey": Kind(
        make=tiff(grey(8).astype(np.uint8), photometric="palette", colormap=np.stack([PALETTE] * 3)),
        right=1 - part(grey(8), 8),
        tolerance=1 / 255,
    ),
    "turned and mirrored by its orientation": Kind(
        make=with_tags(grey(8).astype(np.uint8), {274: 5}), right=part(grey(8), 8).T
    ),
    "previews beside the picture": Kind(make=with_previews, right=part(grey(8), 8)),
    "pages, the card takes the first": Kind(make=two_pages, right=part(grey(8), 8), card=FIRST),
    "pages, the card takes none": Kind(make=two_pages),
    "ImageJ's stack, the card takes the middle": Kind(
        make=stack_of_one_directory, right=part(grey(8) // 2, 8), card=MIDDLE
    ),
    "ImageJ's stack, the card takes none": Kind(make=stack_of_one_directory),
    "JPEG 2000 inside": Kind(make=retagged(tiff(grey(8).astype(np.uint8)), 259, 34712)),
    "old JPEG inside": Kind(make=retagged(tiff(grey(8).astype(np.uint8)), 259, 6)),
    "complex numbers": Kind(make=tiff(grey(8).astype(np.complex64))),
    "printing colours (CMYK)": Kind(
        make=retagged(tiff(np.zeros((ROWS, COLUMNS, 4), np.uint8), photometric="rgb", extrasamples=[2]), 262, 5)
    ),
    "five values a pixel": Kind(make=tiff(np.zeros((ROWS, COLUMNS, 5), np.uint8), planarconfig="contig")),
    "cut short": Kind(make=lambda: tiff(grey(8).astype(np.uint8))()[:-9]),
    "a strip that is not there": Kind(make=retagged(tiff(grey(8).astype(np.uint8)), 279, 0)),
    "colours of 16 bits that are the same": Kind(
        make=tiff(np.stack([grey(16)] * 3, axis=-1), photometric="rgb"), right=part(grey(16), 16), card=FIRST
    ),
    "16 bits, SMinSampleValue 1000 and SMaxSampleValue 50000": Kind(
        make=with_tags(grey(16), {340: 1000, 341: 50_000}), right=np.clip((grey(16) - 1000.0) / 49_000, 0, 1)
    ),
    "tiles whose places are called strips'": Kind(make=tiles_placed_as_strips, right=part(grey(8), 8)),
}
