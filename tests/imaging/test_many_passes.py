"""A JPEG of few bytes that would keep a decoder busy for minutes is refused, whatever file it stands in."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from contract.errors import ImageError
from imaging.codestream import MOST_SCANS
from imaging.reading import read_image
from tests.imaging.samples import compressed, data_set, picture, specification
from tests.imaging.test_hostile_tiff import file, tags

SIDE = 10_000
"""The largest picture that is read."""


def many_passes(passes: int) -> bytes:
    """A small progressive JPEG whose header promises a large picture, with its last scan again and again."""
    target = io.BytesIO()
    Image.fromarray(picture().astype("uint8")).save(target, "JPEG", progressive=True)
    data = target.getvalue()
    frame, last = data.index(b"\xff\xc2"), data.rindex(b"\xff\xda")
    large = data[: frame + 5] + struct.pack(">2H", SIDE, SIDE) + data[frame + 9 : -2]
    return large + data[last:-2] * (passes - data.count(b"\xff\xda")) + b"\xff\xd9"


def in_dicom(data: bytes) -> bytes:
    return compressed(data_set(picture(), Rows=SIDE, Columns=SIDE), data, JPEGBaseline8Bit)


def in_tiff(data: bytes) -> bytes:
    of = {256: (4, 1, SIDE), 257: (4, 1, SIDE), 259: (3, 1, 7), 278: (4, 1, SIDE), 279: (4, 1, len(data))}
    return file(tags() | of, data=data)


@pytest.mark.parametrize("inside", [bytes, in_dicom, in_tiff], ids=["jpeg", "dicom", "tiff"])
def test_a_picture_of_very_many_passes_is_refused(inside: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(inside(many_passes(MOST_SCANS + 1)))
    with pytest.raises(ImageError, match=f"built up in {MOST_SCANS + 1} passes"):
        read_image(path, specification())
