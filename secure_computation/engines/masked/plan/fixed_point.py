"""From a model input to the integers of a masked plan, and from its output's integers to logits. Both run at P0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering


def quantise_image(lowering: MaskedLowering, image: NDArray[np.float32]) -> NDArray[np.int64]:
    """Round a model input, float32 of the network's input shape, to the plan's integers. Runs at the data owner.

    Raises ImageError where shape or values are not those of the plan's input.
    """
    step = lowering.steps[0]
    if image.shape != step.shape:
        raise ImageError(f"the image has shape {image.shape}, the plan asks for {step.shape}: prepare it by the card")
    integers = np.rint(image.astype(np.float64) * step.value.scale)
    if not np.isfinite(integers).all() or np.abs(integers).max() >= 1 << min(62, step.value.worst_case_bits):
        raise ImageError("the image holds values beyond the plan's input: prepare it by the model's card")
    return integers.astype(np.int64)


def logits_of(lowering: MaskedLowering, integers: NDArray[Any]) -> NDArray[np.float64]:
    """Real logits, float64, of the output integers."""
    return np.asarray(integers, dtype=np.float64) / lowering.step(lowering.output).value.scale
