"""A file of a format that is not read is called by its name, with advice that helps."""

from pathlib import Path

import pytest

from contract.errors import ImageError
from imaging.reading import read_image
from tests.imaging.samples import specification

NAMED = {
    b"GIF89a": "a GIF picture",
    b"BM\x9a\x10\0\0\0\0\0\0": "a BMP picture",
    b"RIFF\x10\0\0\0WEBPVP8 ": "a WebP picture",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 picture",
    b"\0\0\0\x1cftypavif": "an AVIF picture",
    b"\0\0\0\x18ftypheic": "a HEIC picture",
    b"%PDF-1.7\n": "a PDF document",
    b"PK\x03\x04\x14\0": "a ZIP archive, which is not read: unpack it",
    b"\n<!DOCTYPE html>": "a web page",
    b"\x5c\x01\0\0" + bytes(340) + b"ni1\0": "one half of a NIfTI volume",
    b"\x5c\x01\0\0" + bytes(344): "the header of an Analyze volume",
}


@pytest.mark.parametrize(("beginning", "name"), NAMED.items(), ids=NAMED.values())
def test_a_format_that_is_not_read_is_named(tmp_path: Path, beginning: bytes, name: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(beginning + bytes(400))
    with pytest.raises(ImageError) as refused:
        read_image(path, specification())
    assert f"this is {name}" in str(refused.value)
