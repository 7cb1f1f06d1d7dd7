"""Files that would take too long, or too much memory, end with a refusal that says so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imagecodecs import ljpeg_encode
from pydicom.uid import JPEGBaseline8Bit, JPEGLosslessSV1

from contract.errors import ImageError
from imaging.codestream import MOST_SCANS
from imaging.formats import Limits
from imaging.isolation.processes import Bounds, Processes
from imaging.isolation.reader import IsolatedReader
from tests.imaging.hostile_files import slow_jpeg, with_many_meta_tags
from tests.imaging.samples import compressed, data_set, dicom_bytes, picture, png_file, specification
from tests.imaging.test_hostile_tiff import DATA, directory

SIDE = 10_000
"""Of the largest picture that is read."""


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    """With memory for what the largest JPEG takes while it is decoded, and not for what becomes of it."""
    processes = Processes(Bounds(cpu_seconds=1, address_space=640 << 20))
    yield IsolatedReader(processes)
    processes.close()


def refusal(reader: IsolatedReader, folder: Path, content: bytes) -> str:
    path = folder / "picture"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        reader.read_picture(path, specification(), Limits(), with_values=False)
    return str(caught.value)


def in_dicom(jpeg: bytes) -> bytes:
    return compressed(data_set(picture(), Rows=SIDE, Columns=SIDE), jpeg, JPEGBaseline8Bit)


@pytest.mark.parametrize("inside", [bytes, in_dicom], ids=["by itself", "in DICOM"])
def test_a_jpeg_that_is_slow_within_every_bound_is_ended(
    reader: IsolatedReader, tmp_path: Path, inside: Callable[[bytes], bytes]
) -> None:
    content = inside(slow_jpeg(side=SIDE, scans=MOST_SCANS))
    assert len(content) < 1 << 18
    assert refusal(reader, tmp_path, content) == (
        "this picture takes longer than 1 s to read: export it as PNG or as uncompressed DICOM"
    )


def test_a_picture_that_inflates_beyond_the_memory_allowed_is_refused(reader: IsolatedReader, tmp_path: Path) -> None:
    content = png_file([bytes(SIDE)] * SIDE, columns=SIDE, rows=SIDE, bits=8, colour=0)
    assert len(content) < 1 << 18
    assert "takes more memory to read than is allowed" in refusal(reader, tmp_path, content)


def test_damage_that_a_library_only_tells_the_terminal_is_told(reader: IsolatedReader, tmp_path: Path) -> None:
    """GDCM decodes a lossless JPEG with a hole in it as if nothing were."""
    whole = bytes(ljpeg_encode(picture(rows=64, columns=64, bits=12).astype("u2")))
    middle = len(whole) // 2
    frame = whole[:middle] + b"\xff\xd5" + whole[middle + 200 :]
    stored = data_set(picture(rows=64, columns=64, bits=12), bits=12)
    assert "is damaged" in refusal(reader, tmp_path, compressed(stored, frame, JPEGLosslessSV1))


@pytest.mark.slow
def test_the_files_that_once_stopped_all_reading_are_refused_in_seconds(tmp_path: Path) -> None:
    start, entries, pages = 8 + len(DATA), {1000 + number: (3, 1, 0) for number in range(66)}, 9_990
    size = len(directory(0, entries))
    chain = b"".join(directory(0, entries, start + size * (page + 1)) for page in range(pages))
    tiff = b"II*\0" + start.to_bytes(4, "little") + DATA + chain
    file = dicom_bytes(data_set(picture()))
    begin = 144 + int.from_bytes(file[140:144], "little")
    many_tags = file[:begin] + b"\x08\0\1\0LO\0\0" * 5_000_000 + file[begin:]
    processes = Processes(Bounds(cpu_seconds=15))
    reader = IsolatedReader(processes)
    try:
        assert "holds several pictures" in refusal(reader, tmp_path, tiff)
        assert "too many tags" in refusal(reader, tmp_path, many_tags)
        assert "too many tags" in refusal(reader, tmp_path, with_many_meta_tags(5_000_000))
    finally:
        processes.close()
