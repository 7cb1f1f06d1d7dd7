"""How many bits an import gives the masked engine: as few as keep its logits near those of floating point.

Each layer rounds, and what it rounds away adds up with depth: what is fine enough for a ResNet-18 is not for a network
of a hundred layers. So the error is measured at import, on a few of the calibration images, by the integer reference
that the engine equals.
"""

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.calibration import calibrate
from secure_computation.engines.masked.lowering.drafts import Precision
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.network import Network
from secure_computation.private_weights import PrivateWeights

ERROR_BUDGET: Final = 0.02
"""Largest error of a logit that is taken without a word, by the largest logit."""
MOST_FINER: Final = 3
"""Bits by which an import goes beyond the usual precision; then rings are full."""
_IMAGES: Final = 3
_LOG = logging.getLogger(__name__)


def lower_within_budget(
    network: Network,
    weights: PrivateWeights,
    calibration: NDArray[np.float32],
    *,
    arithmetic: Arithmetic = Arithmetic.DITHERED,
    label_only: bool = False,
) -> MaskedLowering:
    """Lower for the masked engine with the fewest bits whose error is within ERROR_BUDGET; warn if none is.

    `calibration`: float32 (images, channels, height, width). Raises ModelFileError if the engine cannot take the
    network at its usual precision.
    """
    import torch

    from secure_computation.float_reference import evaluate

    places = [(2 * third + 1) * len(calibration) // (2 * _IMAGES) for third in range(_IMAGES)]
    images = calibration[sorted(set(places))]
    expected = evaluate(network, weights, torch.from_numpy(images)).numpy()
    ranges = calibrate(network, weights, calibration)
    precision, best, smallest = Precision(), None, np.inf
    for bits in range(MOST_FINER + 1):
        tried = Precision().finer(bits)
        try:
            lowering = lower_masked(
                network, weights, calibration, precision=tried, arithmetic=arithmetic, ranges=ranges
            )
            integers = round_weights(lowering, weights)
        except ModelFileError:
            if best is None:
                raise
            break  # its values no longer fit 32 bits
        error = _measure_error(lowering, integers, images, expected)
        if error < smallest or best is None:
            precision, best, smallest = tried, lowering, error
        if error <= ERROR_BUDGET:
            break
    if smallest > ERROR_BUDGET:
        _LOG.warning(
            "the masked engine's logits are off by up to %.1f %% of the largest on calibration images, also with the "
            "most bits that help: give real images of the model's kind with --calibration, and see what `model-owner "
            "check --samples IMAGE` says of others",
            100 * smallest,
        )
    if label_only:
        best = lower_masked(
            network,
            weights,
            calibration,
            precision=precision,
            arithmetic=arithmetic,
            label_only=True,
            ranges=ranges,
        )
    assert best is not None
    return best


def _measure_error(
    lowering: MaskedLowering, weights: IntegerWeights, images: NDArray[np.float32], expected: NDArray[np.float64]
) -> float:
    """The largest error of a logit by the largest logit."""
    from secure_computation.engines.masked.plan import reference  # loads torch, which a server does without

    integers = [reference.evaluate(lowering, weights, reference.quantise_image(lowering, image)) for image in images]
    found = [reference.read_logits(lowering, logits) for logits in integers]
    return float(np.abs(np.stack(found) - expected).max() / (np.abs(expected).max() or 1.0))
