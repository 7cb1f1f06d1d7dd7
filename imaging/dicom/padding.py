"""Pixels outside the picture (PS3.3 C.7.5.1.1.2): they say nothing about the range of grey values."""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging.dicom.bits import Samples
from imaging.dicom.header import PixelLayout
from imaging.dicom.tags import integer, number, numbers
from imaging.formats import ImageWarning

PADDING_TAGS = tuple(
    f"{kind}PixelPadding{what}" for kind in ("", "Float", "DoubleFloat") for what in ("Value", "RangeLimit")
)


def padded(
    stored: NDArray[np.integer] | NDArray[np.floating], samples: Samples | None, told: Dataset, layout: PixelLayout
) -> NDArray[np.bool] | None:
    """Which pixels are padding, (rows, columns), by their stored values; None where none is, or all are.

    Padding that needs more bits than are stored is looked for in all bits that are there.
    """
    values: NDArray[np.integer] | NDArray[np.floating] = stored
    if samples is None:
        kind = "Float" if layout.allocated == 32 else "DoubleFloat"
        ends = [number(told, f"{kind}PixelPadding{what}") for what in ("Value", "RangeLimit")]
    else:
        whole = [integer(told, f"PixelPadding{what}") for what in ("Value", "RangeLimit")]
        as_stored = [None if value is None else _as_stored(value, layout) for value in whole]
        if any(end is None and value is not None for end, value in zip(as_stored, whole, strict=True)):
            values = samples.patterns
            as_stored = [None if value is None else value % (1 << layout.allocated) for value in whole]
        ends = list[float | None](as_stored)
    if ends[0] is None:
        return None
    value, limit = ends[0], ends[0] if ends[1] is None else ends[1]
    found = (values >= min(value, limit)) & (values <= max(value, limit))
    return found if found.any() and not found.all() else None


def padding_remarks(told: Dataset) -> tuple[ImageWarning, ...]:
    """A remark where the file names padding that cannot be read."""
    if all(None not in numbers(told, keyword)[:1] for keyword in PADDING_TAGS):
        return ()
    return (ImageWarning("bad-padding", "the file's padding value is no number; it was left out"),)


def _as_stored(value: int, layout: PixelLayout) -> int | None:
    """The same bits as a stored value, for the tag's VR often has the other sign; None where it needs more bits."""
    if layout.signed and value >> (layout.allocated - 1) == 1:
        value -= 1 << layout.allocated
    if not -(1 << (layout.stored - 1)) <= value < 1 << layout.stored:
        return None
    bits = value % (1 << layout.stored)
    return bits - (1 << layout.stored) if layout.signed and bits >> (layout.stored - 1) else bits
