"""The DICOM file around a data set: preamble, file meta information, transfer syntax, and whether it can be decoded.

What other readers forgive is put right in memory: a misspelt VR, a missing end.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import BinaryIO, Final, cast

from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from contract.errors import ImageError
from imaging.formats import ImageWarning, ImageWarnings

CONVERT: Final = "convert it to uncompressed or JPEG 2000"
"""Advice for what is not read."""

_HEADER_PREFIX_BYTES = 8 << 20
MOST_READS: Final = 400_000
"""Each tag takes one or two; files of a thousand frames, with all that is said of each, have some 100,000."""
_PREAMBLE = bytes(128) + b"DICM"
_NEWER = MappingProxyType(
    {
        "1.2.840.10008.1.2.4.110": "JPEG XL (Lossless)",
        "1.2.840.10008.1.2.4.111": "JPEG XL (JPEG Recompression)",
        "1.2.840.10008.1.2.4.112": "JPEG XL",
        "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
    }
)
"""Names that pydicom does not know yet."""


class Codec(StrEnum):
    """What packs the pixels."""

    NATIVE = "native"
    RUN_LENGTHS = "run lengths"
    JPEG = "JPEG"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"


HIGH_THROUGHPUT: Final = tuple(f"1.2.840.10008.1.2.4.{last}" for last in (201, 202, 203))
"""JPEG 2000 by its faster coder: lossless, lossless by resolution, and any."""
CODECS: Final = MappingProxyType(
    {
        "1.2.840.10008.1.2": Codec.NATIVE,  # implicit VR little endian
        "1.2.840.10008.1.2.1": Codec.NATIVE,  # explicit VR little endian
        "1.2.840.10008.1.2.1.99": Codec.NATIVE,  # deflated explicit VR little endian
        "1.2.840.10008.1.2.2": Codec.NATIVE,  # explicit VR big endian
        "1.2.840.10008.1.2.5": Codec.RUN_LENGTHS,
        "1.2.840.10008.1.2.4.50": Codec.JPEG,  # baseline
        "1.2.840.10008.1.2.4.51": Codec.JPEG,  # extended
        "1.2.840.10008.1.2.4.53": Codec.JPEG,  # spectral selection, retired
        "1.2.840.10008.1.2.4.55": Codec.JPEG,  # full progression, retired
        "1.2.840.10008.1.2.4.57": Codec.JPEG,  # lossless
        "1.2.840.10008.1.2.4.70": Codec.JPEG,  # lossless, first-order prediction
        "1.2.840.10008.1.2.4.80": Codec.JPEG_LS,  # lossless
        "1.2.840.10008.1.2.4.81": Codec.JPEG_LS,  # near-lossless
        "1.2.840.10008.1.2.4.90": Codec.JPEG_2000,  # lossless
        "1.2.840.10008.1.2.4.91": Codec.JPEG_2000,
    }
    | dict.fromkeys(HIGH_THROUGHPUT, Codec.JPEG_2000)
)
"""Transfer syntax -> what packs the pixels; one each, so that a file never reads in two ways."""


class CountedReader(io.RawIOBase):
    """A file for pydicom, which looks at each tag and item in turn: after `MOST_READS` looks it is refused."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source, self._left = source, MOST_READS

    def read(self, size: int = -1, /) -> bytes:
        """As the source does. Raises ImageError when there were too many before."""
        self._left -= 1
        if self._left < 0:
            raise ImageError("the DICOM file is made of too many tags to be a picture: export the image itself again")
        return self._source.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A DICOM file whose meta information was read."""

    source: BinaryIO = field(repr=False)
    """With a preamble, whether or not the file has one."""
    start: int
    """Where the data set begins."""
    transfer_syntax: UID
    has_preamble: bool
    syntax_is_told: bool = True
    """Whether the file names its transfer syntax, or it was seen from how the first tag is written."""

    @property
    def codec(self) -> Codec:
        return CODECS[self.transfer_syntax]

    @property
    def is_big_endian(self) -> bool:
        """Whether numbers begin with their highest byte."""
        return self.transfer_syntax == ExplicitVRBigEndian

    def beginning(self) -> CountedReader:
        """At least the header, from the start of a plain file."""
        return self._plain(_HEADER_PREFIX_BYTES, whole=False)

    def whole(self, most_bytes: int) -> CountedReader:
        """All of a plain file, of at most `most_bytes` once inflated."""
        return self._plain(most_bytes, whole=True)

    @property
    def remarks(self) -> ImageWarnings:
        """What the file lacks at its beginning."""
        found: list[ImageWarning] = []
        if not self.has_preamble:
            text = "the file lacks the beginning of a DICOM file (its preamble); it was read"
            found.append(ImageWarning("no-preamble", text))
        if not self.syntax_is_told:
            text = "the file does not say how it is written (its transfer syntax); it was read as it looks"
            found.append(ImageWarning("no-transfer-syntax", text))
        return tuple(found)

    def _plain(self, most_bytes: int, *, whole: bool) -> CountedReader:
        if self.transfer_syntax != DeflatedExplicitVRLittleEndian:
            self.source.seek(0)
            return CountedReader(self.source)
        self.source.seek(self.start)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = inflater.decompress(self.source.read(), most_bytes)
        if whole and not inflater.eof:
            if inflater.unconsumed_tail:
                raise ImageError(f"the DICOM file inflates to more than {most_bytes >> 20} MiB: {CONVERT}")
            raise ImageError("the DICOM file is cut short: export or copy it again")
        return CountedReader(io.BytesIO(_make_start(ExplicitVRLittleEndian) + plain))


def open_dicom(source: BinaryIO) -> DicomFile:
    """Read the file meta information. Raises ImageError for a transfer syntax that is missing or not read."""
    source.seek(0)
    head = source.read(len(_PREAMBLE))
    has_preamble = head.endswith(b"DICM")
    if not has_preamble:
        source.seek(4 if head.startswith(b"DICM") else 0)
        source = io.BytesIO(_PREAMBLE + source.read())
        source.seek(len(_PREAMBLE))
    meta = read_dataset(
        cast(BinaryIO, CountedReader(source)),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
    )
    transfer_syntax = UID(str(meta.get("TransferSyntaxUID") or "").strip(" \0"))
    if not transfer_syntax:
        return _guess_syntax(source, has_preamble=has_preamble)
    _check(transfer_syntax)
    return DicomFile(source=source, start=source.tell(), transfer_syntax=transfer_syntax, has_preamble=has_preamble)


def _guess_syntax(source: BinaryIO, *, has_preamble: bool) -> DicomFile:
    """A file that names no transfer syntax: not compressed, and written in the way of its first tag."""
    data = source.read()
    if data[4:6].isalpha() and data[4:6].isupper():
        likely = ExplicitVRBigEndian if data[:1] == b"\0" else ExplicitVRLittleEndian
    elif len(data) > len(_PREAMBLE):
        likely = ImplicitVRLittleEndian
    else:
        raise ImageError("the DICOM file is cut short: export or copy it again")
    start = _make_start(likely)
    return DicomFile(
        source=io.BytesIO(start + data),
        start=len(start),
        transfer_syntax=likely,
        has_preamble=has_preamble,
        syntax_is_told=False,
    )


def _make_start(transfer_syntax: UID) -> bytes:
    """Preamble and the one meta element (transfer syntax) that a data set needs."""
    name = transfer_syntax.encode() + b"\0" * (len(transfer_syntax) % 2)
    return _PREAMBLE + b"\x02\x00\x10\x00UI" + struct.pack("<H", len(name)) + name


def _check(transfer_syntax: UID) -> None:
    if transfer_syntax in CODECS:
        return
    name = _NEWER.get(transfer_syntax, transfer_syntax.name)
    if transfer_syntax.is_valid and not transfer_syntax.is_private and name != transfer_syntax:
        raise ImageError(f"DICOM files compressed as '{name}' cannot be decoded here: {CONVERT}")
    raise ImageError(f"the DICOM file is in an unknown transfer syntax: {CONVERT}")


_VRS: Final = frozenset(str(known.value).encode() for known in VR if len(known.value) == 2)
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length has 32 bits, after two bytes of nothing."""
_ITEMS: Final = 0xFFFE
_PIXELS: Final = 0x7FE0
_UNDEFINED: Final = 0xFFFFFFFF
_MOST_MENDED: Final = 10_000
_MOST_BYTES: Final = 8 << 20
_END_OF_SEQUENCE: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"


def mend_vrs(file: DicomFile) -> DicomFile | None:
    """The same file with a VR in the place of each that the standard does not have; None if there is none.

    Such a tag (`??`, blanks or zeros for its VR) makes readers lose their way. Its value is one of text from now on.
    """
    if file.transfer_syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        return None
    file.source.seek(0)
    content = bytearray(file.source.read())
    places = _find_unknown_vrs(content, file)
    if not places:
        return None
    for at in places:
        content[at : at + 2] = b"LO"
    return replace(file, source=io.BytesIO(content))


def add_end(file: DicomFile) -> DicomFile:
    """The same file with the delimiter that ends compressed pixels, for those that lack it."""
    file.source.seek(0)
    return replace(file, source=io.BytesIO(file.source.read() + _END_OF_SEQUENCE))


def _find_unknown_vrs(content: bytearray, file: DicomFile) -> list[int]:
    """Where unknown VRs stand, up to the pixels. Sequences and their items are walked through like any tag."""
    order, at, found = ">" if file.is_big_endian else "<", file.start, list[int]()
    while at + 8 <= min(len(content), _MOST_BYTES) and len(found) < _MOST_MENDED:
        group, _, vr, length = struct.unpack_from(f"{order}2H2sH", content, at)
        if group == _PIXELS:
            break
        if group == _ITEMS:
            at += 8
        elif vr in _LONG:
            (long,) = struct.unpack_from(f"{order}I", content[at : at + 12].ljust(12, b"\0"), 8)
            if vr != b"SQ" and long == _UNDEFINED:
                return []  # holds what is not written in this way
            at += 12 if vr == b"SQ" else 12 + long
        else:
            if vr not in _VRS:
                found.append(at + 4)
            at += 8 + length
    return found
