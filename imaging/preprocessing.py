"""From a grey image in [0, 1] to the tensor that a model card asks for, and to pictures for the screen.

Training and serving share it.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.errors import ImageError
from contract.model_card import InputSpecification, Window
from imaging.formats import DecodedFile

PICTURE_SIDE: Final = 1024
"""Pixels on the longer side of a picture for the screen."""


def to_model_input(pixels: NDArray[np.floating], specification: InputSpecification) -> NDArray[np.float32]:
    """Resample, repeat over channels and normalise one grey image.

    Args:
        pixels: shape (rows, columns), values in [0, 1], as `imaging.reading.read_image` gives them.
        specification: the input part of a model card.

    Returns:
        float32, shape (channels, height, width): (resampled - mean) / standard_deviation, channel by channel.

    Raises:
        ImageError: `pixels` is not a two-dimensional, finite image.
    """
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise ImageError(f"expected one grey image of rows and columns, got shape {pixels.shape}: pass a single image")
    if not np.isfinite(pixels).all():
        raise ImageError("the image holds values that are not finite numbers: export it again")
    resampled = _bilinear_squash(pixels, height=specification.height, width=specification.width)
    mean = np.asarray(specification.mean, dtype=np.float32)[:, np.newaxis, np.newaxis]
    deviation = np.asarray(specification.standard_deviation, dtype=np.float32)[:, np.newaxis, np.newaxis]
    return (resampled[np.newaxis] - mean) / deviation


def to_picture(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A grey image in [0, 1], (rows, columns), for the screen: 8 bits, `PICTURE_SIDE` at most on the longer side."""
    return np.asarray(np.rint(shrink_for_screen(pixels).clip(0, 1) * 255), np.uint8)


def shrink_for_screen(pixels: NDArray[np.floating]) -> NDArray[np.float32]:
    """One grey image, (rows, columns), in its proportions, `PICTURE_SIDE` at most on the longer side."""
    rows, columns = pixels.shape
    factor = min(1.0, PICTURE_SIDE / max(rows, columns))
    return _bilinear_squash(pixels, height=max(1, round(rows * factor)), width=max(1, round(columns * factor)))


def _bilinear_squash(pixels: NDArray[np.floating], *, height: int, width: int) -> NDArray[np.float32]:
    """Pillow's antialiased bilinear filter in floating point; an image of the right size passes unchanged."""
    single = np.ascontiguousarray(pixels, dtype=np.float32)
    if single.shape == (height, width):
        return single
    resampled = Image.fromarray(single).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resampled, dtype=np.float32)


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
    own = decoded.values
    values = shrink_for_screen(decoded.pixels) * np.float32(PERCENT) if own is None else shrink_for_screen(own.values)
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-6)
    window = own.window if own is not None else None
    steps = np.rint((values - np.float32(low)) * np.float32(_LARGEST / span)).clip(0, _LARGEST)
    return Viewing(
        steps=steps.astype("<u2"),
        low=low,
        high=low + span,
        inverted=own is not None and own.inverted,
        window=window or Window(center=low + span / 2, width=span),
    )
