"""DICOM files that other readers forgive: what is missing or misspelt between the tags is put right in memory."""

import io
import struct
from dataclasses import replace
from typing import Final

from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import VR

from imaging.dicom.syntax import DicomFile

_VRS: Final = frozenset(str(known.value).encode() for known in VR if len(known.value) == 2)
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length has 32 bits, after two bytes of nothing."""
_ITEMS: Final = 0xFFFE
_PIXELS: Final = 0x7FE0
_UNDEFINED: Final = 0xFFFFFFFF
_MOST_MENDED: Final = 10_000
_MOST_BYTES: Final = 8 << 20
_END_OF_SEQUENCE: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"


def with_known_vrs(file: DicomFile) -> DicomFile | None:
    """The same file with a VR in the place of each that the standard does not have; None where there is none.

    Such a tag (`??`, blanks or zeros for its VR) makes readers lose their way. Its value is one of text from now on.
    """
    if file.transfer_syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        return None
    file.source.seek(0)
    content = bytearray(file.source.read())
    places = _unknown_vrs(content, file)
    if not places:
        return None
    for at in places:
        content[at : at + 2] = b"LO"
    return replace(file, source=io.BytesIO(content))


def with_end(file: DicomFile) -> DicomFile:
    """The same file with the delimiter that ends compressed pixels, for those that lack it."""
    file.source.seek(0)
    return replace(file, source=io.BytesIO(file.source.read() + _END_OF_SEQUENCE))


def _unknown_vrs(content: bytearray, file: DicomFile) -> list[int]:
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
