"""What a PNG file says of its samples, and what is wrong with one, beyond what Pillow tells."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_SIGNATURE_BYTES = 8
_MOST_CHUNKS = 1000
_MOST_CHUNKS_OF_A_FAULTY_FILE = 1_000_000
_CUT = "is cut short"
_GREY_TYPES = (0, 4)


@dataclass(frozen=True, kw_only=True)
class PngHeader:
    """Of chunks IHDR and sBIT (PNG 11.2.2 and 11.3.2.7)."""

    bits: int
    """Of each sample."""
    significant_bits: int | None = None
    """How many of a grey sample count; None where the file does not say, or has colours."""


def read_png_header(data: bytes) -> PngHeader:
    """Walk the chunks before the pixels. Damaged ones tell nothing: decoding will refuse them."""
    bits, grey, significant = 8, False, None
    for name, content, _ in islice(_chunks(data), _MOST_CHUNKS):
        if name == b"IHDR" and len(content) >= 13:
            bits, grey = content[8], content[9] in _GREY_TYPES
        if name == b"sBIT" and grey and len(content):
            significant = content[0]
        if name == b"IDAT":
            break
    return PngHeader(bits=bits, significant_bits=significant)


def png_fault(data: bytes) -> str | None:
    """What is wrong with a file that could not be decoded, to follow "the image"; None where its chunks are whole."""
    name = b""
    for name, content, checksum in islice(_chunks(data), _MOST_CHUNKS_OF_A_FAULTY_FILE):
        if len(checksum) < 4:
            return _CUT
        if zlib.crc32(content, zlib.crc32(name)) != int.from_bytes(checksum):
            return "was changed on its way: a checksum in it is wrong"
    return None if name == b"IEND" else _CUT


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """Name, content and checksum of each chunk; the last may be cut short."""
    at, whole = _SIGNATURE_BYTES, memoryview(data)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], whole[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        at += 12 + length
