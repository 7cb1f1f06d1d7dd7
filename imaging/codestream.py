"""What a compressed picture's header says of it, so that no decoder makes more than was promised.

JPEG by ITU-T T.81, annex B, JPEG-LS, and JPEG 2000; for DICOM frames, JPEG files and the JPEG inside TIFF.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from contract.errors import ImageError
from imaging.formats import Limits

_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
JPEG_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
LOSSLESS_JPEG = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
JPEG_LS = 0xF7
"""Markers of frame headers, of JPEG-LS too; those of lossless JPEG; and that of JPEG-LS alone."""
_SCAN = 0xDA
_MOST_JPEG_BITS = 16
_CODING_STYLE = 0xFF52
MOST_MARKERS = 1 << 16
"""Before the picture itself: a header that has more is none."""
END_OF_PICTURE = b"\xff\xd9"
"""Of JPEG, JPEG-LS and JPEG 2000 alike."""


class Coder(StrEnum):
    """What made a codestream."""

    JPEG = "JPEG"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """One compressed frame by its own header."""

    coder: Coder
    rows: int
    columns: int
    components: int
    precision: int
    """Bits of a sample."""
    signed: bool = False
    """Whether samples are two's complement: JPEG 2000 only says so."""
    lossless: bool
    """Whether the samples come back as they were written."""
    error: int = 0
    """The largest error of a sample that near-lossless JPEG-LS allows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns


def read_codestream(data: bytes) -> Codestream | None:
    """The header of a JPEG, JPEG-LS or JPEG 2000 codestream or JP2 file; None if none is found."""
    if data.startswith(b"\xff\xd8"):
        return _read_jpeg(data)
    if data.startswith(b"\x00\x00\x00\x0cjP  "):  # a JP2 file: its codestream begins in the jp2c box
        box = data.find(b"jp2c\xff\x4f\xff\x51")
        data = data[box + 4 :] if box >= 0 else b""
    if data.startswith(b"\xff\x4f\xff\x51") and len(data) >= 43:
        right, bottom, left, top = struct.unpack_from(">4I", data, 8)
        (components,) = struct.unpack_from(">H", data, 40)
        return Codestream(
            coder=Coder.JPEG_2000,
            rows=bottom - top,
            columns=right - left,
            components=components,
            precision=(data[42] & 0x7F) + 1,
            signed=bool(data[42] & 0x80),
            lossless=_is_reversible(data),
        )
    return None


def _is_reversible(data: bytes) -> bool:
    """Whether JPEG 2000's coding style names the 5-3 wavelet, which loses nothing by itself."""
    position = 2
    for _ in range(MOST_MARKERS):
        if position + 14 > len(data) or data[position] != 0xFF:
            break
        marker, length = struct.unpack_from(">2H", data, position)
        if marker == _CODING_STYLE:
            return data[position + 13] == 1
        position += 2 + length
    return False


def walk_jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers that have a length, and where they stand, up to the first scan's; frame headers are whole."""
    position = 2
    for _ in range(MOST_MARKERS):
        if position + 10 > len(data) or data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        yield marker, position
        if marker == _SCAN:
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + length


def read_jpeg_frame(data: bytes, position: int) -> tuple[int, int, int, int]:
    """(bits of a sample, rows, columns, components) by the frame header that `walk_jpeg_segments` found there."""
    bits, rows, columns, components = struct.unpack_from(">B2HB", data, position + 4)
    return bits, rows, columns, components


def has_end(data: bytes, *, padding: int = 64) -> bool:
    """Whether a compressed picture ends as it should, apart from so many bytes that may pad it."""
    return END_OF_PICTURE in data[-padding:]


def _read_jpeg(data: bytes) -> Codestream | None:
    found: Codestream | None = None
    for marker, position in walk_jpeg_segments(data):
        if marker in JPEG_FRAME_HEADERS:
            precision, rows, columns, components = read_jpeg_frame(data, position)
            if not 0 < precision <= _MOST_JPEG_BITS:
                return None
            found = Codestream(
                coder=Coder.JPEG_LS if marker == JPEG_LS else Coder.JPEG,
                rows=rows,
                columns=columns,
                components=components,
                precision=precision,
                lossless=marker in LOSSLESS_JPEG,
            )
            if marker != JPEG_LS:
                return found
        elif marker == _SCAN:
            return _read_near_lossless(found, data, position)
    return found


def _read_near_lossless(frame: Codestream | None, data: bytes, scan: int) -> Codestream | None:
    """A JPEG-LS frame with the largest error that its first scan names."""
    at = scan + 5 + 2 * data[scan + 4]
    if frame is None or at >= len(data):
        return frame
    return replace(frame, lossless=data[at] == 0, error=data[at])


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
    """The EXIF block with its signature; empty if there is none."""

    @property
    def obstacle(self) -> str | None:
        """Why no decoder here reads it; None if one does."""
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
    """Walk the markers up to the frame header; None if none is found."""
    exif = b""
    for marker, position in walk_jpeg_segments(data):
        if marker in JPEG_FRAME_HEADERS:
            bits, rows, columns, components = read_jpeg_frame(data, position)
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
