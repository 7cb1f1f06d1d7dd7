"""Heat maps over the picture that was submitted, as PNG: the clinician's file. Nothing of it leaves this machine.

A map is a coarse grid, 7 x 7 for a ResNet at 224 pixels, over the whole picture: the model sees all of it, resampled
without cutting anything off (`imaging.preprocessing`), so grid and picture share their edges. Shown is what speaks for
the class; cells that speak against it stay grey. Colours go from 0 to the grid's largest value, so that two maps cannot
be compared by their colours.
"""

import io
import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from plumbing.output import printable

MOST_ACROSS: Final = 4096
"""Pixels of the pictures of several classes side by side."""
CAPTION_SIZE: Final = 18
CAPTION_ROWS: Final = 26
MOST_OPAQUE: Final = 0.6
"""Of the colours, where the grid is largest: the picture stays visible below."""

# The colours' path in OKLCH: lightness and hue rise evenly at one chroma, so that equal steps look equally large.
_LIGHTNESS = (0.30, 0.92)
_CHROMA = 0.125
_HUE_DEGREES = (300.0, 460.0)
"""From purple over red to yellow."""


def draw_heat_map(picture: NDArray[np.uint8], grid: NDArray[np.float64]) -> bytes:
    """PNG of the picture under the map of one class.

    Args:
        picture: grey, shape (rows, columns).
        grid: the class activation map, shape (rows, columns) of its own, over the whole picture.
    """
    return _encode_png(_lay_over(picture, grid))


def draw_heat_maps(picture: NDArray[np.uint8], grids: Mapping[str, NDArray[np.float64]]) -> bytes:
    """PNG of the picture once for each of several classes (at least one), under its map and below its name.

    From left to right, then down, in the order given; smaller if there are many. Arguments as in `draw_heat_map`.
    """
    across = math.ceil(math.sqrt(len(grids)))
    most = max(1, MOST_ACROSS // across)
    small = Image.fromarray(picture)
    small.thumbnail((most, most))
    font = ImageFont.load_default(size=CAPTION_SIZE)
    captions = [printable(name) for name in grids]  # of the model's owner, who is not trusted with them
    width = max(small.width, min(most, max(math.ceil(font.getlength(caption)) for caption in captions)))
    height = small.height + CAPTION_ROWS
    whole = Image.new("RGB", (width * across, height * math.ceil(len(grids) / across)))
    for number, (caption, grid) in enumerate(zip(captions, grids.values(), strict=True)):
        panel = Image.new("RGB", (width, height))  # of its own: a long name must not run into the next one's
        ImageDraw.Draw(panel).text((0, 0), caption, fill="white", font=font)
        panel.paste(Image.fromarray(_lay_over(np.asarray(small), grid)), (0, CAPTION_ROWS))
        whole.paste(panel, (width * (number % across), height * (number // across)))
    return _encode_png(np.asarray(whole))


def draw_layer(grid: NDArray[np.float64], *, rows: int, columns: int) -> bytes:
    """PNG of the map of one class alone, to be laid over a picture: the more speaks for the class, the more opaque."""
    level = np.rint(_measure_strength(grid, rows=rows, columns=columns) * 255).astype(np.uint8)
    return _encode_png(np.dstack([make_colours()[level], level]))


def _lay_over(picture: NDArray[np.uint8], grid: NDArray[np.float64]) -> NDArray[np.uint8]:
    rows, columns = picture.shape
    strength = _measure_strength(grid, rows=rows, columns=columns)
    opacity = MOST_OPAQUE * strength[:, :, np.newaxis]
    over = make_colours()[np.rint(strength * 255).astype(np.uint8)]
    return np.asarray(np.rint(picture[:, :, np.newaxis] * (1 - opacity) + over * opacity), np.uint8)


def _measure_strength(grid: NDArray[np.float64], *, rows: int, columns: int) -> NDArray[np.float32]:
    """What speaks for the class, over a picture of this size, of its largest value."""
    evidence = np.maximum(grid, 0).astype(np.float32)
    if evidence.any():
        evidence /= evidence.max()
    return np.asarray(Image.fromarray(evidence).resize((columns, rows), Image.Resampling.BILINEAR)).clip(0, 1)


def _encode_png(picture: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, format="PNG")
    return target.getvalue()


def make_colours() -> NDArray[np.uint8]:
    """256 colours from little to much, uint8 (256, 3) in sRGB. OKLab: B. Ottosson 2020, a perceptual colour space."""
    lightness = np.linspace(*_LIGHTNESS, 256)
    hue = np.deg2rad(np.linspace(*_HUE_DEGREES, 256))
    a, b = _CHROMA * np.cos(hue), _CHROMA * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    from_cones = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (from_cones @ cones**3).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * encoded.T), np.uint8)
