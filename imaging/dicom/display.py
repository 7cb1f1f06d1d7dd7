"""DICOM's grey-scale transformations (PS3.3 C.11.1 and C.11.2), from stored values straight to [0, 1].

Lookup tables are read as vendors write them.
"""

import math
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from contract.errors import ImageError
from contract.model_card import Window
from imaging.dicom.tags import has_decimal_comma, read_code, read_content, read_items, read_numbers
from imaging.formats import ImageWarning, ImageWarnings
from imaging.grey_scale import LARGEST, apply_window, stretch, stretch_to_range

_NUMBERS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
TRANSFORMATION_TAGS = (*_NUMBERS, "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


_WORDS = 1 << 16
_FEWEST_BITS, _MOST_BITS = 8, 16


@dataclass(frozen=True, kw_only=True, eq=False)
class LookupTable:
    """Entries, and what its descriptor says of them."""

    entries: NDArray[np.float32] = field(repr=False)
    first: int
    """The value that is mapped to the first entry, as 16 bits without a sign: see `look_up`."""
    declared_bits: int

    @property
    def used_bits(self) -> int:
        """The depth of the entries that are there: what the largest needs, and 8 at least."""
        return max(int(self.entries.max()).bit_length(), _FEWEST_BITS)

    def look_up(self, values: NDArray[np.integer] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Values through the table; those outside take the nearest end."""
        first = self._choose_first(int(np.rint(values.min())), int(np.rint(values.max())), len(self.entries))
        index = np.rint(values).astype(np.int64) - first
        return self.entries[np.clip(index, 0, len(self.entries) - 1, out=index)]

    def _choose_first(self, smallest: int, largest: int, entries: int) -> int:
        """The first mapped value with its sign, which files write under either VR: where the table meets the values.

        If it would with and without a sign, the same; if it would with neither, the nearer one.
        """
        if self.first < _WORDS >> 1:
            return self.first
        negative = self.first - _WORDS

        def common(first: int) -> int:
            return min(largest, first + entries - 1) - max(smallest, first)

        if common(negative) == common(self.first):
            return negative if smallest < 0 else self.first
        return max(negative, self.first, key=common)


def read_lookup_table(item: Dataset) -> LookupTable | None:
    """A table of 8 to 16 bits; None if its descriptor or its data make none."""
    descriptor = read_numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or any(value is None or value != int(value) for value in descriptor):
        return None
    count, first, bits = (int(value or 0) for value in descriptor)
    count = count % _WORDS or _WORDS
    entries = _read_entries(item, count)
    if entries is None:
        return None
    return LookupTable(entries=entries.astype(np.float32), first=first % _WORDS, declared_bits=bits)


def is_empty(item: Dataset) -> bool:
    """Whether an item has tags without a descriptor or entries in them: some programs write it for no table."""
    return "LUTDescriptor" in item and not read_numbers(item, "LUTDescriptor") and not read_content(item, "LUTData")[0]


def _read_entries(item: Dataset, count: int) -> NDArray[np.unsignedinteger] | None:
    """The entries: words, or bytes packed two to a word, the first in the lower half."""
    data, little_endian = read_content(item, "LUTData")
    words = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if little_endian else ">u2")
    if len(words) >= count:
        return words[:count]
    if len(data) in (count, count + 1):
        packed = words.astype("<u2").view(np.uint8)
        return packed[:count] if len(packed) >= count else np.frombuffer(data, np.uint8)
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """Grey values for the screen, before the inversion of MONOCHROME1."""

    pixels: NDArray[np.float32] = field(repr=False)
    warnings: ImageWarnings = ()
    window: Window | None = None
    """Where people who look begin: the file's own linear window, or the range of what is no padding."""


def apply_modality(
    stored: NDArray[np.integer] | NDArray[np.floating], tags: Dataset
) -> tuple[NDArray[np.float32], ImageWarnings]:
    """Stored values -> output units of the modality LUT or rescale; unchanged if the file has neither."""
    sequence = read_items(tags, "ModalityLUTSequence")
    if sequence and not is_empty(sequence[0]):
        table = read_lookup_table(sequence[0])
        if table is None:
            raise ImageError(
                "the DICOM header holds a modality lookup table that cannot be used: export the file again"
            )
        return table.look_up(stored), ()
    values = stored.astype(np.float32)
    slopes, intercepts = read_numbers(tags, "RescaleSlope"), read_numbers(tags, "RescaleIntercept")
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
    values: NDArray[np.float32], tags: Dataset, card_window: Window | None, padding: NDArray[np.bool] | None
) -> Shown:
    """Values -> [0, 1] by the file's VOI LUT, else its window, else the card's window, else the values' own range."""
    remarks = list(_check_comma(tags))
    sequence = read_items(tags, "VOILUTSequence")
    table = next((table for table in map(read_lookup_table, sequence) if table is not None), None)
    if table is not None:
        return _apply_table(table, values, remarks)
    if sequence or ("VOILUTSequence" in tags and tags.get_item("VOILUTSequence").value):
        remarks.append(
            ImageWarning("bad-lookup-table", "the file's lookup table (VOI LUT) cannot be used; it was left out")
        )
    window, window_remarks = _choose_window(tags)
    remarks += window_remarks
    if window is not None:
        function, function_remarks = _choose_function(tags)
        pixels = apply_window(values, center=window.center, width=window.width, function=function)
        seen = None if function == "SIGMOID" else window
        return Shown(pixels=pixels, warnings=(*remarks, *function_remarks), window=seen)
    if card_window is None and padding is not None:
        pixels, smallest, largest = stretch_to_range(values, ~padding)
        width = max(largest - smallest, 1e-6)
        seen = Window(center=smallest + width / 2, width=width)
        return Shown(pixels=pixels, warnings=tuple(remarks), window=seen)
    return Shown(pixels=stretch(values, card_window), warnings=tuple(remarks))


def _apply_table(table: LookupTable, values: NDArray[np.float32], remarks: list[ImageWarning]) -> Shown:
    """By a VOI LUT, scaled by the depth of the entries that are there, whatever the descriptor says."""
    used = table.used_bits
    if used != table.declared_bits and table.entries.any():
        possible = _FEWEST_BITS <= table.declared_bits <= _MOST_BITS
        promised = f"{table.declared_bits} bits" if possible else "an impossible depth"
        text = f"the file's lookup table promises {promised} and uses {used}; it was scaled by what it uses"
        remarks.append(ImageWarning("lookup-table-depth", text))
    return Shown(pixels=np.clip(table.look_up(values) / np.float32(2**used - 1), 0, 1), warnings=tuple(remarks))


def _choose_window(tags: Dataset) -> tuple[Window | None, ImageWarnings]:
    """The first of the file's windows that is usable; no remark if the file names none at all."""
    centers, widths = read_numbers(tags, "WindowCenter"), read_numbers(tags, "WindowWidth")
    narrowest = 1.0 if _choose_function(tags)[0] == "LINEAR" else 0.0
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


def _choose_function(tags: Dataset) -> tuple[str, ImageWarnings]:
    named = read_code(tags, "VOILUTFunction")
    function = "LINEAR" if named is None else named.replace(" ", "_")
    if function in _FUNCTIONS:
        return function, ()
    text = "the file names a window function that the standard does not know; its window was used as a linear one"
    return "LINEAR", (ImageWarning("bad-window-function", text),)


def _check_comma(tags: Dataset) -> ImageWarnings:
    if not has_decimal_comma(tags, _NUMBERS):
        return ()
    text = "the file writes numbers of its window or rescale with a comma; they were read as decimals"
    return (ImageWarning("decimal-comma", text),)
