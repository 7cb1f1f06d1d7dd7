"""What a JPEG file says of itself in its markers, beyond what Pillow tells (ITU-T T.81, annex B)."""

import struct
from dataclasses import dataclass
from typing import Final

from contract.errors import ImageError
from imaging.codestream import JPEG_FRAME_HEADERS, JPEG_LS, LOSSLESS_JPEG, jpeg_frame, jpeg_segments
from imaging.formats import Limits

MOST_SCANS: Final = 20
"""Passes over a picture of the largest size; programs that build pictures up make ten or so."""
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """Of the frame header, and what stands before."""

    process: int
    """Marker of the frame: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless, ..."""
    bits: int
    rows: int
    columns: int
    components: int
    exif: bytes
    """The EXIF block with its signature; empty where there is none."""

    @property
    def obstacle(self) -> str | None:
        """Why no decoder here reads it; None where one does."""
        if self.process in LOSSLESS_JPEG:
            return "lossless JPEG"
        if self.process == JPEG_LS:
            return "JPEG-LS"
        if self.process in (0xC5, 0xC6, 0xCD, 0xCE):
            return "hierarchical JPEG"
        if self.bits not in (8, 12) or (self.bits == 12 and self.process not in (0xC1, 0xC2)):
            return f"JPEG of {self.bits} bits"
        return None


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Walk the markers up to the frame header; None where none is found."""
    exif = b""
    for marker, position in jpeg_segments(data):
        if marker in JPEG_FRAME_HEADERS:
            bits, rows, columns, components = jpeg_frame(data, position)
            return JpegHeader(process=marker, bits=bits, rows=rows, columns=columns, components=components, exif=exif)
        (length,) = struct.unpack_from(">H", data, position + 2)
        content = data[position + 4 : position + 2 + length]
        if marker == _APP1 and content.startswith(_EXIF):
            exif = content
    return None


def check_passes(data: bytes, *, rows: int, columns: int, limits: Limits | None = None) -> None:
    """Raise ImageError for a JPEG that few bytes build up in so many passes that a reader would be busy for minutes."""
    scans = data.count(_START_OF_SCAN)
    if scans * rows * columns > MOST_SCANS * (limits or Limits()).max_pixels:
        raise ImageError(f"the image is built up in {scans} passes, which takes too long: export it as ordinary JPEG")
