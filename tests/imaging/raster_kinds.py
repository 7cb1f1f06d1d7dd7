"""A file of each kind of TIFF, PNG, JPEG and NIfTI, drawn here, with the right picture. docs/images.md lists them."""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from contract.model_card import ColourChoice, FrameChoice, InputSpecification
from tests.imaging.samples import picture, png_bytes, png_file, specification

ROWS, COLUMNS = 24, 32
CARD = specification(colour=ColourChoice.LUMINANCE)
FIRST = specification(frame=FrameChoice.FIRST)
MIDDLE = specification(frame=FrameChoice.MIDDLE)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of file."""

    make: Callable[[], bytes]
    right: NDArray[Any] | None = None
    """The picture in [0, 1]; None: refused."""
    card: InputSpecification = CARD
    tolerance: float = 1e-5


def grey(bits: int) -> NDArray[np.uint16]:
    return picture(rows=ROWS, columns=COLUMNS, bits=bits)


def smooth() -> NDArray[np.uint8]:
    return np.add.outer(np.arange(ROWS) * 4, np.arange(COLUMNS) * 5).astype(np.uint8)


def part(values: NDArray[Any], bits: int) -> NDArray[np.float64]:
    """Of the largest value that so many bits hold."""
    return np.asarray(values / ((1 << bits) - 1))


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
}


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

UPRIGHT = np.diag([-1.0, -1, 1, 1])
"""A volume whose rows and columns are those of the picture, as scanners lay slices."""


def nifti(values: NDArray[Any], *, affine: NDArray[Any] | None = UPRIGHT, **header: Any) -> Callable[[], bytes]:
    """Values by (column, row, slice)."""

    def make() -> bytes:
        image = nibabel.Nifti1Image(values, affine)
        if affine is not None:
            image.set_sform(affine, code=1)
            image.set_qform(affine, code=1)
        for name, value in header.items():
            image.header[name] = value
        return bytes(image.to_bytes())

    return make


def big_endian() -> bytes:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(grey(12).T.astype(np.int16), UPRIGHT, header)
    image.set_qform(UPRIGHT, code=1)
    return bytes(image.to_bytes())


def patched(content: bytes, at: int, *numbers: float) -> bytes:
    """With other numbers in its header: nibabel writes none that contradict the image."""
    changed = bytearray(content)
    changed[at : at + 4 * len(numbers)] = np.array(numbers, "<f4").tobytes()
    return bytes(changed)


def in_parts() -> bytes:
    content = nifti(grey(12).T)()
    parts = (content[:9], content[9:300], b"", content[300:])
    return b"".join(gzip.compress(part) for part in parts) + b"what follows"


def with_a_hole() -> NDArray[np.float32]:
    values = grey(8).astype(np.float32)
    values[3:6, 3:6] = np.nan
    return values


def checksum_wrong() -> bytes:
    content = bytearray(gzip.compress(nifti(grey(12).T)()))
    content[-6] ^= 1
    return bytes(content)


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
NIFTIS: dict[str, Kind] = {
    "a picture of its own": Kind(make=nifti(grey(12).T), right=part(grey(12), 12)),
    "a frontal plane of a volume": Kind(
        make=nifti(grey(12).T[:, np.newaxis], affine=np.diag([-1.0, 1, -1, 1])), right=part(grey(12), 12)
    ),
    "big-endian": Kind(make=big_endian, right=part(grey(12), 12)),
    "slope -2, intercept 7": Kind(
        make=lambda: patched(nifti(grey(8).T.astype(np.int16))(), 112, -2.0, 7.0), right=1 - part(grey(8), 8)
    ),
    "gzip of several parts, with something behind": Kind(make=in_parts, right=part(grey(12), 12)),
    "pixels that are no numbers": Kind(make=nifti(with_a_hole().T), right=part(np.nan_to_num(with_a_hole()), 8)),
    "colours that are grey": Kind(
        make=nifti(
            np.ascontiguousarray(np.repeat(grey(8).T.astype(np.uint8)[..., np.newaxis], 3, axis=-1)).view(COLOURS)[
                ..., 0
            ]
        ),
        right=part(grey(8), 8),
    ),
    "neither qform nor sform": Kind(make=nifti(grey(12).T, affine=None), right=part(grey(12), 12)[::-1]),
    "qform and sform differ": Kind(
        make=lambda: patched(nifti(grey(12).T)(), 280, 1.0), right=part(grey(12), 12)[:, ::-1]
    ),
    "several volumes, the card takes none": Kind(make=nifti(np.stack([grey(12).T[..., np.newaxis]] * 2, axis=-1))),
    "several volumes, the card takes the first": Kind(
        make=nifti(np.stack([grey(12).T[..., np.newaxis]] * 2, axis=-1)), right=part(grey(12), 12), card=FIRST
    ),
    "complex numbers": Kind(make=nifti(grey(12).T.astype(np.complex64))),
    "only numbers that are none": Kind(make=nifti(np.full((9, 9), np.nan, np.float32))),
    "cut short": Kind(make=lambda: nifti(grey(12).T)()[:-9]),
    "gzip cut short": Kind(make=lambda: gzip.compress(nifti(grey(12).T)())[:-9]),
    "gzip with a wrong checksum": Kind(make=checksum_wrong),
}

KINDS = MappingProxyType({"TIFF": TIFFS, "PNG": PNGS, "JPEG": JPEGS, "NIfTI": NIFTIS})
"""By format."""
