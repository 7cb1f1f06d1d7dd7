"""What a file is, told by its content, and how large it may be. Every outside file is hostile until it is parsed.

No message names the file: a file's name is often the patient's. The caller knows which file it gave.
"""

import io
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from numpy import float32
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field

from contract.errors import ImageError
from contract.model_card import FrameChoice, Window

_ARCHIVES: Final = (
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive of something else than NIfTI"),
    (rb"BZh", "a bzip2 archive"),
    (rb"\xfd7zXZ", "an xz archive"),
    (rb"7z\xbc\xaf", "a 7-Zip archive"),
    (rb"Rar!", "a RAR archive"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (rb".{257}ustar", "a tar archive"),
)
_OTHERS: Final = (
    (rb"GIF8", "a GIF picture"),
    (rb"BM.{4}\0\0\0\0", "a BMP picture"),
    (rb"RIFF.{4}WEBP", "a WebP picture"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL picture"),
    (rb"II\xbc", "a JPEG XR picture"),
    (rb".{4}ftypavi", "an AVIF picture"),
    (rb".{4}ftyp(?:he|mi)", "a HEIC picture"),
    (rb".{4}ftyp", "a video"),
    (rb"%PDF", "a PDF document"),
    (rb"%!PS", "a PostScript document"),
    (rb"8BPS", "a Photoshop file"),
    (rb"NRRD", "an NRRD volume"),
    (rb"ObjectType", "a MetaImage header"),
    (rb"\x89HDF", "an HDF5 or MINC file"),
    (rb"CDF", "a NetCDF or MINC file"),
    (rb"SIMPLE  =", "a FITS file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\s*<", "a web page or XML file"),
)
_HALF: Final = rb"(?:\x5c\x01\0\0|\0\0\x01\x5c)"
"""A header's size of 348 bytes, in either order."""
_HALVES: Final = (
    (_HALF + rb".{340}ni1", "one half of a NIfTI volume (.hdr and .img)"),
    (_HALF + rb".{340}", "the header of an Analyze volume"),
)
_ADVICE: Final = (
    (_ARCHIVES, "unpack it, and give the image in it"),
    (_OTHERS, ""),
    (_HALVES, "export it as one .nii file"),
)


def describe(head: bytes) -> tuple[str, str]:
    """What a file seems to be, and what to do other than exporting it in a format that is read; empty: nothing."""
    for kinds, advice in _ADVICE:
        for beginning, what in kinds:
            if re.match(beginning, head, re.DOTALL):
                return what, advice
    return "", ""


class FileFormat(StrEnum):
    """Formats that are read."""

    PNG = "PNG"
    JPEG = "JPEG"
    TIFF = "TIFF"
    DICOM = "DICOM"
    NIFTI = "NIfTI"


MOST_YEARS: Final = 130
"""Of an age. Above this no patient is meant: 999Y and a birth in 1800 stand for nothing."""
READ = "PNG, JPEG, TIFF, DICOM or NIfTI"
"""For messages."""


@dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused before memory is taken for it."""

    max_pixels: int = 100_000_000
    max_file_bytes: int = 512 << 20

    def check_size(self, *, rows: int, columns: int) -> None:
        """Raise ImageError for an image without pixels or with more than `max_pixels`."""
        if rows <= 0 or columns <= 0:
            raise ImageError("the image has no rows or no columns: export it again")
        if rows * columns > self.max_pixels:
            raise ImageError(
                f"the image has {columns} x {rows} pixels, more than the limit of {self.max_pixels / 1e6:.0f} million: "
                "export it smaller"
            )


MAX_LINE: Final = 1000
"""Characters of one text that a decoder gives."""


def _require_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that do not print")
    return text


Line = Annotated[str, Field(max_length=MAX_LINE), AfterValidator(_require_printable)]


@dataclass(frozen=True)
class ImageWarning:
    """Something the user should know. `code` is stable; `text` is one line and holds nothing personal.

    One that a confined process tells is checked by what stands here.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    code: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    text: Line
    needs_confirmation: bool = False
    """True: readable, but probably not what the model is for. The data owner must say that it is meant (--force)."""


ImageWarnings = tuple[ImageWarning, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """What a window is applied to, for whoever wants to look through another one."""

    values: NDArray[float32] = field(repr=False)
    """Shape (rows, columns), in units after the modality LUT."""
    inverted: bool = False
    """Whether small values are bright."""
    window: Window | None = None
    """The file's own linear window, if it has one."""


class Polarity(StrEnum):
    """Which way round a picture's grey values go, as a person says who has looked at it."""

    AS_READ = "as-read"
    """Bright is what the model takes for bright: nothing is changed."""
    INVERTED = "inverted"
    """Bright and dark are exchanged after reading."""


class PolaritySource(StrEnum):
    """What a file says about that itself."""

    FILE = "file"
    """Its format and its tags say which values are bright."""
    NOBODY = "nobody"
    """The format cannot say: of a PNG, nobody knows whether it is a negative."""
    CONTRADICTION = "contradiction"
    """Its tags say both."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFile:
    """What a decoder hands to `imaging.reading`: float32 pixels (rows, columns) in [0, 1] and facts of the file."""

    pixels: NDArray[float32]
    encoding: str
    """How the file holds them: compression, colours, bits."""
    frames: int = 1
    frame: int = 1
    """Which of `frames` pictures this is, counted from 1."""
    modality: str | None = None
    body_part: str | None = None
    other_body_parts: tuple[str, ...] = ()
    """What other tags of the file say of it, if they do not say the same."""
    views: tuple[str, ...] = ()
    """Views of the body that its tags name, see `imaging.suitability`; more than one if they do not say the same."""
    polarity: PolaritySource = PolaritySource.FILE
    years: frozenset[int] = field(default=frozenset(), repr=False)
    """The patient's age in completed years, see `completed_years`; looked for if the model asks for it only."""
    warnings: ImageWarnings = ()
    values: Values | None = None
    """None if `pixels` are all there is."""

    def __repr__(self) -> str:
        return f"DecodedFile(shape={self.pixels.shape}, modality={self.modality!r}, body_part={self.body_part!r})"


@contextmanager
def open_bounded(path: Path, limits: Limits) -> Iterator[io.FileIO]:
    """Open a regular file within `limits`. Raises ImageError for anything else, an empty file among it."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ImageError(f"this is not a regular file: give the path of a {READ} file")
        raw = io.FileIO(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise ImageError(f"the file cannot be opened ({reason}): give the path of a {READ} file") from error
    with raw:
        byte_count = os.fstat(raw.fileno()).st_size
        if byte_count == 0:
            raise ImageError("the file is empty (0 bytes): export or copy it again")
        if byte_count > limits.max_file_bytes:
            raise ImageError(
                f"the file has {byte_count >> 20} MiB, more than the limit of "
                f"{limits.max_file_bytes >> 20} MiB: export the image smaller"
            )
        yield raw


def sniff(source: io.BytesIO) -> FileFormat:
    """The format by its first bytes; the reader is left at its start. Raises ImageError for any other content."""
    source.seek(0)
    head = source.read(_HEAD_BYTES)
    source.seek(0)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileFormat.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return FileFormat.JPEG
    if is_dicom(head):  # before TIFF: a DICOM file's preamble may make it both
        return FileFormat.DICOM
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # the last two: BigTIFF
        return FileFormat.TIFF
    if is_nifti(inflate_start(head) if head.startswith(GZIP) else head):
        return FileFormat.NIFTI
    what, advice = describe(head)
    if not what:
        raise ImageError(f"this is not a {READ} file: export the image in one of these formats")
    raise ImageError(f"this is {what}, which is not read: {advice or f'export the image as {READ}'}")


def is_dicom(head: bytes) -> bool:
    """Whether a file begins as DICOM: with its preamble, or without it at the file meta information (PS3.10 7.1)."""
    if head[128:132] == b"DICM" or head.startswith(b"DICM\x02\0"):
        return True
    if head[:2] == b"\x02\0" and head[2:4] in (b"\0\0", b"\x01\0", b"\x02\0", b"\x10\0") and head[4:6].isupper():
        return True
    return _is_bare_dicom(head)


def _is_bare_dicom(head: bytes) -> bool:
    """Whether a file begins with a data set's group 8, as files without meta information do: with a VR or a length."""
    has_vr = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] == b"\0\x08":
        return head[2:3] == b"\0" and has_vr
    return head[:2] == b"\x08\0" and head[3:4] == b"\0" and (has_vr or head[5:8] == bytes(3))


GZIP = b"\x1f\x8b\x08"
_NIFTI_HEADER_BYTES = 540
_HEAD_BYTES = 4096
"""Enough for the names that a gzip file may begin with, and for small parts."""


def is_nifti(head: bytes) -> bool:
    """Whether a file that is not compressed begins as NIfTI-1 or NIfTI-2 in one file."""
    return head[344:348] == b"n+1\0" or head[4:12] == b"n+2\0\r\n\x1a\n"


def inflate_start(compressed: bytes) -> bytes:
    """As much of the beginning of a gzip file, of one part or several, as these bytes give; none if damaged."""
    plain = b""
    try:
        while compressed.startswith(GZIP) and len(plain) < _NIFTI_HEADER_BYTES:
            inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
            plain += inflater.decompress(compressed, _NIFTI_HEADER_BYTES)
            compressed = inflater.unused_data
    except zlib.error:
        return plain
    return plain


def choose_frame(choice: FrameChoice, frames: int) -> int:
    """Index of the picture to read, from 0. Raises ImageError if there are several and none is to be chosen."""
    if frames < 1:
        raise ImageError("the file holds no picture: export it again")
    if frames == 1 or choice is FrameChoice.FIRST:
        return 0
    if choice is FrameChoice.MIDDLE:
        return frames // 2
    raise ImageError("the file holds several pictures: export the one to diagnose as a file of its own")


@contextmanager
def guard_library(what: str, fault: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Run library code on hostile bytes: its warnings are dropped, and whatever it raises becomes one ImageError.

    The library's own words are not repeated, in the message or its cause, because they can quote the file. `fault`
    looks at the file again for what is wrong with it, and says it in words that follow `what`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImageError:
            raise
        except MemoryError:
            raise ImageError(f"{what} takes more memory to read than is allowed: export it smaller") from None
        except Exception:  # noqa: BLE001 - decoders raise anything at all on damaged input
            found = fault() or "cannot be decoded, probably because it is damaged or cut short"
            raise ImageError(f"{what} {found}: export or copy the file again") from None
