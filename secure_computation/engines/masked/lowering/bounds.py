"""The range audit: how large the integers of each drafted value can get, measured and at worst."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_computation.engines.masked.lowering.drafts import Draft, clip_limit, divisor_of, pad_constant
from secure_computation.engines.masked.plan.integer_weights import diffuse
from secure_computation.network import Activation, Clip, Concat, Convolution2d, FullyConnected, Pad, Shape, Softmax
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


def audit(drafts: list[Draft], weights: PrivateWeights, *, input_magnitude: float) -> dict[Draft, Bounds]:
    """Bounds of every draft, whose scales must be set. `input_magnitude`: largest |real| that an image may hold."""
    intervals: dict[Draft, _Interval] = {}
    bounds: dict[Draft, Bounds] = {}
    for draft in drafts:
        sources = [intervals[source] for source in draft.inputs]
        interval = _propagate(draft, sources, weights) if sources else _input(draft, input_magnitude)
        interval = _Interval(interval.low.clip(-_LARGEST, _LARGEST), interval.high.clip(-_LARGEST, _LARGEST))
        intervals[draft] = interval
        calibrated = draft.range.magnitude * float(draft.known_scale()) + draft.rounding + 1
        worst_case = float(max(-interval.low.min(), interval.high.max(), 0.0))
        bounds[draft] = Bounds(calibrated=min(calibrated, worst_case), worst_case=worst_case)
    return bounds


def bits_of(bound: float) -> int:
    """Bits of an integer bound, without sign; 64 for 62 and more."""
    bits = math.ceil(bound).bit_length()
    return bits if bits < 62 else UNBOUNDED_BITS


def _input(draft: Draft, magnitude: float) -> _Interval:
    """A power of two, which the data owner checks its image against."""
    bound = float((1 << bits_of(magnitude * float(draft.known_scale()))) - 1)
    return _Interval(np.full(draft.shape[0], -bound), np.full(draft.shape[0], bound))


def _propagate(draft: Draft, sources: list[_Interval], weights: PrivateWeights) -> _Interval:  # noqa: C901, PLR0911  (one case for each kind of step)
    first = sources[0]
    match draft.kind:
        case "linear":
            return _linear(draft, first, weights)
        case "add" | "concat":
            return _joined(draft, sources)
        case "multiply":
            ends = [a * b for a in (first.low, first.high) for b in (sources[1].low, sources[1].high)]
            return _Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))
        case "sum_pool":
            low, high = (
                (first.low.clip(max=0), first.high.clip(min=0)) if _is_padded(draft) else (first.low, first.high)
            )
            return _Interval(low * divisor_of(draft), high * divisor_of(draft))
        case "pad":
            constant = draft_pad_constant(draft)
            return _Interval(first.low.clip(max=constant), first.high.clip(min=constant))
        case "reshape":
            return _reshaped(first, draft.inputs[0].shape, draft.shape)
        case "offset":
            return _Interval(first.low + draft.rounding, first.high + draft.rounding)
        case "relu" | "truncate":
            low, high = (np.floor(bound / (1 << draft.shift)) for bound in (first.low, first.high))
            return _Interval(low.clip(min=0), high.clip(min=0)) if draft.kind == "relu" else _Interval(low, high)
        case "crypten":
            return _activated(draft, first)
        case "max_pool":
            return first
        case "clip":
            limit = draft_clip_limit(draft)
            return _Interval(first.low.clip(max=limit), first.high.clip(max=limit))
        case other:
            raise AssertionError(f"no such kind of step: {other}")


def _activated(draft: Draft, source: _Interval) -> _Interval:
    """Between -1 and 1, or x where the function grows with it, and what CrypTen's rounding adds."""
    assert isinstance(draft.operation, Activation | Softmax)
    function = draft.operation.function if isinstance(draft.operation, Activation) else "softmax"
    scale = float(draft.known_scale())
    grows = function in {"silu", "gelu"}
    ratio = scale / float(draft.inputs[0].known_scale())
    high = source.high.clip(min=0) * ratio * _CRYPTEN_SLACK if grows else np.zeros_like(source.high)
    lowest = {"sigmoid": 0.0, "tanh": -1.0, "softmax": 0.0}.get(function, -0.3)
    slack = scale * (_CRYPTEN_SLACK - 1)
    return _Interval(np.full_like(source.low, lowest * scale - slack), np.maximum(high, scale) + slack)


def _is_padded(draft: Draft) -> bool:
    return any(getattr(draft.operation, "padding", ()))


def draft_pad_constant(draft: Draft) -> int:
    """The integer that a padding step writes."""
    assert isinstance(draft.operation, Pad)
    return pad_constant(draft.operation, float(draft.known_scale()))


def draft_clip_limit(draft: Draft) -> int:
    """The integer at which a clip cuts."""
    assert isinstance(draft.operation, Clip)
    return clip_limit(draft.operation, float(draft.known_scale()))


def factors_of(draft: Draft) -> tuple[int, ...]:
    """What brings each input of a sum or concatenation to the common scale."""
    ratios = [draft.known_scale() / source.known_scale() for source in draft.inputs]
    assert all(ratio.denominator == 1 for ratio in ratios)
    return tuple(ratio.numerator for ratio in ratios)


def weight_scale_of(draft: Draft) -> float:
    """Integer weight per real weight of a product."""
    return float(draft.known_scale() / draft.inputs[0].known_scale())


def _joined(draft: Draft, sources: list[_Interval]) -> _Interval:
    factors = factors_of(draft)
    lows = [factor * source.low for factor, source in zip(factors, sources, strict=True)]
    highs = [factor * source.high for factor, source in zip(factors, sources, strict=True)]
    if isinstance(draft.operation, Concat):
        return _Interval(np.concatenate(lows), np.concatenate(highs))
    return _Interval(lows[0] + lows[1], highs[0] + highs[1])


def _linear(draft: Draft, source: _Interval, weights: PrivateWeights) -> _Interval:
    operation = draft.operation
    assert isinstance(operation, Convolution2d | FullyConnected)
    weight = diffuse(weights[f"{draft.name}.weight"], weight_scale_of(draft))
    groups = operation.groups if isinstance(operation, Convolution2d) else 1
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    positive, negative = split.clip(min=0).sum(axis=3), split.clip(max=0).sum(axis=3)
    low, high = source.low.reshape(groups, -1, 1), source.high.reshape(groups, -1, 1)
    if _is_padded(draft):
        low, high = low.clip(max=0), high.clip(min=0)
    bias = np.zeros(weight.shape[0])
    if operation.bias:
        bias = np.rint(weights[f"{draft.name}.bias"].astype(np.float64) * float(draft.known_scale()))
    bias += draft.rounding
    return _Interval(
        (positive @ low + negative @ high).reshape(-1) + bias, (positive @ high + negative @ low).reshape(-1) + bias
    )


def _reshaped(source: _Interval, before: Shape, after: Shape) -> _Interval:
    each = math.prod(before[1:])
    if len(after) == 1:
        return _Interval(np.repeat(source.low, each), np.repeat(source.high, each))
    return _Interval(np.full(after[0], source.low.min()), np.full(after[0], source.high.max()))
