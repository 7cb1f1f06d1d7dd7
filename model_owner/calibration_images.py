"""The images on which the ranges of a model's values are measured at import.

Real images of the kind that the model is made for are best (`--calibration`). Without any, phantom radiographs that the
project draws stand in for them: several patients, each bright and dark, hard and soft. The plan keeps two bits of
headroom above what they reach, and `model-owner check --samples IMAGE` shows how far real images get.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from contract.model_card import InputSpecification
from imaging.phantom import draw_phantom
from imaging.preprocessing import to_model_input
from imaging.reading import read_model_input

PATIENTS: Final = 8
EXPOSURES: Final = (0.5, 1.0, 2.0)
"""Exponents that brighten or darken a phantom."""


def load_calibration_images(specification: InputSpecification, files: Sequence[Path]) -> NDArray[np.float32]:
    """Model inputs, float32 (images, channels, height, width): of `files`, or of phantoms if there are none.

    Raises ImageError for a file that cannot be read, which it names.
    """
    if files:
        return np.stack([_read(path, specification) for path in files])
    return np.stack([to_model_input(pixels, specification) for pixels in _draw_phantoms(specification)])


def _read(path: Path, specification: InputSpecification) -> NDArray[np.float32]:
    try:
        return read_model_input(path, specification).tensor
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _draw_phantoms(specification: InputSpecification) -> Iterator[NDArray[np.float64]]:
    side = max(specification.height, specification.width)
    for seed in range(PATIENTS):
        phantom = draw_phantom(seed=seed, side=side)
        for exponent in EXPOSURES:
            yield phantom**exponent
    # Extremes that no patient gives: all black, all white, and a checkerboard of both.
    yield np.zeros((side, side))
    yield np.ones((side, side))
    yield (np.indices((side, side)).sum(axis=0) // 4 % 2).astype(np.float64)
