"""TIFF files, read as their tags say: which value is black, how many bits count, which picture, which way up."""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from contract.model_card import InputSpecification, Window
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
from imaging.grey_scale import LARGEST, find_common_channel, make_grey, question_range, scale, stretch, turn_upright
from imaging.tiff_pages import SampleKind, TiffFile, TiffPage
from imaging.tiff_samples import check_storage, read_samples

RANGE_UNKNOWN: Final = "range-unknown"
"""Code of a warning."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YBR, _NOT_TOLD = 0, 1, 2, 3, 6, -1
_WHICH_IS_WHITE = (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
_GREY = (*_WHICH_IS_WHITE, _NOT_TOLD)
_OTHERS = {
    4: "a mask, not a picture",
    5: "in printing colours (CMYK)",
    8: "in L*a*b* colours",
    9: "in L*a*b* colours",
    10: "in L*a*b* colours",
    32803: "a camera's raw data",
    32844: "in logarithmic brightness",
    32845: "in logarithmic colours",
    34892: "a camera's raw data",
}
_JPEG = 7


def read_tiff(source: io.BytesIO, specification: InputSpecification, limits: Limits) -> DecodedFile:
    """Decode one picture of a TIFF or BigTIFF file to [0, 1].

    Whole numbers of 1 to 16 bits go from the smallest to the largest that they could hold, or that the file's
    SMinSampleValue and SMaxSampleValue name. Of 32 bits, and of decimal numbers, only the latter tell what is black and
    white: without them the card's window is used, else the picture's own range, and a question asked. Raises ImageError
    for all else; sizes and compression are judged before memory is taken.
    """
    with guard_library("the TIFF file"):
        file = TiffFile(source)
        frame = choose_frame(specification.frame, len(file))
        page = file.page(frame)
        _check_meaning(page)
        check_storage(page, limits)
        samples = turn_upright(read_samples(file, page), page.orientation)
        values = None
        if page.photometric in _GREY:
            pixels, warnings, values = _read_grey(samples[..., 0], page, specification.window)
        elif page.bits == 16 and page.photometric == _RGB and (alike := find_common_channel(samples)) is not None:
            pixels, warnings = scale(alike, page.bits)
        else:
            pixels, warnings = make_grey(_read_colours(samples, page), specification.colour)
            if page.photometric != _PALETTE:
                warnings = (*warnings, *question_range(pixels, page.bits))
        return DecodedFile(
            pixels=pixels,
            encoding=_describe_encoding(page),
            frames=len(file),
            frame=frame + 1,
            polarity=PolaritySource.FILE if page.photometric in _WHICH_IS_WHITE else PolaritySource.NOBODY,
            warnings=(*warnings, *_report_transparency(samples, page)),
            values=values,
        )


def _check_meaning(page: TiffPage) -> None:
    """Raise ImageError for a picture whose values nobody can interpret."""
    if page.photometric in _GREY:
        if page.samples > 2:
            raise ImageError(
                f"the TIFF file has {page.samples} values a pixel and does not say what they are: export a grey picture"
            )
        return
    if page.photometric not in (_RGB, _PALETTE, _YBR):
        what = _OTHERS.get(page.photometric, f"of the unknown kind {page.photometric}")
        raise ImageError(f"the TIFF file is {what}: export the radiograph itself in grey")
    if page.photometric == _YBR and page.compression != _JPEG:
        raise ImageError("TIFF files in YCbCr colours are read from JPEG only: export the radiograph itself in grey")
    depths = (1, 2, 4, 8, 16) if page.photometric == _PALETTE else (8, 16)
    if page.kind is not SampleKind.UNSIGNED or page.bits not in depths:
        raise ImageError("TIFF pictures in colours are read with 8 or 16 bits a colour only: export it with 8")
    if page.samples < (1 if page.photometric == _PALETTE else 3):
        raise ImageError("the TIFF file lacks some of its colours: export the radiograph itself in grey")


def _read_grey(
    samples: NDArray[Any], page: TiffPage, window: Window | None
) -> tuple[NDArray[np.float32], ImageWarnings, Values | None]:
    inverted = page.photometric == _WHITE_IS_ZERO
    values, warnings = None, ImageWarnings()
    if page.told_range is not None:
        pixels, warnings = _scale_within(samples, *page.told_range), _report_range(page)
    elif page.kind is SampleKind.FLOAT or page.bits > 16:
        numbers = _require_finite(samples)
        pixels, warnings = stretch(numbers, window), (_question_range(window),)
        values = Values(values=numbers, inverted=inverted)
    else:
        pixels, warnings = scale(samples, page.bits, significant_bits=_count_told_bits(page))
    if inverted:
        pixels = np.float32(1) - pixels
    return pixels, warnings, values


def _count_told_bits(page: TiffPage) -> int | None:
    """By MaxSampleValue, if it is the largest number of so many bits."""
    bits = page.told_largest.bit_length()
    return bits if bits >= 8 and page.told_largest == (1 << bits) - 1 else None


def _require_finite(samples: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        numbers = samples.astype(np.float32)
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > LARGEST:
        raise ImageError("the TIFF file holds values that are not finite numbers: export it again")
    return numbers


def _scale_within(samples: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    fractions = samples.astype(np.float64)
    fractions -= low
    fractions /= high - low
    if not np.isfinite(fractions).all():
        raise ImageError("the TIFF file holds values that are not finite numbers: export it again")
    return np.clip(fractions, 0, 1, out=fractions).astype(np.float32)


def _report_range(page: TiffPage) -> ImageWarnings:
    """A remark if the range is not what so many bits or fewer hold: some programs mean statistics by it."""
    low, high = page.told_range or (0.0, 0.0)
    whole = page.kind is not SampleKind.FLOAT and low in (0, -(1 << (page.bits - 1)))
    if whole and (high - low + 1).is_integer() and (int(high - low) + 1).bit_count() == 1:
        return ()
    text = f"the file says that black is {low:g} and white {high:g}, and the picture was read so"
    return (ImageWarning("told-range", text),)


def _question_range(window: Window | None) -> ImageWarning:
    how = "they were stretched from the smallest to the largest" if window is None else "the model's window was used"
    text = f"the file does not say which of its numbers are black and white: {how}; look at the picture"
    return ImageWarning(RANGE_UNKNOWN, text, needs_confirmation=True)


def _read_colours(samples: NDArray[Any], page: TiffPage) -> NDArray[np.uint8]:
    """(rows, columns, 3) of 8 bits."""
    if page.photometric != _PALETTE:
        return samples[..., :3] if page.bits == 8 else (samples[..., :3] >> 8).astype(np.uint8)
    entries = 1 << page.bits
    if len(page.colour_map) != 3 * entries:
        raise ImageError("the TIFF file's table of colours is damaged: export it again")
    table = page.colour_map.reshape(3, entries).T
    if table.max() > 255:  # some writers keep 8 bits where the standard asks for 16
        table = table >> 8
    return np.take(table.astype(np.uint8), samples[..., 0], axis=0)


def _report_transparency(samples: NDArray[Any], page: TiffPage) -> ImageWarnings:
    beside = samples[..., 1 if page.photometric in (*_GREY, _PALETTE) else 3 :]
    if not beside.size or beside[..., 0].min() == beside[..., 0].max() == (1 << page.bits) - 1:
        return ()
    return (ImageWarning("transparency", "the image has transparent parts; transparency was ignored"),)


def _describe_encoding(page: TiffPage) -> str:
    if page.photometric in _GREY:
        kind = "grey" if page.bits > 1 else "black and white"
    else:
        kind = "palette" if page.photometric == _PALETTE else "colour"
    numbers = {SampleKind.UNSIGNED: "", SampleKind.SIGNED: ", signed", SampleKind.FLOAT: ", decimal numbers"}[page.kind]
    return kind + (f", {page.bits} bits{numbers}" if page.bits > 1 else "")
