"""The values behind a picture, small enough for a screen, for people who look at them through a window of their own.

What is submitted never depends on it: that is for the model's card to say.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contract.model_card import Window
from imaging.formats import DecodedFile
from imaging.preprocessing import for_screen

_LARGEST = 65535
PERCENT = 100.0
"""Of full brightness: the unit of files that have no other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Viewing:
    """Values as 16-bit steps from `low` to `high`."""

    steps: NDArray[np.uint16] = field(repr=False)
    """Shape (rows, columns), `PICTURE_SIDE` at most on the longer side; 0 stands for `low`, 65535 for `high`."""
    low: float
    high: float
    inverted: bool
    """Whether small values are bright."""
    window: Window
    """Where to begin: the file's own window, else everything."""


def to_viewing(decoded: DecodedFile) -> Viewing:
    """Values of a file that was read, of whatever kind."""
    told = decoded.values
    values = for_screen(decoded.pixels) * np.float32(PERCENT) if told is None else for_screen(told.values)
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-6)
    window = told.window if told is not None else None
    steps = np.rint((values - np.float32(low)) * np.float32(_LARGEST / span)).clip(0, _LARGEST)
    return Viewing(
        steps=steps.astype("<u2"),
        low=low,
        high=low + span,
        inverted=told is not None and told.inverted,
        window=window or Window(center=low + span / 2, width=span),
    )
