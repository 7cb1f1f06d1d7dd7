"""A picture as it is and inverted, side by side, for whoever has to say which one looks right."""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LABELS: Final = ("as it is: --as-is", "inverted: --invert")
_LEAST_WIDTH: Final = 240
"""Pixels of each picture: less would not hold its label."""
_GAP: Final = 16
_GROUND: Final = 24
"""Grey of what is no picture: neither picture's black or white."""


def draw_both_ways(picture: NDArray[np.uint8]) -> bytes:
    """PNG of both, each under the option that says so. `picture`: grey, shape (rows, columns)."""
    enlarged = -(-_LEAST_WIDTH // picture.shape[1])
    shown = Image.fromarray(picture.repeat(enlarged, axis=0).repeat(enlarged, axis=1))
    size = max(16, shown.width // 24)
    font, top = ImageFont.load_default(size), 2 * size
    sheet = Image.new("L", (2 * shown.width + 3 * _GAP, top + shown.height + _GAP), _GROUND)
    pen = ImageDraw.Draw(sheet)
    for index, (label, one) in enumerate(zip(LABELS, (shown, shown.point(lambda value: 255 - value)), strict=True)):
        left = _GAP + index * (shown.width + _GAP)
        pen.text((left, size // 2), label, fill=255, font=font)
        sheet.paste(one, (left, top))
    target = io.BytesIO()
    sheet.save(target, "PNG")
    return target.getvalue()
