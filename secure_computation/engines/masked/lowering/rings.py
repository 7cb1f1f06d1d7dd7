"""Second half of the lowering: rings and chunk layouts for the drafted steps, and the private integers.

Runs at the model owner, at import. The ring of a value is the widest that a reader asks for. A comparison asks for its
input's audited range, everything else for the ring of its own result, because sums and products may wrap around on the
way as long as the value that is compared in the end does not.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelFileError
from secure_computation.engines.masked.lowering.bounds import (
    Bounds,
    audit,
    bits_of,
    draft_clip_limit,
    draft_pad_constant,
    factors_of,
    weight_scale_of,
)
from secure_computation.engines.masked.lowering.calibration import RealRange, calibrate
from secure_computation.engines.masked.lowering.drafting import Drafting
from secure_computation.engines.masked.lowering.drafts import Draft, Precision, divisor_of, image_size
from secure_computation.engines.masked.plan.comparison_steps import (
    ClipStep,
    LabelStep,
    MaxPoolStep,
    ReluStep,
    TruncateStep,
)
from secure_computation.engines.masked.plan.crypten_step import CRYPTEN_SCALE, CrypTenStep
from secure_computation.engines.masked.plan.integer_weights import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.masked_lowering import (
    AddStep,
    ConcatStep,
    InputStep,
    LinearStep,
    MaskedLowering,
    MultiplyStep,
    OffsetStep,
    PadStep,
    ReshapeStep,
    Step,
    SumPoolStep,
)
from secure_computation.engines.masked.plan.step_bases import MAX_RING_BITS, MIN_RING_BITS, FixedValue
from secure_computation.network import (
    INPUT,
    NO_PADDING,
    Activation,
    AveragePool,
    Convolution2d,
    FullyConnected,
    MaxPool,
    Network,
    Pad,
    Softmax,
)
from secure_computation.private_weights import PrivateWeights

_DEFAULT: Final = Precision()
_MOST_DIVIDED_BITS: Final = 24
_FINEST_MULTIPLIER: Final = 1 << 12


def lower_masked(
    network: Network,
    weights: PrivateWeights,
    calibration: NDArray[np.float32],
    *,
    precision: Precision = _DEFAULT,
    input_magnitude: float | None = None,
    label_only: bool = False,
    ranges: Mapping[str, RealRange] | None = None,
) -> tuple[MaskedLowering, IntegerWeights]:
    """Lower a network for the masked engine.

    Args:
        network: public.
        weights: private, the model owner's.
        calibration: float32 (images, channels, height, width), typical inputs; they set scales and rings.
        precision: bits of activations, weights and headroom.
        input_magnitude: largest |value| that an input may hold; 2^headroom_bits times the calibration's where left out.
        label_only: open the label of the largest logit, and no logits.
        ranges: what `calibrate` found on these images, where it ran before.

    Returns:
        The public plan and the private integers.

    Raises:
        ModelFileError: a value needs more than 32 bits, or the calibration does not fit; the message names the layer.
    """
    ranges = calibrate(network, weights, calibration) if ranges is None else ranges
    drafting = Drafting(network, weights, dict(ranges), precision)
    output = drafting.run()
    magnitude = input_magnitude or ranges[INPUT].magnitude * (1 << precision.headroom_bits)
    bounds = audit(drafting.drafts, weights, input_magnitude=magnitude)
    rings = _Rings(drafting.drafts, output, bounds, precision, label_only=label_only)
    steps = tuple(rings.step(draft) for draft in drafting.drafts)
    if label_only:
        steps = (*steps, _label_step(steps[drafting.drafts.index(output)], {step.name for step in steps}))
    lowering = MaskedLowering(steps=steps, output=steps[-1].name if label_only else output.name)
    return lowering, round_weights(lowering, weights)


def _label_step(logits: Step, names: set[str]) -> LabelStep:
    ring = logits.value.ring_bits
    return LabelStep(
        name=next(name for name in (f"label{'_' * extra}" for extra in count()) if name not in names),
        inputs=(logits.name,),
        shape=logits.shape,
        value=FixedValue(ring_bits=MIN_RING_BITS, scale=1.0, calibrated_bits=1, worst_case_bits=1),
        ring_bits=ring,
        high_chunks=best_chunks(ring - 1),
    )


class _Rings:
    """Ring of each value, and ring of each comparison."""

    def __init__(
        self,
        drafts: list[Draft],
        output: Draft,
        bounds: dict[Draft, Bounds],
        precision: Precision,
        *,
        label_only: bool,
    ) -> None:
        self._bounds, self._precision = bounds, precision
        self._values: dict[Draft, int] = {}
        self._comparisons: dict[Draft, int] = {}
        demand = dict.fromkeys(drafts, MIN_RING_BITS)
        # Logits that are compared need a spare bit, for their differences.
        demand[output] = self._ring_for(output, signs=2, extra=1) if label_only else self._ring_for(output, signs=1)
        for draft in reversed(drafts):
            asked = self._assign(draft, demand[draft])
            for source in draft.inputs:
                demand[source] = max(demand[source], asked)

    def _ring_for(self, value: Draft, *, signs: int, extra: int = 0) -> int:
        """Bits such that |value| + extra <= 2^(bits - signs)."""
        bound = math.ceil(self._bounds[value].expected(self._precision.headroom_bits)) + extra
        return max(MIN_RING_BITS, (bound - 1).bit_length() + signs)

    def _assign(self, draft: Draft, demand: int) -> int:
        """Set the rings of a draft whose readers ask for `demand` bits; returns what it asks of its inputs."""
        asked = ring = demand
        source = draft.inputs[0] if draft.inputs else draft
        match draft.kind:
            case "relu":
                asked = max(self._ring_for(source, signs=1, extra=1 << draft.shift), draft.shift + 2)
            case "clip":
                asked = max(self._ring_for(source, signs=2, extra=1), draft_clip_limit(draft).bit_length() + 2)
            case "crypten":
                asked = self._ring_for(source, signs=2, extra=1)
            case "max_pool":
                asked = ring = max(self._ring_for(source, signs=2, extra=1), demand)
            case "truncate":
                asked, ring = self._truncation(draft, source, demand)
            case _:
                pass
        if max(asked, ring) > MAX_RING_BITS:
            raise ModelFileError(
                f"layer '{draft.name}' needs a ring of {max(asked, ring)} bits, more than {MAX_RING_BITS}: import with "
                f"fewer activation or weight bits (now {self._precision.activation_bits} and "
                f"{self._precision.weight_bits}), or train for smaller activations"
            )
        self._values[draft], self._comparisons[draft] = ring, asked
        return asked

    def _truncation(self, draft: Draft, source: Draft, demand: int) -> tuple[int, int]:
        """(ring of the comparison, ring of the result): no spare bit where the readers need no more than is left."""
        wide = max(self._ring_for(source, signs=2, extra=1), draft.shift + MIN_RING_BITS)
        if demand + draft.shift < wide:
            narrow = max(self._ring_for(source, signs=1, extra=1), demand + draft.shift)
            return narrow, narrow - draft.shift
        return wide, max(demand, wide - draft.shift)

    def step(self, draft: Draft) -> Step:  # noqa: C901, PLR0911, PLR0912  (one case for each kind of step)
        """The public step of a draft."""
        common: dict[str, Any] = {
            "name": draft.name,
            "inputs": tuple(source.name for source in draft.inputs),
            "shape": draft.shape,
            "value": self._fixed(draft),
        }
        operation, ring = draft.operation, self._comparisons[draft]
        match draft.kind:
            case "input":
                return InputStep(**common)
            case "linear":
                assert isinstance(operation, Convolution2d | FullyConnected)
                scale = weight_scale_of(draft)
                return LinearStep(**common, operation=operation, weight_scale=scale, rounding=draft.rounding)
            case "add":
                first, second = factors_of(draft)
                return AddStep(**common, factors=(first, second))
            case "multiply":
                return MultiplyStep(**common)
            case "concat":
                return ConcatStep(**common, factors=factors_of(draft))
            case "sum_pool":
                return SumPoolStep(**common, **_pool(draft), divisor=divisor_of(draft))
            case "pad":
                assert isinstance(operation, Pad)
                return PadStep(**common, padding=operation.padding, constant=draft_pad_constant(draft))
            case "reshape":
                return ReshapeStep(**common)
            case "offset":
                return OffsetStep(**common, offset=draft.rounding)
            case "relu":
                high, low = best_chunks(ring - draft.shift - 1), best_chunks(draft.shift)
                return ReluStep(**common, ring_bits=ring, shift=draft.shift, high_chunks=high, low_chunks=low)
            case "truncate":
                low = best_chunks(draft.shift)
                return TruncateStep(**common, ring_bits=ring, shift=draft.shift, low_chunks=low)
            case "crypten":
                assert isinstance(operation, Activation | Softmax)
                multiplier, divided_bits = _to_crypten(draft)
                return CrypTenStep(
                    **common,
                    function=operation.function if isinstance(operation, Activation) else "softmax",
                    ring_bits=ring,
                    multiplier=multiplier,
                    divided_bits=divided_bits,
                )
            case "max_pool":
                assert isinstance(operation, MaxPool)
                return MaxPoolStep(**common, **_pool(draft), ring_bits=ring, high_chunks=best_chunks(ring - 1))
            case "clip":
                high = best_chunks(ring - 1)
                return ClipStep(**common, ring_bits=ring, limit=draft_clip_limit(draft), high_chunks=high)
            case other:
                raise AssertionError(f"no such kind of step: {other}")

    def _fixed(self, draft: Draft) -> FixedValue:
        bounds = self._bounds[draft]
        return FixedValue(
            ring_bits=self._values[draft],
            scale=float(draft.known_scale()),
            calibrated_bits=bits_of(bounds.calibrated),
            worst_case_bits=bits_of(bounds.worst_case),
        )


def _to_crypten(draft: Draft) -> tuple[int, int]:
    """Multiplier and divided bits for CrypTen: exact where the scale is a power of two, else to 13 bits."""
    ratio = Fraction(CRYPTEN_SCALE) / draft.inputs[0].known_scale()
    for divided_bits in range(_MOST_DIVIDED_BITS + 1):
        multiplier = ratio * (1 << divided_bits)
        if (multiplier.denominator == 1 or multiplier >= _FINEST_MULTIPLIER) and multiplier < 1 << (MAX_RING_BITS - 1):
            return round(multiplier), divided_bits
    raise ModelFileError(f"the values that '{draft.name}' reads are too large or too small: train with others")


def _pool(draft: Draft) -> dict[str, Any]:
    """Geometry of a pool; a global one is a window as large as the picture."""
    operation = draft.operation
    if isinstance(operation, AveragePool | MaxPool):
        geometry = {"kernel": operation.kernel, "stride": operation.stride, "padding": operation.padding}
        counted = {"count_include_pad": operation.count_include_pad} if isinstance(operation, AveragePool) else {}
        return geometry | counted
    whole = image_size(draft.inputs[0].shape)
    return {"kernel": whole, "stride": whole, "padding": NO_PADDING}
