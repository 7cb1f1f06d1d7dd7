"""Pixels outside the picture (PS3.3 C.7.5.1.1.2): they say nothing about the range of grey values."""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging.dicom.header import PixelLayout
from imaging.dicom.tags import integer, number, numbers
from imaging.formats import ImageWarning

PADDING_TAGS = tuple(
    f"{kind}PixelPadding{what}" for kind in ("", "Float", "DoubleFloat") for what in ("Value", "RangeLimit")
)


def padded(
    stored: NDArray[np.integer] | NDArray[np.floating], told: Dataset, layout: PixelLayout
) -> NDArray[np.bool] | None:
    """Which pixels are padding, (rows, columns), by their stored values; None where none is, or all are."""
    if np.issubdtype(stored.dtype, np.floating):
        kind = "Float" if layout.allocated == 32 else "DoubleFloat"
        ends = [number(told, f"{kind}PixelPadding{what}") for what in ("Value", "RangeLimit")]
    else:
        whole = [integer(told, f"PixelPadding{what}") for what in ("Value", "RangeLimit")]
        ends = [None if value is None else _as_stored(value, layout) for value in whole]
    if ends[0] is None:
        return None
    value, limit = ends[0], ends[0] if ends[1] is None else ends[1]
    found = (stored >= min(value, limit)) & (stored <= max(value, limit))
    return found if found.any() and not found.all() else None


def padding_remarks(told: Dataset) -> tuple[ImageWarning, ...]:
    """A remark where the file names padding that cannot be read."""
    if all(None not in numbers(told, keyword)[:1] for keyword in PADDING_TAGS):
        return ()
    return (ImageWarning("bad-padding", "the file's padding value is no number; it was left out"),)


def _as_stored(value: int, layout: PixelLayout) -> int:
    """The same bits as a stored value: the tag's VR often has the other sign."""
    bits = value % (1 << layout.stored)
    return bits - (1 << layout.stored) if layout.signed and bits >> (layout.stored - 1) else bits
