"""The DICOM file around a data set: preamble, file meta information, transfer syntax, and whether it can be decoded."""

import io
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import BinaryIO, Final

from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from contract.errors import ImageError

CONVERT: Final = "convert it to uncompressed or JPEG 2000"
"""Advice for what is not read."""

_HEADER_PREFIX_BYTES = 8 << 20
_PREAMBLE = bytes(128) + b"DICM"
_PLAIN_START = _PREAMBLE + b"\x02\x00\x10\x00UI\x14\x00" + ExplicitVRLittleEndian.encode() + b"\0"
"""Preamble and the one meta element (transfer syntax) that a data set in explicit VR little endian needs."""


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


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A DICOM file whose meta information was read."""

    source: BinaryIO = field(repr=False)
    """With a preamble, whether or not the file has one."""
    start: int
    """Where the data set begins."""
    transfer_syntax: UID
    has_preamble: bool

    @property
    def codec(self) -> Codec:
        """What packs the pixels."""
        return CODECS[self.transfer_syntax]

    @property
    def is_big_endian(self) -> bool:
        """Whether numbers begin with their highest byte."""
        return self.transfer_syntax == ExplicitVRBigEndian

    def beginning(self) -> BinaryIO:
        """At least the header, from the start of a plain file."""
        return self._plain(_HEADER_PREFIX_BYTES, whole=False)

    def whole(self, most_bytes: int) -> BinaryIO:
        """All of a plain file, of at most `most_bytes` once inflated."""
        return self._plain(most_bytes, whole=True)

    def _plain(self, most_bytes: int, *, whole: bool) -> BinaryIO:
        if self.transfer_syntax != DeflatedExplicitVRLittleEndian:
            self.source.seek(0)
            return self.source
        self.source.seek(self.start)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = inflater.decompress(self.source.read(), most_bytes)
        if whole and not inflater.eof:
            if inflater.unconsumed_tail:
                raise ImageError(f"the DICOM file inflates to more than {most_bytes >> 20} MiB: {CONVERT}")
            raise ImageError("the DICOM file is cut short: export or copy it again")
        return io.BytesIO(_PLAIN_START + plain)


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
        source, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
    )
    if "TransferSyntaxUID" not in meta:
        raise ImageError("the DICOM file names no transfer syntax: export it again as a complete DICOM file")
    transfer_syntax = UID(str(meta.TransferSyntaxUID).strip())
    _check(transfer_syntax)
    return DicomFile(source=source, start=source.tell(), transfer_syntax=transfer_syntax, has_preamble=has_preamble)


def _check(transfer_syntax: UID) -> None:
    if transfer_syntax in CODECS:
        return
    if transfer_syntax.is_valid and not transfer_syntax.is_private and transfer_syntax.name != transfer_syntax:
        raise ImageError(f"DICOM files compressed as '{transfer_syntax.name}' cannot be decoded here: {CONVERT}")
    raise ImageError(f"the DICOM file is in an unknown transfer syntax: {CONVERT}")
