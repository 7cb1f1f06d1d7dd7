"""DICOM's grey-scale transformations (PS3.3 C.11.1 and C.11.2), from stored values straight to [0, 1]."""

import math
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from contract.errors import ImageError
from contract.model_card import Window
from imaging.dicom.lookup_table import LookupTable, is_depth, is_empty, read_lookup_table
from imaging.dicom.tags import code, has_decimal_comma, items, numbers
from imaging.formats import ImageWarning
from imaging.grey_scale import LARGEST, full_range, stretched, windowed

TRANSFORMATION_TAGS = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
_NUMBERS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """Grey values for the screen, before the inversion of MONOCHROME1."""

    pixels: NDArray[np.float32] = field(repr=False)
    warnings: tuple[ImageWarning, ...] = ()
    window: Window | None = None
    """Where people who look begin: the file's own linear window, or the range of what is no padding."""


def apply_modality(
    stored: NDArray[np.integer] | NDArray[np.floating], told: Dataset
) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...]]:
    """Stored values -> output units of the modality LUT or rescale; unchanged where the file has neither."""
    sequence = items(told, "ModalityLUTSequence")
    if sequence and not is_empty(sequence[0]):
        table = read_lookup_table(sequence[0])
        if table is None:
            raise ImageError(
                "the DICOM header holds a modality lookup table that cannot be used: export the file again"
            )
        return table.look_up(stored), ()
    values = stored.astype(np.float32)
    slopes, intercepts = numbers(told, "RescaleSlope"), numbers(told, "RescaleIntercept")
    if not slopes and not intercepts:
        return values, ()
    slope, intercept = slopes[0] if slopes else 1.0, intercepts[0] if intercepts else 0.0
    if slope is None or intercept is None:
        raise ImageError("the DICOM header's rescale slope or intercept is no number: export the file again")
    with np.errstate(all="ignore"):
        values *= np.float32(slope)
        values += np.float32(intercept)
    if slope == 0 or not (values.min() > -LARGEST and values.max() < LARGEST):
        raise ImageError("the DICOM header's rescale slope and intercept make no picture: export the file again")
    if slopes and intercepts:
        return values, ()
    text = "the file gives only one of rescale slope and intercept; 1 or 0 was taken for the other"
    return values, (ImageWarning("rescale-incomplete", text),)


def to_display(
    values: NDArray[np.float32], told: Dataset, card_window: Window | None, padding: NDArray[np.bool] | None
) -> Shown:
    """Values -> [0, 1] by the file's VOI LUT, else its window, else the card's window, else the values' own range."""
    remarks = list(_comma(told))
    sequence = items(told, "VOILUTSequence")
    table = next((table for table in map(read_lookup_table, sequence) if table is not None), None)
    if table is not None:
        return _through(table, values, remarks)
    if sequence or ("VOILUTSequence" in told and told.get_item("VOILUTSequence").value):
        remarks.append(
            ImageWarning("bad-lookup-table", "the file's lookup table (VOI LUT) cannot be used; it was left out")
        )
    window, window_remarks = _window(told)
    remarks += window_remarks
    if window is not None:
        function, function_remarks = _function(told)
        pixels = windowed(values, center=window.center, width=window.width, function=function)
        seen = None if function == "SIGMOID" else window
        return Shown(pixels=pixels, warnings=(*remarks, *function_remarks), window=seen)
    if card_window is None and padding is not None:
        pixels, smallest, largest = full_range(values, ~padding)
        width = max(largest - smallest, 1e-6)
        seen = Window(center=smallest + width / 2, width=width)
        return Shown(pixels=pixels, warnings=tuple(remarks), window=seen)
    return Shown(pixels=stretched(values, card_window), warnings=tuple(remarks))


def _through(table: LookupTable, values: NDArray[np.float32], remarks: list[ImageWarning]) -> Shown:
    """By a VOI LUT, scaled by the depth of the entries that are there, whatever the descriptor says."""
    used = table.used_bits
    if used != table.declared_bits and table.entries.any():
        promised = f"{table.declared_bits} bits" if is_depth(table.declared_bits) else "an impossible depth"
        text = f"the file's lookup table promises {promised} and uses {used}; it was scaled by what it uses"
        remarks.append(ImageWarning("lookup-table-depth", text))
    return Shown(pixels=np.clip(table.look_up(values) / np.float32(2**used - 1), 0, 1), warnings=tuple(remarks))


def _window(told: Dataset) -> tuple[Window | None, tuple[ImageWarning, ...]]:
    """The first of the file's windows that is usable; no remark where the file names none at all."""
    centers, widths = numbers(told, "WindowCenter"), numbers(told, "WindowWidth")
    narrowest = 1.0 if _function(told)[0] == "LINEAR" else 0.0
    for position, (center, width) in enumerate(zip_longest(centers, widths)):
        if center is None or width is None or not (math.isfinite(center) and math.isfinite(width)):
            continue
        if width >= narrowest and width > 0:
            text = f"the file's first window is not usable; its window number {position + 1} was used instead"
            return Window(center=center, width=width), (ImageWarning("bad-window", text),) if position else ()
    if not centers and not widths:
        return None, ()
    text = "the file's window is not usable; the picture is shown as if the file named none"
    return None, (ImageWarning("bad-window", text),)


def _function(told: Dataset) -> tuple[str, tuple[ImageWarning, ...]]:
    named = code(told, "VOILUTFunction")
    function = "LINEAR" if named is None else named.replace(" ", "_")
    if function in _FUNCTIONS:
        return function, ()
    text = "the file names a window function that the standard does not know; its window was used as a linear one"
    return "LINEAR", (ImageWarning("bad-window-function", text),)


def _comma(told: Dataset) -> tuple[ImageWarning, ...]:
    if not has_decimal_comma(told, _NUMBERS):
        return ()
    text = "the file writes numbers of its window or rescale with a comma; they were read as decimals"
    return (ImageWarning("decimal-comma", text),)
