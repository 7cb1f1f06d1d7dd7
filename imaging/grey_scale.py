"""DICOM grey-scale transformations (PS3.3 C.11.1 and C.11.2), straight to [0, 1]."""

import math

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from contract.errors import ImageError
from contract.model_card import Window
from imaging.formats import ImageWarning

_LARGEST = 1e30  # leaves room for differences of two values in float32


def apply_modality(stored: NDArray[np.integer], data_set: Dataset) -> NDArray[np.float32]:
    """Stored values -> output units of the modality LUT or rescale; unchanged where the file has neither."""
    sequence = data_set.get("ModalityLUTSequence")
    if sequence:
        values, _ = _look_up(stored, sequence[0])
        return values
    values = stored.astype(np.float32)
    slope, intercept = _number(data_set, "RescaleSlope"), _number(data_set, "RescaleIntercept")
    if slope is None or intercept is None:
        return values
    with np.errstate(all="ignore"):
        values *= np.float32(slope)
        values += np.float32(intercept)
    if slope == 0 or not (values.min() > -_LARGEST and values.max() < _LARGEST):
        raise ImageError("the DICOM header's rescale slope and intercept make no picture: export the file again")
    return values


def to_display(
    values: NDArray[np.float32], data_set: Dataset, card_window: Window | None
) -> tuple[NDArray[np.float32], tuple[ImageWarning, ...]]:
    """Values -> [0, 1] by the file's VOI LUT, else its window, else the card's window, else the values' own range."""
    sequence = data_set.get("VOILUTSequence")
    if sequence:
        shown, bits = _look_up(values, sequence[0])
        return np.clip(shown / np.float32(2**bits - 1), 0, 1), ()
    center, width = _number(data_set, "WindowCenter"), _number(data_set, "WindowWidth")
    if center is not None and width is not None:
        function = str(data_set.get("VOILUTFunction") or "LINEAR").upper()
        narrowest = 1.0 if function == "LINEAR" else 0.0
        if math.isfinite(center) and math.isfinite(width) and width >= narrowest and width > 0:
            return windowed(values, center=center, width=width, function=function), ()
        text = "the file's window is not usable; the image's full range was shown instead"
        return stretched(values, None), (ImageWarning("bad-window", text),)
    return stretched(values, card_window), ()


def linear_window(data_set: Dataset) -> Window | None:
    """The file's window, where it is linear and used: for people who look. See `to_display` for what is submitted."""
    center, width = _number(data_set, "WindowCenter"), _number(data_set, "WindowWidth")
    if data_set.get("VOILUTSequence") or center is None or width is None:
        return None
    linear = str(data_set.get("VOILUTFunction") or "LINEAR").upper() != "SIGMOID"
    usable = math.isfinite(center) and math.isfinite(width) and width > 0
    return Window(center=center, width=width) if linear and usable else None


def stretched(values: NDArray[np.float32], window: Window | None) -> NDArray[np.float32]:
    """Values of a file that names no window -> [0, 1]: by the card's, else from the smallest value to the largest."""
    if window is None:
        return _full_range(values)
    return windowed(values, center=window.center, width=window.width, function="LINEAR_EXACT")


def windowed(values: NDArray[np.float32], *, center: float, width: float, function: str) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output range of 0 to 1. `function`: LINEAR, LINEAR_EXACT or SIGMOID."""
    with np.errstate(all="ignore"):
        if function == "SIGMOID":
            curve: NDArray[np.float32] = 1 / (1 + np.exp(np.float32(-4 / width) * (values - np.float32(center))))
            return curve
        if function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:  # LINEAR with a width of 1: a threshold
            return (values > np.float32(center)).astype(np.float32)
        shown: NDArray[np.float32] = (values - np.float32(center - width / 2)) / np.float32(width)
    return np.clip(np.nan_to_num(shown), 0, 1, out=shown)


def _full_range(values: NDArray[np.float32]) -> NDArray[np.float32]:
    smallest, largest = values.min(), values.max()
    if smallest == largest:
        return np.zeros_like(values)
    shown: NDArray[np.float32] = (values - smallest) / (largest - smallest)
    return np.clip(shown, 0, 1, out=shown)


def _look_up(values: NDArray[np.integer] | NDArray[np.float32], item: Dataset) -> tuple[NDArray[np.float32], int]:
    """Values through one item of a LUT sequence, and the bits of its entries; values outside take the nearest end."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 1 << 16
    if not 8 <= bits <= 16:
        raise ImageError("the DICOM header holds a lookup table that is not of 8 to 16 bits: export the file again")
    if first >= 1 << 15 and values.min() < 0:  # a negative first value in an unsigned tag
        first -= 1 << 16
    table = _table(item, entries)
    index = np.rint(values).astype(np.int64) - first
    return table[np.clip(index, 0, entries - 1, out=index)], bits


def _table(item: Dataset, entries: int) -> NDArray[np.float32]:
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if item.original_encoding[1] is not False else ">"
        kind = np.dtype("u1") if len(data) in (entries, entries + 1) else np.dtype(f"{order}u2")
        data = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], dtype=kind)
    table = np.atleast_1d(np.asarray(data, dtype=np.float32))
    if table.ndim != 1 or len(table) < entries:
        raise ImageError("the DICOM header holds a lookup table that is too short: export the file again")
    return table[:entries]


def _number(data_set: Dataset, keyword: str) -> float | None:
    """The first value of a decimal string tag; None where absent or empty."""
    value = data_set.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)
