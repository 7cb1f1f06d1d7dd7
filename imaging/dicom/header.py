"""What the header says of the pixels, judged before memory is taken for them."""

import re
import struct
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pydicom import Dataset, dcmread

from contract.errors import ImageError
from contract.model_card import FrameChoice
from imaging.dicom.syntax import CONVERT, Codec, DicomFile, mend_vrs
from imaging.dicom.tags import clean_code, read_integer, read_numbers, read_texts
from imaging.formats import ImageWarning, ImageWarnings, Limits, choose_frame

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
PALETTE: Final = "PALETTE COLOR"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_KINDS = MappingProxyType({re.sub("[ _]", "", kind): kind for kind in (*GREY, PALETTE, *_COLOURS)})
"""Photometric interpretations by what is left of them without blanks and underscores."""

PIXEL_KEYWORDS: Final = MappingProxyType(
    {
        struct.pack(f"{order}2H", 0x7FE0, element): keyword
        for element, keyword in ((0x10, "PixelData"), (0x08, "FloatPixelData"), (0x09, "DoubleFloatPixelData"))
        for order in "<>"
    }
)
"""What begins the pixels, in either order of bytes."""
_FLOAT_BITS = MappingProxyType({"FloatPixelData": 32, "DoubleFloatPixelData": 64})

HEADER_TAGS: Final = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """How pixels lie in the file."""

    keyword: str
    """The tag that holds them."""
    kind: str
    """Photometric interpretation as the standard spells it."""
    kind_is_told: bool
    """Whether the file names it."""
    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    remarks: ImageWarnings = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    @property
    def frame_bytes(self) -> int:
        """Of one frame that is not compressed."""
        return self.rows * self.columns * self.samples * self.allocated // 8

    @property
    def is_float(self) -> bool:
        return self.keyword in _FLOAT_BITS


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands before the pixels of a file."""

    file: DicomFile
    """The file, in which misspelt VRs are mended."""
    tags: Dataset = field(repr=False)
    keyword: str
    """The tag that holds the pixels."""


def read_header(file: DicomFile) -> Header:
    """The tags of the layout. Raises ImageError for a file without pixels."""
    found = _try_header(file)
    if found is None and (mended := mend_vrs(file)) is not None:
        found = _try_header(mended)
    if found is None:
        raise ImageError("the DICOM file holds no picture (no pixel data), or is cut short: export the image itself")
    return found


def _try_header(file: DicomFile) -> Header | None:
    """None if no pixels follow the header."""
    source = file.beginning()
    tags = dcmread(source, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
    keyword = PIXEL_KEYWORDS.get(source.read(4))
    return None if keyword is None else Header(file=file, tags=tags, keyword=keyword)


def read_layout(found: Header, choice: FrameChoice, limits: Limits) -> PixelLayout:
    """Refuse by header alone what holds no frame to read within `limits`."""
    file, header, keyword = found.file, found.tags, found.keyword
    frames, remarks = _count_frames(header)
    choose_frame(choice, frames)
    rows, columns = _require_integer(header, "Rows"), _require_integer(header, "Columns")
    limits.check_size(rows=rows, columns=columns)
    kind, samples = _read_kind(header)
    allocated = _require_integer(header, "BitsAllocated")
    stored, high_bit, signed, assumed = _read_bits(header, allocated, keyword)
    layout = PixelLayout(
        keyword=keyword,
        kind=kind,
        kind_is_told=bool(read_texts(header, "PhotometricInterpretation")),
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=signed,
        remarks=(*remarks, *assumed),
    )
    _check_colours(layout, file)
    return layout


def _require_integer(header: Dataset, keyword: str) -> int:
    value = read_integer(header, keyword)
    if value is None:
        raise ImageError(
            f"the DICOM header is damaged, {keyword} is missing or no number: export or copy the file again"
        )
    return value


def _count_frames(header: Dataset) -> tuple[int, ImageWarnings]:
    """How many frames the header promises; one if it says nothing that can be read."""
    written = read_numbers(header, "NumberOfFrames")
    count = read_integer(header, "NumberOfFrames")
    if written and (count is None or count < 0):
        text = "the header's number of frames cannot be right; the first frame was read"
        return 1, (ImageWarning("bad-number-of-frames", text),)
    return count or 1, ()


def _read_bits(header: Dataset, allocated: int, keyword: str) -> tuple[int, int, bool, ImageWarnings]:
    """(BitsStored, HighBit, whether values are signed), and what was assumed if the header does not say."""
    if keyword in _FLOAT_BITS:
        if allocated != _FLOAT_BITS[keyword]:
            raise ImageError("the DICOM header contradicts itself about the bits of a pixel: export the file again")
        return allocated, allocated - 1, True, ()
    names = ("BitsStored", "HighBit", "PixelRepresentation")
    stored, high_bit, signed = written = [read_integer(header, name) for name in names]
    if stored is None:
        stored = allocated if high_bit is None else high_bit + 1
    if high_bit is None:
        high_bit = stored - 1
    if allocated not in (8, 16) or not 0 < stored <= allocated:
        raise ImageError(f"DICOM pixels of {stored} bits in {allocated} are not read: export them in 8 or 16 bits each")
    if signed not in (0, 1, None):
        raise ImageError("the DICOM header does not say whether pixels have a sign: export the file again")
    if not stored - 1 <= high_bit < allocated:
        raise ImageError("the DICOM header contradicts itself about the bits of a pixel: export the file again")
    missing = [name for name, value in zip(names, written, strict=True) if value is None]
    if not missing:
        return stored, high_bit, bool(signed), ()
    text = f"the header lacks {', '.join(missing)}; its usual value was assumed"
    return stored, high_bit, bool(signed), (ImageWarning("header-incomplete", text),)


def _read_kind(header: Dataset) -> tuple[str, int]:
    """Photometric interpretation, as the standard spells it, and samples per pixel."""
    written = read_texts(header, "PhotometricInterpretation")
    samples = read_integer(header, "SamplesPerPixel")
    named = " ".join(written[0].upper().split()) if written else "MONOCHROME2"
    kind = _KINDS.get(re.sub("[ _]", "", named))
    expected = 3 if kind in _COLOURS else 1
    samples = samples or expected
    if kind is None:
        raise ImageError(
            f"DICOM pictures of the kind '{clean_code(named)}' (PhotometricInterpretation) are not read: "
            "export the radiograph itself in grey"
        )
    if samples != expected:
        raise ImageError(
            f"the DICOM header contradicts itself: it names {samples} value(s) a pixel, and a picture of the kind "
            f"{kind}, which has {expected}: export the file again"
        )
    return kind, samples


def _check_colours(layout: PixelLayout, file: DicomFile) -> None:
    if layout.is_float and (layout.kind not in GREY or file.codec is not Codec.NATIVE):
        raise ImageError(f"floating-point DICOM pixels are read in grey and uncompressed only: {CONVERT}")
    if layout.kind in GREY:
        return
    if layout.kind != PALETTE and (layout.allocated, layout.stored) != (8, 8):
        raise ImageError("DICOM pictures in colours are read with 8 bits a colour only: export it with 8")
    if file.codec is Codec.JPEG and file.transfer_syntax not in _PLAIN_JPEG:
        raise ImageError(f"DICOM pictures in colours are not read from {file.transfer_syntax.name}: {CONVERT}")
    if file.codec is Codec.JPEG and layout.kind == "RGB":
        # Some such files hold what they say, more hold YBR: nobody can tell.
        raise ImageError(f"DICOM pictures marked RGB are not read from JPEG, which seldom holds RGB: {CONVERT}")


_PLAIN_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""JPEG whose colours Pillow decodes: baseline, and extended of 8 bits."""
