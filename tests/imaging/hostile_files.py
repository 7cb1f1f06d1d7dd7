"""Files that are made to keep a reader busy."""

import struct

from tests.imaging.samples import data_set, dicom_bytes, picture

_MOST_BLOCKS_OF_A_RUN = (1 << 15) - 1


def slow_jpeg(*, side: int, scans: int) -> bytes:
    """A progressive JPEG whose every further scan visits each coefficient, and of which each takes some 200 bytes."""
    blocks = (-(-side // 8)) ** 2
    bits = "1" * (-blocks % 8)
    first = int("0" * blocks + bits, 2).to_bytes((blocks + 7) // 8)
    runs = [_MOST_BLOCKS_OF_A_RUN] * (blocks // _MOST_BLOCKS_OF_A_RUN + 1)
    coded = "".join(f"0{run - (1 << 14):014b}" for run in runs)
    coded += "1" * (-len(coded) % 8)
    further = int(coded, 2).to_bytes(len(coded) // 8).replace(b"\xff", b"\xff\0")
    parts = [
        b"\xff\xd8",
        _segment(0xDB, bytes(1) + b"\1" * 64),
        _segment(0xC2, struct.pack(">B2HB", 8, side, side, 1) + b"\1\x11\0"),
        _segment(0xC4, b"\x00\1" + bytes(15) + b"\x00"),  # one code, of one bit: no difference
        _segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0"),  # one code, of one bit: a run of 2^14 blocks and more
        _segment(0xDA, b"\1\1\0\0\0\0") + first,
    ]
    parts += [
        _segment(0xDA, b"\1\1\0\1\x3f" + bytes([0x01 if scan == 1 else 0x10])) + further for scan in range(1, scans)
    ]
    return b"".join((*parts, b"\xff\xd9"))


def _segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_many_meta_tags(count: int) -> bytes:
    """A DICOM file of so many tags before those that say how it is written."""
    file = dicom_bytes(data_set(picture()))
    return file[:132] + struct.pack("<HH2sH", 2, 0x0100, b"UI", 0) * count + file[132:]
