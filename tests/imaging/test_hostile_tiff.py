"""TIFF files made to take a reader's memory or time: refused, or read, within bounds."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.errors import ImageError
from imaging.reading import read_image
from imaging.tiff_pages import MAX_PAGES
from tests.imaging.samples import specification

pytestmark = pytest.mark.usefixtures("in_process")

SIDE = 16
DATA = bytes(range(256))


def directory(at: int, tags: dict[int, tuple[int, int, int]], following: int = 0) -> bytes:
    """A directory of tags by (type, count, value), to stand at an offset of the file."""
    entries = b"".join(struct.pack("<2H2I", tag, *entry) for tag, entry in sorted(tags.items()))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def tags(**changes: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """Of a grey picture of 8 bits whose one strip stands at offset 8; changes by `tag273=...`."""
    usual = {
        256: (4, 1, SIDE),
        257: (4, 1, SIDE),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, SIDE),
        279: (4, 1, SIDE * SIDE),
    }
    return usual | {int(name.removeprefix("tag")): entry for name, entry in changes.items()}


def file(of: dict[int, tuple[int, int, int]], *, data: bytes = DATA, following: int = 0) -> bytes:
    start = 8 + len(data)
    return b"II*\0" + struct.pack("<I", start) + data + directory(start, of, following)


def read(folder: Path, content: bytes) -> NDArray[np.float32]:
    path = folder / "image"
    path.write_bytes(content)
    return read_image(path, specification()).pixels


def test_the_plain_file_of_these_tests_is_read(tmp_path: Path) -> None:
    np.testing.assert_allclose(read(tmp_path, file(tags())), np.arange(256).reshape(16, 16) / 255, atol=1e-6)


def test_a_chain_of_directories_that_leads_back_ends(tmp_path: Path) -> None:
    read(tmp_path, file(tags(), following=8 + len(DATA)))
    read(tmp_path, file(tags(), following=1 << 31))


def test_too_many_directories_are_refused(tmp_path: Path) -> None:
    start = 8 + len(DATA)
    size = len(directory(0, {}))
    chain = b"".join(directory(0, {}, start + size * (number + 1)) for number in range(MAX_PAGES + 1))
    with pytest.raises(ImageError, match="more than 10000 pictures"):
        read(tmp_path, b"II*\0" + struct.pack("<I", start) + DATA + chain)


def test_directories_that_lie_in_each_other_take_no_more_memory_than_the_file(tmp_path: Path) -> None:
    """Each begins four bytes after the one before, and has thousands of entries."""
    start, count, size = 8 + len(DATA), 500, 12 * 1024
    chain = bytearray(4 * count + 2 + size)
    for number in range(count):
        struct.pack_into("<H", chain, 4 * number, size // 12)
        following = start + 4 * (number + 1) if number + 1 < count else 0
        struct.pack_into("<I", chain, 4 * number + 2 + size, following)
    with pytest.raises(ImageError, match="list of pictures"):
        read(tmp_path, b"II*\0" + struct.pack("<I", start) + DATA + bytes(chain) + bytes(8))


def test_of_a_tag_that_is_one_number_no_million_values_are_read(tmp_path: Path) -> None:
    read(tmp_path, file(tags(tag254=(4, 1 << 20, 8))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tag256": (4, 1, 20_000), "tag257": (4, 1, 10_000)}, "limit of 100 million"),
        ({"tag256": (4, 1, 0)}, "no rows or no columns"),
        ({"tag273": (4, 1 << 30, 8)}, "list of pictures"),
        ({"tag273": (4, 1 << 20, 8)}, "cut short"),
        ({"tag273": (4, 1, 1 << 31)}, "cut short"),
        ({"tag278": (4, 1, 1)}, "where all parts"),
        ({"tag279": (4, 1, 0)}, "parts of the picture are missing"),
        ({"tag322": (4, 1, 1 << 30), "tag323": (4, 1, 16), "tag324": (4, 1, 8), "tag325": (4, 1, 256)}, "limit of"),
        ({"tag322": (4, 1, 0), "tag323": (4, 1, 16), "tag324": (4, 1, 8), "tag325": (4, 1, 256)}, "where all parts"),
        ({"tag277": (3, 1, 60_000), "tag262": (3, 1, 2)}, "60000 values a pixel"),
        ({"tag258": (3, 1, 0)}, "0 bits"),
        ({"tag339": (3, 1, 9)}, "unknown kind of numbers"),
        ({"tag259": (3, 1, 5)}, "damaged"),
        ({"tag259": (3, 1, 7)}, "damaged"),
        ({"tag259": (3, 1, 4)}, "fax"),
        ({"tag262": (3, 1, 3)}, "table of colours"),
        ({"tag32997": (4, 1, 9)}, "volume"),
    ],
)
def test_a_directory_that_promises_what_is_not_there_is_refused(
    tmp_path: Path, changes: dict[str, tuple[int, int, int]], words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        read(tmp_path, file(tags(**changes)))


def test_a_strip_inflates_to_no_more_than_its_size(tmp_path: Path) -> None:
    bomb = zlib.compress(DATA + bytes(64 << 20))
    tracemalloc.start()
    try:
        pixels = read(tmp_path, file(tags(tag259=(3, 1, 8), tag279=(4, 1, len(bomb))), data=bomb))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20  # all of it is 64 MiB
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(pixels, np.arange(256).reshape(16, 16) / 255, atol=1e-6)


def test_the_same_bytes_for_every_strip_are_not_read_for_ever(tmp_path: Path) -> None:
    """Each of many strips claims the whole of a long file."""
    strips, data = 4096, bytes(1 << 20)
    lists = struct.pack(f"<{2 * strips}I", *([8] * strips), *([len(data)] * strips))
    many = tags(
        tag257=(4, 1, strips),
        tag259=(3, 1, 32773),
        tag273=(4, strips, 8 + len(data)),
        tag278=(4, 1, 1),
        tag279=(4, strips, 8 + len(data) + 4 * strips),
    )
    with pytest.raises(ImageError, match="damaged"):
        read(tmp_path, file(many, data=data + lists))
