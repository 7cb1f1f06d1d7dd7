"""How a network becomes a plan of the masked engine. Runs at the model owner, at import.

calibrate    how large each value gets on typical images
Drafting     which steps, at which scales
audit        how large the integers of each step can get
Rings        rings and chunk layouts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.bounds import WeightSums, audit
from secure_computation.engines.masked.lowering.calibration import RealRange, calibrate
from secure_computation.engines.masked.lowering.drafting import Drafting
from secure_computation.engines.masked.lowering.drafts import Draft, Precision
from secure_computation.engines.masked.lowering.rings import Rings
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import MIN_RING_BITS, FixedValue, LabelStep, Step
from secure_computation.network import INPUT, Network
from secure_computation.private_weights import PrivateWeights

_DEFAULT: Final = Precision()


def lower_masked(
    network: Network,
    weights: PrivateWeights,
    calibration: NDArray[np.float32],
    *,
    precision: Precision = _DEFAULT,
    arithmetic: Arithmetic = Arithmetic.DITHERED,
    input_magnitude: float | None = None,
    label_only: bool = False,
    ranges: Mapping[str, RealRange] | None = None,
) -> MaskedLowering:
    """Lower a network for the masked engine.

    Args:
        network: public.
        weights: private, the model owner's.
        calibration: float32 (images, channels, height, width), typical inputs; they set scales and rings.
        precision: bits of activations, weights and headroom.
        arithmetic: how layers round.
        input_magnitude: largest |value| that an input may hold; by default 2^headroom_bits times the calibration's.
        label_only: open the label of the largest logit, and no logits.
        ranges: what `calibrate` found on these images, if it ran before.

    Returns:
        The public plan, from which `round_weights` makes the private integers.

    Raises:
        ModelFileError: a value needs more than 32 bits, or the calibration does not fit; the message names the layer.
    """
    ranges = calibrate(network, weights, calibration) if ranges is None else ranges
    return draft_masked(
        network,
        weights,
        ranges,
        precision=precision,
        arithmetic=arithmetic,
        input_magnitude=input_magnitude,
        label_only=label_only,
    ).lowering


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """A plan, and the drafts that it was made from."""

    lowering: MaskedLowering
    drafts: Sequence[Draft]


def draft_masked(
    network: Network,
    weights: PrivateWeights,
    ranges: Mapping[str, RealRange],
    *,
    precision: Precision,
    arithmetic: Arithmetic,
    input_magnitude: float | None = None,
    label_only: bool = False,
    sums: WeightSums | None = None,
) -> Drafted:
    """As `lower_masked`. `sums`: of weights, kept between plans of one model that share scales."""
    drafting = Drafting(network, weights, dict(ranges), precision, arithmetic)
    output = drafting.run()
    magnitude = input_magnitude or ranges[INPUT].magnitude * (1 << precision.headroom_bits)
    sums = {} if sums is None else sums
    bounds = audit(drafting.drafts, weights, input_magnitude=magnitude, arithmetic=arithmetic, sums=sums)
    rings = Rings(drafting.drafts, output, bounds, precision, arithmetic, label_only=label_only)
    steps: tuple[Step, ...] = tuple(rings.make_step(draft) for draft in drafting.drafts)
    name = output.name
    if label_only:
        label = _make_label_step(steps[drafting.drafts.index(output)], {step.name for step in steps})
        steps, name = (*steps, label), label.name
    lowering = MaskedLowering(steps=steps, output=name, arithmetic=arithmetic)
    return Drafted(lowering=lowering, drafts=tuple(drafting.drafts))


def _make_label_step(logits: Step, names: set[str]) -> LabelStep:
    ring = logits.value.ring_bits
    return LabelStep(
        name=next(name for name in (f"label{'_' * extra}" for extra in count()) if name not in names),
        inputs=(logits.name,),
        shape=logits.shape,
        value=FixedValue(ring_bits=MIN_RING_BITS, scale=1.0, calibrated_bits=1, worst_case_bits=1),
        ring_bits=ring,
        high_chunks=best_chunks(ring - 1),
    )
