"""The heat map of a plan that gives logits: which steps are added, and in which rings. `protocols.heat_map` runs them.

Behind all others, so that every stream before them stays as it was: the head's weights as a 1 x 1 convolution on the
last feature map, and a narrow truncation to 7 bits and the headroom.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.calibration import BATCH
from secure_computation.engines.masked.plan.fixed_point import image_size
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    MAX_RING_BITS,
    MIN_RING_BITS,
    FixedValue,
    HeatMapStep,
    LinearStep,
    ReluStep,
    ReshapeStep,
    Step,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.float_reference import evaluate
from secure_computation.network import Convolution2d, FullyConnected, Network
from secure_computation.private_weights import PrivateWeights

SHOWN_BITS: Final = 7
"""Bits of the largest value of a map over the calibration images, without sign."""


@dataclass(frozen=True)
class _Head:
    classifier: LinearStep
    features: ReluStep
    """The last feature map, (channels, height, width)."""


def add_heat_map(
    network: Network,
    lowering: MaskedLowering,
    weights: PrivateWeights,
    calibration: NDArray[np.float32],
    *,
    headroom_bits: int = 2,
) -> MaskedLowering:
    """Append the heat map of every class to a plan that gives logits.

    Args:
        network: public.
        lowering: of `network`, as `lower_masked` makes it.
        weights: private, the model owner's.
        calibration: float32 (images, channels, height, width), typical inputs; they set the map's ring.
        headroom_bits: by how many bits an image may exceed the calibration.

    Raises:
        ModelFileError: the plan gives a label, its head is another, or the map does not fit a ring.
    """
    head = _find_head(lowering)
    scale = head.features.value.scale * head.classifier.weight_scale
    bound = max(1, math.ceil(scale * _largest(network, weights, head, calibration))).bit_length()
    ring = max(MIN_RING_BITS + 1, bound + headroom_bits + 1)
    if ring > MAX_RING_BITS:
        raise ModelFileError(f"the heat map needs a ring of {ring} bits, more than {MAX_RING_BITS}: import without it")
    shift = max(0, bound - SHOWN_BITS)
    exact = lowering.arithmetic is Arithmetic.EXACT
    sums = _sums_step(
        head,
        name=_free_name(lowering, "heat_map_sums"),
        value=FixedValue(ring_bits=ring, scale=scale, calibrated_bits=bound, worst_case_bits=64),
        rounding=(1 << shift) >> 1 if exact else 0,
    )
    shown = TruncateStep(
        name=_free_name(lowering, "heat_map"),
        inputs=(sums.name,),
        shape=sums.shape,
        value=FixedValue(
            ring_bits=ring - shift, scale=scale / (1 << shift), calibrated_bits=bound - shift, worst_case_bits=64
        ),
        ring_bits=ring,
        shift=shift,
        low_chunks=best_chunks(shift if exact else 0),
    )
    steps = (*(_widened(step, head.features.name, ring) for step in lowering.steps), sums, shown)
    return MaskedLowering(steps=steps, output=lowering.output, arithmetic=lowering.arithmetic)


def _sums_step(head: _Head, *, name: str, value: FixedValue, rounding: int) -> HeatMapStep:
    channels, (height, width) = head.features.shape[0], image_size(head.features.shape)
    classes = head.classifier.elements
    operation = Convolution2d(
        name=name,
        inputs=(head.features.name,),
        shape=(classes, height, width),
        weight_shape=(classes, channels, 1, 1),
        bias=False,
    )
    return HeatMapStep(
        name=name,
        inputs=operation.inputs,
        shape=operation.shape,
        value=value,
        operation=operation,
        weights_of=head.classifier.operation.name,
        weight_scale=head.classifier.weight_scale,
        rounding=rounding,
    )


def _find_head(lowering: MaskedLowering) -> _Head:
    classifier = lowering.step(lowering.output)
    if not isinstance(classifier, LinearStep) or not isinstance(classifier.operation, FullyConnected):
        raise ModelFileError("a heat map needs a plan whose output is a fully connected layer with logits")
    step: Step = lowering.step(classifier.inputs[0])
    pooled = False
    while isinstance(step, ReshapeStep | TruncateStep | SumPoolStep):
        source = lowering.step(step.inputs[0])
        if isinstance(step, SumPoolStep):
            if pooled or step.kernel != source.shape[1:] or any(step.padding):
                break
            pooled = True
        step = source
    if not pooled or not isinstance(step, ReluStep) or len(step.shape) != len(("channels", "height", "width")):
        raise ModelFileError(
            "a heat map needs a head of ReLU, global average pool and fully connected layer; "
            "give the card another output_policy"
        )
    return _Head(classifier, step)


def _largest(network: Network, weights: PrivateWeights, head: _Head, calibration: NDArray[np.float32]) -> float:
    """Largest |element| of a map in floating point over the calibration images."""
    weight = torch.tensor(weights[head.classifier.weight_name])
    found = [0.0]

    def observe(name: str, value: torch.Tensor) -> None:
        if name == head.features.name:
            found.append(float(torch.einsum("kc,bcyx->bkyx", weight, value).abs().max()))

    for start in range(0, len(calibration), BATCH):
        batch = torch.from_numpy(calibration[start : start + BATCH])
        evaluate(network, weights, batch, dtype=torch.float32, observe=observe)
    return max(found)


def _widened(step: Step, name: str, ring: int) -> Step:
    """The feature map in a ring that its second reader needs too."""
    if step.name != name or step.value.ring_bits >= ring:
        return step
    return step.model_copy(update={"value": step.value.model_copy(update={"ring_bits": ring})})


def _free_name(lowering: MaskedLowering, base: str) -> str:
    name, taken = base, {step.name for step in lowering.steps}
    while name in taken:
        name += "_"
    return name
