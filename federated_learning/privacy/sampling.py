"""Which patients are in a round: drawn at the hospital, in secret, as the accountant assumes it."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_computation.randomness import Seed

MAX_PATIENTS: Final = 1 << 24


def group_by_patient(patients: Sequence[str]) -> list[NDArray[np.int64]]:
    """For each patient the places of its images in `patients`, in the order in which patients first come."""
    found: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        found.setdefault(patient, []).append(index)
    return [np.array(places, np.int64) for places in found.values()]


def count_each_picture(count: int) -> list[NDArray[np.int64]]:
    """As `group_by_patient`, where each of so many images is a patient of its own."""
    return list(np.arange(count).reshape(count, 1))


def draw_patients(count: int, *, rate: float, seed: Seed, step: int) -> NDArray[np.int64]:
    """Indices below `count`: each by itself with a chance of `rate`, rounded down to a multiple of 2^-64 (Poisson)."""
    if rate == 1:
        return np.arange(count)
    words = seed.stream(item="patients", step=step, label="draw").int64((count,)).view(np.uint64)
    return np.flatnonzero(words < np.uint64(int(rate * 2.0**64)))
