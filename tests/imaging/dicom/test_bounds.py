"""Files made to keep a reader busy are refused after a bounded number of looks at them."""

import struct
from pathlib import Path

import pytest

from contract.errors import ImageError
from imaging.dicom import frames, syntax
from imaging.reading import read_image
from tests.imaging.hostile_files import with_many_meta_tags
from tests.imaging.samples import compressed, data_set, dicom_bytes, picture, specification

pytestmark = pytest.mark.usefixtures("in_process")

EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
MANY = 2_000


def with_many(content: bytes) -> bytes:
    """Before everything else in the data set."""
    file = dicom_bytes(data_set(picture()))
    start = 144 + int.from_bytes(file[140:144], "little")
    return file[:start] + content + file[start:]


def view_of_many_items() -> bytes:
    """A sequence that is read, of a told length."""
    return struct.pack("<HH2sHI", 0x0008, 0x2218, b"SQ", 0, len(EMPTY_ITEM) * MANY) + EMPTY_ITEM * MANY


def sequence_of_many() -> bytes:
    return (
        struct.pack("<HH2sHI", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF) + EMPTY_ITEM * MANY + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


@pytest.mark.parametrize(
    "content",
    [
        with_many(struct.pack("<HH2sH", 8, 1, b"LO", 0) * MANY),
        with_many(sequence_of_many()),
        with_many(view_of_many_items()),
        with_many_meta_tags(MANY),
    ],
    ids=["tags", "items", "items of a told length", "tags before the transfer syntax"],
)
def test_too_many_tags_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert read_image(path, specification()).pixels.shape == picture().shape
    monkeypatch.setattr(syntax, "MOST_READS", 1_000)
    with pytest.raises(ImageError, match="too many tags"):
        read_image(path, specification())


def test_too_many_parts_of_a_picture_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    whole = compressed(data_set(picture()), b"\xff\xd8\xff\xd9", "1.2.840.10008.1.2.4.50")
    path.write_bytes(whole[:-8] + b"\xfe\xff\x00\xe0\x02\0\0\0\0\0" * MANY + whole[-8:])
    monkeypatch.setattr(frames, "MOST_FRAGMENTS", 1_000)
    with pytest.raises(ImageError, match="too many parts"):
        read_image(path, specification())
