"""The range audit: how large the integers of each drafted value can get, measured and at worst."""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.drafts import Added, Draft
from secure_computation.engines.masked.plan.fixed_point import diffuse, quantise_limit, quantise_padding
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
    Shape,
    Softmax,
)
from secure_computation.private_weights import PrivateWeights

Vector = NDArray[np.float64]

UNBOUNDED_BITS: Final = 64
_CRYPTEN_SLACK: Final = 1.01
_LARGEST: Final = float(1 << 62)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Of |integer| over all elements of a value."""

    calibrated: float
    worst_case: float

    def expected(self, headroom_bits: int) -> float:
        """What a ring must hold: the calibrated bound with headroom, or the worst case where that is smaller."""
        return min(self.worst_case, math.ceil(self.calibrated) * float(1 << headroom_bits))


@dataclass(frozen=True, eq=False)
class _Interval:
    """Smallest and largest integer by channel (first axis). Exact while below 2^53, then rounded."""

    low: Vector
    high: Vector

    def __mul__(self, factor: float) -> "_Interval":
        """Times a positive factor."""
        return _Interval(self.low * factor, self.high * factor)

    def clip(self, low: float, high: float) -> "_Interval":
        """What is left of it between two bounds."""
        return _Interval(self.low.clip(low, high), self.high.clip(low, high))

    def include(self, value: float) -> "_Interval":
        """The smallest interval that holds this one and a value."""
        return _Interval(self.low.clip(max=value), self.high.clip(min=value))


WeightSums: TypeAlias = dict[tuple[str, float], tuple[Vector, Vector]]
"""Of a layer's rounded weights, by its name and their scale: sums of positive and of negative ones over each kernel."""


def audit(
    drafts: list[Draft],
    weights: PrivateWeights,
    *,
    input_magnitude: float,
    arithmetic: Arithmetic,
    sums: WeightSums,
) -> dict[Draft, Bounds]:
    """Bounds of every draft, whose scales must be set. `input_magnitude`: largest |real| that an image may hold.

    `sums`: those that are known; others are added.
    """
    intervals: dict[Draft, _Interval] = {}
    bounds: dict[Draft, Bounds] = {}
    for draft in drafts:
        if draft.operation is Added.INPUT:
            interval = _bound_input(draft, input_magnitude)
        else:
            interval = _propagate(draft, [intervals[source] for source in draft.inputs], weights, arithmetic, sums)
        interval = interval.clip(-_LARGEST, _LARGEST)
        intervals[draft] = interval
        calibrated = draft.range.magnitude * float(draft.known_scale()) + draft.rounding + 1
        worst_case = float(max(-interval.low.min(), interval.high.max(), 0.0))
        bounds[draft] = Bounds(calibrated=min(calibrated, worst_case), worst_case=worst_case)
    return bounds


def count_bits(bound: float) -> int:
    """Bits of an integer bound, without sign; 64 for 62 and more."""
    bits = math.ceil(bound).bit_length()
    return bits if bits < 62 else UNBOUNDED_BITS


def _bound_input(draft: Draft, magnitude: float) -> _Interval:
    """A power of two, which the data owner checks its image against."""
    bound = float((1 << count_bits(magnitude * float(draft.known_scale()))) - 1)
    return _Interval(np.full(draft.shape[0], -bound), np.full(draft.shape[0], bound))


def _propagate(  # noqa: C901, PLR0911, PLR0912  (one case for each kind of step)
    draft: Draft, sources: list[_Interval], weights: PrivateWeights, arithmetic: Arithmetic, sums: WeightSums
) -> _Interval:
    first, scale = sources[0], float(draft.known_scale())
    match draft.operation:
        case Added.INPUT:
            raise AssertionError("the input reads nothing")
        case Convolution2d() | FullyConnected():
            return _multiply_weights(draft, draft.operation, first, weights, sums)
        case Add() | Concat():
            scaled = [source * factor for source, factor in zip(sources, draft.factors, strict=True)]
            lows, highs = [one.low for one in scaled], [one.high for one in scaled]
            if isinstance(draft.operation, Concat):
                return _Interval(np.concatenate(lows), np.concatenate(highs))
            return _Interval(lows[0] + lows[1], highs[0] + highs[1])
        case Multiply():
            ends = [a * b for a in (first.low, first.high) for b in (sources[1].low, sources[1].high)]
            return _Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))
        case AveragePool():
            return (first.include(0) if any(draft.operation.padding) else first) * draft.divisor
        case GlobalAveragePool():
            return first * draft.divisor
        case Pad():
            return first.include(quantise_padding(draft.operation, scale))
        case Reshape():
            return _reshape(first, draft.inputs[0].shape, draft.shape)
        case Added.OFFSET:
            return _Interval(first.low + draft.rounding, first.high + draft.rounding)
        case Relu():
            lowest = -((1 << draft.sign_cut_bits) >> 1)
            return _truncate(first, draft.shift, arithmetic).clip(lowest, math.inf)
        case Added.TRUNCATE:
            return _truncate(first, draft.shift, arithmetic)
        case Activation():
            return _activate(draft.operation.function, draft, first)
        case Softmax():
            return _activate("softmax", draft, first)
        case MaxPool():
            return first
        case Clip():
            return first.clip(-math.inf, quantise_limit(draft.operation, scale))
        case _ as never:
            assert_never(never)


def _truncate(source: _Interval, shift: int, arithmetic: Arithmetic) -> _Interval:
    """A dither may round up as well."""
    round_high = np.ceil if arithmetic is Arithmetic.DITHERED else np.floor
    return _Interval(np.floor(source.low / (1 << shift)), round_high(source.high / (1 << shift)))


def _activate(function: str, draft: Draft, source: _Interval) -> _Interval:
    """Between -1 and 1, or x if the function grows with it, and what CrypTen's rounding adds."""
    scale = float(draft.known_scale())
    grows = function in {"silu", "gelu"}
    ratio = scale / float(draft.inputs[0].known_scale())
    high = source.high.clip(min=0) * ratio * _CRYPTEN_SLACK if grows else np.zeros_like(source.high)
    lowest = {"sigmoid": 0.0, "tanh": -1.0, "softmax": 0.0}.get(function, -0.3)
    slack = scale * (_CRYPTEN_SLACK - 1)
    return _Interval(np.full_like(source.low, lowest * scale - slack), np.maximum(high, scale) + slack)


def _multiply_weights(
    draft: Draft,
    operation: Convolution2d | FullyConnected,
    source: _Interval,
    weights: PrivateWeights,
    sums: WeightSums,
) -> _Interval:
    if isinstance(operation, Convolution2d) and any(operation.padding):
        source = source.include(0)
    groups = operation.groups if isinstance(operation, Convolution2d) else 1
    key, outputs = (draft.name, draft.weight_scale), draft.shape[0]
    if key not in sums:
        weight = diffuse(weights[f"{draft.name}.weight"], draft.weight_scale)
        split = weight.reshape(groups, outputs // groups, weight.shape[1], -1)
        sums[key] = (split.clip(min=0).sum(axis=3), split.clip(max=0).sum(axis=3))
    positive, negative = sums[key]
    low, high = source.low.reshape(groups, -1, 1), source.high.reshape(groups, -1, 1)
    bias = np.zeros(outputs)
    if operation.bias:
        bias = np.rint(weights[f"{draft.name}.bias"].astype(np.float64) * float(draft.known_scale()))
    bias += draft.rounding
    return _Interval(
        (positive @ low + negative @ high).reshape(-1) + bias, (positive @ high + negative @ low).reshape(-1) + bias
    )


def _reshape(source: _Interval, before: Shape, after: Shape) -> _Interval:
    each = math.prod(before[1:])
    if len(after) == 1:
        return _Interval(np.repeat(source.low, each), np.repeat(source.high, each))
    return _Interval(np.full(after[0], source.low.min()), np.full(after[0], source.high.max()))
