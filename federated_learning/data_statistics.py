"""Sums over a hospital's images that say how to normalise and to weigh, and what follows from the hospitals' total.

Every sum is an exact integer, so that secure aggregation of hospitals' sums gives what the pooled data would.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsInt

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError

LEVELS = 4095
"""Pixel values in [0, 1] are counted in 1 / 4095: 12 bits, the depth of most radiographs."""
PIXEL_SUMS = ("pixels", "pixel_total", "pixel_squares")


def add_pixels(images: Iterable[NDArray[np.floating]]) -> dict[str, tuple[int, ...]]:
    """Sums over all pixels, by channel: how many, their values, and their squares, in units of LEVELS.

    Of images (channels, height, width) with values in [0, 1]. Raises ConfigurationError without any image.
    """
    sums: NDArray[np.object_] | None = None  # of Python's integers, which do not overflow
    for image in images:
        values = np.rint(np.clip(image, 0, 1).astype(np.float64) * LEVELS).astype(np.int64)
        own = np.array([(one.size, int(one.sum()), int((one * one).sum())) for one in values], dtype=object)
        sums = own if sums is None else sums + own
    if sums is None:
        raise ConfigurationError("there is no image to take the mean of: check the data folder")
    return {name: tuple(map(int, column)) for name, column in zip(PIXEL_SUMS, sums.T, strict=True)}


def compute_statistics(sums: Mapping[str, Iterable[SupportsInt]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, rounded to four places as a model card states them."""
    means, deviations = [], []
    for count, total, squares in zip(*(map(int, sums[name]) for name in PIXEL_SUMS), strict=True):
        if count <= 0:
            raise ConfigurationError("the hospitals' pixel sums cover no pixel: check their data")
        if not (0 <= total <= count * LEVELS and 0 <= squares <= count * LEVELS**2):
            raise ConfigurationError(
                "the hospitals' pixel sums are beyond what pixels can be: a hospital sent what it should not"
            )
        variance = (squares * count - total * total) / (count * LEVELS) ** 2
        if variance <= 0:
            raise ConfigurationError("all training images have one and the same grey value: check the data")
        means.append(round(total / (count * LEVELS), 4))
        deviations.append(max(1e-4, round(math.sqrt(variance), 4)))
    return tuple(means), tuple(deviations)


def count_classes(labels: NDArray[np.int64], classes: int) -> tuple[int, ...]:
    """How many examples each class has. Raises ConfigurationError for a label outside 0 .. classes - 1."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ConfigurationError(f"a label lies outside the {classes} classes: check the class list")
    return tuple(int(count) for count in np.bincount(labels, minlength=classes))


def weigh_classes(counts: Sequence[int], *, power: float) -> tuple[float, ...]:
    """Loss weight of each class: inverse frequency to `power`, scaled so that the mean over the examples is 1.

    Raises ConfigurationError if a class has no example at any hospital: such a model could never answer it.
    """
    empty = [index for index, count in enumerate(counts) if count <= 0]
    if empty:
        raise ConfigurationError(
            f"class number {empty[0] + 1} of {len(counts)} has no training image at any hospital: leave the class out "
            "or add images"
        )
    raw = [count**-power for count in counts]
    scale = sum(counts) / sum(weight * count for weight, count in zip(raw, counts, strict=True))
    return tuple(weight * scale for weight in raw)
