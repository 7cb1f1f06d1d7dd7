"""Files read in the process that may do nothing else: from a request on a socket to the answer on it."""

import io
import os
import struct
from collections.abc import Iterable
from typing import Final

import numpy as np

from contract.errors import ImageError
from imaging.decoding import decode
from imaging.dicom.decoding import DAMAGED_FRAME
from imaging.dicom.patient import read_patient_words
from imaging.formats import Limits
from imaging.isolation.messages import LENGTH_BYTES, MAX_LINE, Answer, Arrays, Picture, Refusal, Request, Task
from plumbing.output import printable

_PIECE: Final = 1 << 20
_WORDS_BYTES: Final = 64 << 10
_COMPLAINT: Final = b"Corrupt JPEG data"
"""GDCM's: it decodes on, and the picture is not what it was."""


def answer_requests(socket: int, words: int) -> None:
    """Read requests, each with its file, and answer them, until there are no more.

    `words`: where that can be read, without waiting, which libraries have written to standard error.
    """
    while length := _received(socket, LENGTH_BYTES).getvalue():
        request = Request.model_validate_json(_received(socket, *struct.unpack(">I", length)).getvalue())
        try:
            answer, arrays = _answer(request, _received(socket, request.file_bytes))
        except ImageError as error:
            answer, arrays = _refusal(str(error))
        except MemoryError:
            answer, arrays = _refusal("the picture takes more memory to read than is allowed: export it smaller")
        if _complained(words):
            answer, arrays = _refusal(DAMAGED_FRAME)
        header = answer.model_dump_json().encode()
        _send(socket, [struct.pack(">I", len(header)), header])
        _send(socket, (np.ascontiguousarray(array, "<f4").data.cast("B") for array in arrays))
        del answer, arrays


def _answer(request: Request, source: io.BytesIO) -> tuple[Answer, Arrays]:
    if request.task is Task.PATIENT or request.specification is None:
        return read_patient_words(source), ()
    limits = Limits(max_pixels=request.max_pixels, max_file_bytes=request.max_file_bytes)
    file_format, decoded = decode(source, request.specification, limits)
    picture = Picture.of(file_format, decoded, with_values=request.with_values)
    values = decoded.values if picture.has_values else None
    return picture, (decoded.pixels,) if values is None else (decoded.pixels, values.values)


def _refusal(text: str) -> tuple[Answer, Arrays]:
    return Refusal(text=printable(text)[:MAX_LINE]), ()


def _received(socket: int, size: int) -> io.BytesIO:
    """So many bytes, or all until the end where there are fewer; the reader stands at its start."""
    content = io.BytesIO()
    while (left := size - content.tell()) and (piece := os.read(socket, min(left, _PIECE))):
        content.write(piece)
    content.seek(0)
    return content


def _send(socket: int, parts: Iterable[bytes | memoryview]) -> None:
    for part in parts:
        left = memoryview(part)
        while left:
            left = left[os.write(socket, left[:_PIECE]) :]


def _complained(words: int) -> bool:
    try:
        return _COMPLAINT in os.read(words, _WORDS_BYTES)
    except BlockingIOError:
        return False
