"""What the kinds of TIFF, PNG, JPEG and NIfTI file have in common: how one is told of, and the pictures in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.model_card import ColourChoice, FrameChoice, InputSpecification
from tests.imaging.samples import picture, specification

ROWS, COLUMNS = 24, 32
CARD = specification(colour=ColourChoice.LUMINANCE)
FIRST = specification(frame=FrameChoice.FIRST)
MIDDLE = specification(frame=FrameChoice.MIDDLE)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of file."""

    make: Callable[[], bytes]
    right: NDArray[Any] | None = None
    """The picture in [0, 1]; None: refused."""
    card: InputSpecification = CARD
    tolerance: float = 1e-5


def grey(bits: int) -> NDArray[np.uint16]:
    return picture(rows=ROWS, columns=COLUMNS, bits=bits)


def smooth() -> NDArray[np.uint8]:
    return np.add.outer(np.arange(ROWS) * 4, np.arange(COLUMNS) * 5).astype(np.uint8)


def part(values: NDArray[Any], bits: int) -> NDArray[np.float64]:
    """Of the largest value that so many bits hold."""
    return np.asarray(values / ((1 << bits) - 1))
