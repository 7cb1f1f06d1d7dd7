"""Answers of a masked plan as whole numbers, in the order in which a card's reference pictures have them."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_computation.engines.interface import Answer, Label
from secure_computation.engines.masked.plan.fixed_point import quantise_image
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering


def hash_input(lowering: MaskedLowering, image: NDArray[np.float32]) -> str:
    """SHA-256 of the tensor that the plan reads, int64 in little endian. Raises ImageError as `quantise_image`."""
    return hashlib.sha256(quantise_image(lowering, image).astype("<i8").tobytes()).hexdigest()


def count_numbers(lowering: MaskedLowering) -> int:
    """How many whole numbers an answer has."""
    shown = lowering.heat_map
    return 1 if lowering.gives_label else lowering.step(lowering.output).elements + (shown.elements if shown else 0)


def to_whole_numbers(lowering: MaskedLowering, answer: Answer, heat_map: NDArray[Any] | None) -> tuple[int, ...] | None:
    """Undo `read_logits`, and the same for the map, without loss; None if the plan opens something else."""
    if isinstance(answer, Label):
        return None if answer.index is None or not lowering.gives_label else (answer.index,)
    shown = lowering.heat_map
    if lowering.gives_label or (heat_map is None) != (shown is None):
        return None
    found = [np.asarray(answer).reshape(-1) * lowering.step(lowering.output).value.scale]
    if shown is not None:
        found.append(np.asarray(heat_map).reshape(-1) * shown.value.scale)
    numbers = np.rint(np.concatenate(found))
    if numbers.size != count_numbers(lowering) or not np.isfinite(numbers).all():
        return None
    return tuple(int(number) for number in numbers)
