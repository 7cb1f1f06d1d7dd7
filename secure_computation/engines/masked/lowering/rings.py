"""Second half of the lowering: rings and chunk layouts for the drafted steps.

The ring of a value is the widest that a reader asks for. A comparison asks for its input's audited range, everything
else for the ring of its own result, because sums and products may wrap around on the way as long as the value that is
compared in the end does not.
"""

import math
from fractions import Fraction
from typing import Any, Final, assert_never

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.bounds import Bounds, count_bits
from secure_computation.engines.masked.lowering.drafts import Added, Draft, Precision
from secure_computation.engines.masked.plan.fixed_point import image_size, quantise_limit, quantise_padding
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.steps import (
    CRYPTEN_SCALE,
    MAX_RING_BITS,
    MIN_RING_BITS,
    AddStep,
    ClipStep,
    ConcatStep,
    CrypTenStep,
    FixedValue,
    InputStep,
    LinearStep,
    MaxPoolStep,
    MultiplyStep,
    OffsetStep,
    PadStep,
    ReluStep,
    ReshapeStep,
    Step,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.network import (
    Activation,
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Pad,
    Relu,
    Reshape,
    Softmax,
)

_MOST_DIVIDED_BITS: Final = 24
_FINEST_MULTIPLIER: Final = 1 << 12


class Rings:
    """Ring of each value, and ring of each comparison."""

    def __init__(
        self,
        drafts: list[Draft],
        output: Draft,
        bounds: dict[Draft, Bounds],
        precision: Precision,
        arithmetic: Arithmetic,
        *,
        label_only: bool,
    ) -> None:
        """Choose the rings of `drafts`, from the output back to the input."""
        self._bounds, self._precision = bounds, precision
        self._exact = arithmetic is Arithmetic.EXACT
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
        match draft.operation:
            case Relu():
                cut = draft.shift + draft.sign_cut_bits
                extra = 1 << (cut - 1 if draft.sign_cut_bits else cut)
                asked = max(self._ring_for(source, signs=1, extra=extra), cut + 2)
            case Clip():
                limit = quantise_limit(draft.operation, float(draft.known_scale()))
                asked = max(self._ring_for(source, signs=2, extra=1), limit.bit_length() + 2)
            case Activation() | Softmax():
                asked = self._ring_for(source, signs=2, extra=1)
            case MaxPool():
                asked = ring = max(self._ring_for(source, signs=2, extra=1), demand)
            case Added.TRUNCATE:
                asked, ring = self._assign_truncation(draft, source, demand)
            case Added.INPUT | Added.OFFSET | Convolution2d() | FullyConnected() | Multiply() | Add() | Concat():
                pass  # in the ring of the result: sums and products may wrap around on the way
            case AveragePool() | GlobalAveragePool() | Pad() | Reshape():
                pass
            case _ as never:
                assert_never(never)
        if max(asked, ring) > MAX_RING_BITS:
            raise ModelFileError(
                f"layer '{draft.name}' needs a ring of {max(asked, ring)} bits, more than {MAX_RING_BITS}: import with "
                f"fewer activation or weight bits (now {self._precision.activation_bits} and "
                f"{self._precision.weight_bits}), or train for smaller activations"
            )
        self._values[draft], self._comparisons[draft] = ring, asked
        return asked

    def _assign_truncation(self, draft: Draft, source: Draft, demand: int) -> tuple[int, int]:
        """(ring of the comparison, ring of the result): no spare bit where the readers need no more than is left."""
        wide = max(self._ring_for(source, signs=2, extra=1), draft.shift + MIN_RING_BITS)
        if demand + draft.shift < wide:
            extra = 1 if self._exact else 1 << draft.shift  # a dither rounds up, too
            narrow = max(self._ring_for(source, signs=1, extra=extra), demand + draft.shift)
            return narrow, narrow - draft.shift
        return wide, max(demand, wide - draft.shift)

    def make_step(self, draft: Draft) -> Step:  # noqa: C901, PLR0911, PLR0912  (one case for each kind of step)
        """The public step of a draft."""
        common: dict[str, Any] = {
            "name": draft.name,
            "inputs": tuple(source.name for source in draft.inputs),
            "shape": draft.shape,
            "value": self._describe_value(draft),
        }
        operation, ring, scale = draft.operation, self._comparisons[draft], float(draft.known_scale())
        match operation:
            case Added.INPUT:
                return InputStep(**common)
            case Convolution2d() | FullyConnected():
                weight_scale = draft.weight_scale
                return LinearStep(**common, operation=operation, weight_scale=weight_scale, rounding=draft.rounding)
            case Add():
                first, second = draft.factors
                return AddStep(**common, factors=(first, second))
            case Multiply():
                return MultiplyStep(**common)
            case Concat():
                return ConcatStep(**common, factors=draft.factors)
            case AveragePool():
                counted = operation.count_include_pad
                return SumPoolStep(**common, **_window(operation), count_include_pad=counted, divisor=draft.divisor)
            case GlobalAveragePool():
                whole = image_size(draft.inputs[0].shape)
                return SumPoolStep(**common, kernel=whole, stride=whole, divisor=draft.divisor)
            case Pad():
                constant = quantise_padding(operation, scale)
                return PadStep(**common, padding=operation.padding, constant=constant)
            case Reshape():
                return ReshapeStep(**common)
            case Added.OFFSET:
                return OffsetStep(**common, offset=draft.rounding)
            case Relu():
                cut = draft.sign_cut_bits
                return ReluStep(
                    **common,
                    ring_bits=ring,
                    shift=draft.shift,
                    sign_cut_bits=cut,
                    high_chunks=best_chunks(ring - draft.shift - cut - 1),
                    low_chunks=self._carry_chunks(draft),
                )
            case Added.TRUNCATE:
                return TruncateStep(**common, ring_bits=ring, shift=draft.shift, low_chunks=self._carry_chunks(draft))
            case Activation():
                return CrypTenStep(**common, function=operation.function, ring_bits=ring, **_scale_for_crypten(draft))
            case Softmax():
                return CrypTenStep(**common, function="softmax", ring_bits=ring, **_scale_for_crypten(draft))
            case MaxPool():
                return MaxPoolStep(**common, **_window(operation), ring_bits=ring, high_chunks=best_chunks(ring - 1))
            case Clip():
                high, limit = best_chunks(ring - 1), quantise_limit(operation, scale)
                return ClipStep(**common, ring_bits=ring, limit=limit, high_chunks=high)
            case _ as never:
                assert_never(never)

    def _carry_chunks(self, draft: Draft) -> tuple[int, ...]:
        return best_chunks(draft.shift if self._exact else 0)

    def _describe_value(self, draft: Draft) -> FixedValue:
        bounds = self._bounds[draft]
        return FixedValue(
            ring_bits=self._values[draft],
            scale=float(draft.known_scale()),
            calibrated_bits=count_bits(bounds.calibrated),
            worst_case_bits=count_bits(bounds.worst_case),
        )


def _scale_for_crypten(draft: Draft) -> dict[str, Any]:
    """Multiplier and divided bits for CrypTen: exact if the scale is a power of two, else to 13 bits."""
    ratio = Fraction(CRYPTEN_SCALE) / draft.inputs[0].known_scale()
    for divided_bits in range(_MOST_DIVIDED_BITS + 1):
        multiplier = ratio * (1 << divided_bits)
        if (multiplier.denominator == 1 or multiplier >= _FINEST_MULTIPLIER) and multiplier < 1 << (MAX_RING_BITS - 1):
            return {"multiplier": round(multiplier), "divided_bits": divided_bits}
    raise ModelFileError(f"the values that '{draft.name}' reads are too large or too small: train with others")


def _window(pool: AveragePool | MaxPool) -> dict[str, Any]:
    return {"kernel": pool.kernel, "stride": pool.stride, "padding": pool.padding}
