"""More kinds of TIFF, PNG and NIfTI: deep colours that are grey, odd places, and ranges that a file names."""

import struct
from types import MappingProxyType

import nibabel
import numpy as np
from numpy.typing import NDArray

from contract.model_card import FrameChoice
from tests.imaging import raster_kinds
from tests.imaging.raster_kinds import COLUMNS, FIRST, ROWS, Kind, grey, part, tiff, with_tags
from tests.imaging.samples import nifti_bytes, png_file, specification, volume


def deep_png(*, colours: int, opaque: bool = False) -> bytes:
    """16 bits: the same value in each colour, and transparency that hides nothing behind it."""
    samples = np.stack([grey(16)] * colours + [np.full((ROWS, COLUMNS), 65535)] * opaque, axis=-1)
    lines = [line.astype(">u2").tobytes() for line in samples]
    kind = (4 if opaque else 0) + (2 if colours == 3 else 0)
    return png_file(lines, columns=COLUMNS, rows=ROWS, bits=16, colour=kind)


def tiles_placed_as_strips() -> bytes:
    """As old writers did: the places of tiles under the strips' tags."""
    content = tiff(grey(8).astype(np.uint8), tile=(16, 16))()
    for tile, strip in ((324, 273), (325, 279)):
        at = content.index(struct.pack("<H", tile))
        content = content[:at] + struct.pack("<H", strip) + content[at + 2 :]
    return content


def pixels_that_begin_in_the_header() -> bytes:
    content = bytearray(nifti_bytes(volume()))
    content[108:112] = struct.pack("<f", 0)
    return bytes(content)


def middle_slice() -> NDArray[np.float64]:
    values = np.asarray(nibabel.as_closest_canonical(nibabel.Nifti1Image(volume(), np.eye(4))).dataobj, np.float64)
    plane = values[::-1, ::-1, values.shape[2] // 2].T
    return np.asarray((plane - plane.min()) / (plane.max() - plane.min()))


FURTHER = {
    "TIFF": {
        "colours of 16 bits that are the same": Kind(
            make=tiff(np.stack([grey(16)] * 3, axis=-1), photometric="rgb"), right=part(grey(16), 16), card=FIRST
        ),
        "16 bits, SMinSampleValue 1000 and SMaxSampleValue 50000": Kind(
            make=with_tags(grey(16), {340: 1000, 341: 50_000}), right=np.clip((grey(16) - 1000.0) / 49_000, 0, 1)
        ),
        "tiles whose places are called strips'": Kind(make=tiles_placed_as_strips, right=part(grey(8), 8)),
    },
    "PNG": {
        "colours of 16 bits that are the same": Kind(make=lambda: deep_png(colours=3), right=part(grey(16), 16)),
        "grey of 16 bits with transparency": Kind(
            make=lambda: deep_png(colours=1, opaque=True), right=part(grey(16), 16)
        ),
    },
    "JPEG": {},
    "NIfTI": {
        "pixels that begin in the header": Kind(
            make=pixels_that_begin_in_the_header, right=middle_slice(), card=specification(frame=FrameChoice.MIDDLE)
        ),
    },
}
KINDS = MappingProxyType({group: kinds | FURTHER[group] for group, kinds in raster_kinds.KINDS.items()})
"""All kinds."""
