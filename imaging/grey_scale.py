"""Values -> grey in [0, 1] by a window (PS3.3 C.11.2.1) or by their own range."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.model_card import Window

LARGEST: Final = 1e30
"""Of a value, either way: leaves room for differences of two in float32."""


def stretched(values: NDArray[np.float32], window: Window | None) -> NDArray[np.float32]:
    """Values of a file that names no window -> [0, 1]: by the card's, else from the smallest value to the largest."""
    if window is None:
        return full_range(values)[0]
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


def full_range(
    values: NDArray[np.float32], counted: NDArray[np.bool] | None = None
) -> tuple[NDArray[np.float32], float, float]:
    """Values -> [0, 1] from the smallest to the largest of those that are `counted` (None: all), and these two.

    What lies outside takes the nearest end.
    """
    within = values if counted is None else values[counted]
    smallest, largest = within.min(), within.max()
    if smallest == largest:
        return (values > largest).astype(np.float32), float(smallest), float(largest)
    shown: NDArray[np.float32] = (values - smallest) / (largest - smallest)
    return np.clip(shown, 0, 1, out=shown), float(smallest), float(largest)
