"""Files read in the process that may do nothing else: from a request on a socket to the answer on it.

Hostile bytes run through libraries in C here. All that reading may need is loaded before a file comes, because a
confined process cannot open a library.
"""

import codecs
import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.dicom.decoding import DAMAGED_FRAME
from imaging.dicom.patient import read_patient_words
from imaging.dicom.reading import read_dicom
from imaging.formats import MAX_LINE, DecodedFile, FileFormat, Limits, sniff
from imaging.isolation.messages import LENGTH_BYTES, Answer, Arrays, Picture, Refusal, Request, Task
from imaging.nifti import read_nifti
from imaging.raster import read_jpeg, read_png
from imaging.tiff import read_tiff
from plumbing.output import printable

_PIECE: Final = 1 << 20
_WORDS_BYTES: Final = 64 << 10
_COMPLAINT: Final = b"Corrupt JPEG data"
"""GDCM's: it decodes on, and the picture is not what it was."""


def answer_requests(socket: int, words: int) -> None:
    """Read requests, each with its file, and answer them, until there are no more.

    `words`: where that can be read, without waiting, which libraries have written to standard error.
    """
    while length := _receive(socket, LENGTH_BYTES).getvalue():
        request = Request.model_validate_json(_receive(socket, *struct.unpack(">I", length)).getvalue())
        try:
            answer, arrays = _answer(request, _receive(socket, request.file_bytes))
        except ImageError as error:
            answer, arrays = _refuse(str(error))
        except MemoryError:
            answer, arrays = _refuse("the picture takes more memory to read than is allowed: export it smaller")
        if _has_complained(words):
            answer, arrays = _refuse(DAMAGED_FRAME)
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


def _refuse(text: str) -> tuple[Answer, Arrays]:
    return Refusal(text=printable(text)[:MAX_LINE]), ()


def _receive(socket: int, size: int) -> io.BytesIO:
    """So many bytes, or all until the end if there are fewer; the reader stands at its start."""
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


def _has_complained(words: int) -> bool:
    try:
        return _COMPLAINT in os.read(words, _WORDS_BYTES)
    except BlockingIOError:
        return False


_OF_IMAGECODECS: Final = (
    *("jpeg8", "png", "jpeg2k", "lzw", "packbits", "zstd", "packints"),
    *("ccittrle", "ccittfax3", "ccittfax4"),
)
"""Its decoders that are used here; it loads each when it is first asked for."""


def load_decoders() -> None:
    """Import what readers import when they need it, and what their libraries do."""
    import imagecodecs
    import nibabel
    from PIL import Image
    from pydicom.charset import python_encoding
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import RLELossless

    del nibabel
    Image.init()
    get_decoder(RLELossless)
    for name in _OF_IMAGECODECS:
        getattr(imagecodecs, f"{name}_decode")
    for encoding in {*python_encoding.values(), "utf-8", "latin-1", "ascii"}:
        with contextlib.suppress(LookupError):  # some of DICOM's are none of Python's
            codecs.lookup(encoding)


_READERS: Mapping[FileFormat, Callable[[io.BytesIO, InputSpecification, Limits], DecodedFile]] = MappingProxyType(
    {
        FileFormat.DICOM: read_dicom,
        FileFormat.NIFTI: read_nifti,
        FileFormat.PNG: read_png,
        FileFormat.JPEG: read_jpeg,
        FileFormat.TIFF: read_tiff,
    }
)


def decode(
    source: io.BytesIO, specification: InputSpecification, limits: Limits | None = None
) -> tuple[FileFormat, DecodedFile]:
    """Decode the content of a PNG, JPEG, TIFF, DICOM or NIfTI file, told by its content, for a model with this input.

    Raises ImageError, in one line that says what happened and what to do, for every other file, and for any beyond
    `limits`.
    """
    file_format = sniff(source)
    return file_format, _READERS[file_format](source, specification, limits or Limits())
