"""What a PNG file says of its samples before the first pixel, beyond what Pillow tells."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

_SIGNATURE_BYTES = 8
_MOST_CHUNKS = 1000
_GREY_TYPES = (0, 4)


@dataclass(frozen=True, kw_only=True)
class PngHeader:
    """Of chunks IHDR and sBIT (PNG 11.2.2 and 11.3.2.7)."""

    bits: int
    """Of each sample."""
    significant_bits: int | None = None
    """How many of a grey sample count; None where the file does not say, or has colours."""


def read_png_header(source: BinaryIO) -> PngHeader:
    """Walk the chunks before the pixels. Damaged ones tell nothing: decoding will refuse them."""
    bits, grey, significant = 8, False, None
    source.seek(_SIGNATURE_BYTES)
    for _ in range(_MOST_CHUNKS):
        head = source.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            break
        (length,) = struct.unpack(">I", head[:4])
        content = source.read(min(length, 16))
        if head[4:] == b"IHDR" and len(content) >= 13:
            bits, grey = content[8], content[9] in _GREY_TYPES
        if head[4:] == b"sBIT" and grey and content:
            significant = content[0]
        source.seek(length - len(content) + 4, 1)
    source.seek(0)
    return PngHeader(bits=bits, significant_bits=significant)
