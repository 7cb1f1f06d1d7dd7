"""DICOM files: one frame -> decode -> modality LUT -> VOI LUT or window -> MONOCHROME1 inversion last -> [0, 1].

Pictures in colours are made grey after decoding (`colours`); they have neither LUT nor window.

Only the tags listed here are ever parsed: the patient's name and identifiers are skipped, not read, nor is any free
text; age and dates too, unless the model's card names the ages that it was made for (`patient_age`).
"""

from dataclasses import dataclass, field
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.dicom.bits import PADDING_TAGS, Samples, check_padding, extract_values, find_padding, lies_low
from imaging.dicom.colours import PALETTE_TAGS, decode_colours
from imaging.dicom.decoding import decode_grey, read_native_numbers
from imaging.dicom.display import TRANSFORMATION_TAGS, apply_modality, to_display
from imaging.dicom.frames import read_native_frame
from imaging.dicom.geometry import GEOMETRY_TAGS, check_orientation, read_body_parts, read_views
from imaging.dicom.header import GREY, HEADER_TAGS, Header, PixelLayout, read_header, read_layout
from imaging.dicom.patient import AGE_TAGS, read_years
from imaging.dicom.remarks import REMARK_TAGS, check_picture, check_polarity
from imaging.dicom.syntax import Codec, DicomFile, add_end, open_dicom
from imaging.dicom.tags import read_code, read_items
from imaging.formats import (
    DecodedFile,
    ImageWarning,
    ImageWarnings,
    Limits,
    PolaritySource,
    Values,
    choose_frame,
    guard_library,
)
from imaging.grey_scale import make_grey

_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Functional groups (PS3.3 C.7.6.16) that say of a frame what older files say of the whole."""
PARSED_TAGS: Final = (
    "Modality",
    *HEADER_TAGS,
    *GEOMETRY_TAGS,
    *REMARK_TAGS,
    *PADDING_TAGS,
    *TRANSFORMATION_TAGS,
    *PALETTE_TAGS,
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
"""All that is read of a file, except the age if the card asks for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Picture:
    """One frame on its way to a `DecodedFile`."""

    pixels: NDArray[np.float32] = field(repr=False)
    warnings: ImageWarnings
    values: Values | None = None
    polarity: PolaritySource = PolaritySource.FILE


def read_dicom(source: BinaryIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode one frame, grey of 8 to 16 bits (signed or not), of floats, or in colours of 8, to grey float32 in [0, 1].

    Which frame, and whether colours are read, is for the card to say. Its window (in units after the modality LUT) is
    used if the file has neither VOI LUT nor window; without any, the frame's own smallest and largest value, padding
    left out, become 0 and 1. Raises ImageError for everything else; size, colours and compression are judged from the
    header before memory is taken for pixels.
    """
    with guard_library("the DICOM file"):
        header = read_header(open_dicom(source))
        file, layout = header.file, read_layout(header, specification.frame, limits)
        frame = choose_frame(specification.frame, layout.frames)
        ages = () if specification.ages is None else AGE_TAGS
        tags = _read_tags(header, ages, limits)
        picture = _read_picture(file, tags, layout, specification, frame)
        parts = read_body_parts(tags)
        return DecodedFile(
            pixels=picture.pixels,
            encoding=f"{file.transfer_syntax.name}, {layout.kind}, {layout.stored} bits",
            frames=layout.frames,
            frame=frame + 1,
            modality=read_code(tags, "Modality"),
            body_part=parts[0] if parts else None,
            other_body_parts=parts[1:],
            views=read_views(tags),
            polarity=picture.polarity,
            years=read_years(tags),
            warnings=(
                *file.remarks,
                *layout.remarks,
                *picture.warnings,
                *check_picture(tags),
                *check_orientation(tags),
            ),
            values=picture.values,
        )


def _read_tags(header: Header, ages: tuple[str, ...], limits: Limits) -> Dataset:
    wanted = [*PARSED_TAGS, *ages]
    tags = dcmread(header.file.whole(limits.max_file_bytes), specific_tags=wanted)
    if header.keyword in tags or header.file.codec is Codec.NATIVE:
        return tags
    return dcmread(add_end(header.file).whole(limits.max_file_bytes), specific_tags=wanted)


def _read_picture(
    file: DicomFile, data_set: Dataset, layout: PixelLayout, specification: InputSpecification, frame: int
) -> _Picture:
    if layout.kind not in GREY:
        colours, extra = decode_colours(file, data_set, layout, frame)
        pixels, warnings = make_grey(colours, specification.colour)
        return _Picture(pixels=pixels, warnings=(*extra, *warnings))
    stored, samples, extra = _read_stored(file, data_set, layout, specification, frame)
    tags = _collect_transformations(data_set, frame)
    values, of_rescale = apply_modality(stored, tags)
    shown = to_display(values, tags, specification.window, find_padding(stored, samples, data_set, layout))
    inverted = layout.kind == "MONOCHROME1"
    if inverted:
        np.subtract(np.float32(1), shown.pixels, out=shown.pixels)
    return _Picture(
        pixels=shown.pixels,
        warnings=(*extra, *of_rescale, *shown.warnings, *check_padding(data_set)),
        values=Values(values=values, inverted=inverted, window=shown.window),
        polarity=check_polarity(data_set, layout, stored, shown.pixels),
    )


def _read_stored(
    file: DicomFile, data_set: Dataset, layout: PixelLayout, specification: InputSpecification, frame: int
) -> tuple[NDArray[np.integer] | NDArray[np.floating], Samples | None, ImageWarnings]:
    """Stored values of one frame, (rows, columns), and the patterns of bits from which they were taken."""
    if layout.is_float:
        data, remark = read_native_frame(data_set, layout, frame)
        floats = read_native_numbers(data, file, f"f{layout.allocated // 8}").reshape(layout.shape).astype(np.float64)
        if not np.isfinite(floats).all():
            raise ImageError("the DICOM file holds values that are not finite numbers: export it again")
        return floats, None, remark
    samples, extra = decode_grey(file, data_set, layout, frame, specification.colour)
    high_bit = layout.high_bit
    if lies_low(samples, stored=layout.stored, high_bit=high_bit):
        high_bit = layout.stored - 1
        text = "by the header, values lie in the upper bits of a pixel, but they lie in the lower: look at the picture"
        extra = (*extra, ImageWarning("which-bits", text, needs_confirmation=True))
    return extract_values(samples, stored=layout.stored, high_bit=high_bit, signed=layout.signed), samples, extra


def _collect_transformations(data_set: Dataset, frame: int) -> Dataset:
    """LUTs, rescale and window of one frame: its own, else those shared by all frames, else those of the file."""
    tags = Dataset()
    groups = read_items(data_set, "PerFrameFunctionalGroupsSequence")
    own = groups[frame : frame + 1]
    places = [data_set]
    for group in (*read_items(data_set, "SharedFunctionalGroupsSequence")[:1], *own):
        places += [item for name in _FRAME_GROUPS for item in read_items(group, name)[:1]]
    for place in places:
        for tag in TRANSFORMATION_TAGS:
            if tag in place:
                tags[tag] = place.get_item(tag)
    return tags
