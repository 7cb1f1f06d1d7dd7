"""Sizes from the headers of compressed pictures, so that a decoder never makes more than the DICOM header promised."""

import struct

_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream or JP2 file; None where none is found."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x00\x00\x00\x0cjP  "):  # a JP2 file: its codestream begins in the jp2c box
        box = data.find(b"jp2c\xff\x4f\xff\x51")
        data = data[box + 4 :] if box >= 0 else b""
    if data.startswith(b"\xff\x4f\xff\x51") and len(data) >= 24:
        right, bottom, left, top = struct.unpack_from(">4I", data, 8)
        return bottom - top, right - left
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif marker in _JPEG_FRAME_HEADERS:
            rows, columns = struct.unpack_from(">2H", data, position + 5)
            return rows, columns
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length
    return None
