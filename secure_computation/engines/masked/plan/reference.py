"""Plain evaluation of a masked plan in whole numbers: what the masked engine equals in every element of every value.

A layer of a dithered plan rounds by random numbers that follow from an item's seeds (`session.dither`); here they are
an argument.

After a CrypTenStep the two agree to about CrypTen's precision only (`MaskedLowering.is_exact` says so).

Runs where both halves of a model may be seen: at the model owner (`model-owner check`), in benchmarks and in tests.
Values are int64 arrays of the network's shapes, one image at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from numpy.typing import NDArray

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, quantise_image, read_logits
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    CRYPTEN_SCALE,
    AddStep,
    ClipStep,
    ConcatStep,
    CrypTenStep,
    InputStep,
    LabelStep,
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
from secure_computation.float_reference import activation
from secure_computation.network import Convolution2d, Padding, Pair

__all__ = [
    "Dither",
    "Dithers",
    "Integers",
    "Observer",
    "compute_window_factors",
    "draw_dithers",
    "evaluate",
    "evaluate_as",
    "find_label",
    "middle_dither",
    "quantise_image",
    "read_logits",
]

Integers = NDArray[np.int64]
Observer = Callable[[str, Integers], None]


@dataclass(frozen=True)
class Dither:
    """What one layer of a dithered plan rounds by, int64 in the layer's shape: see `ReluStep`."""

    rounding: Integers
    """t, 0 <= t < 2^shift."""
    sign: Integers
    """s, 0 <= s < 2^sign_cut_bits; zeros for a truncation."""


Dithers: TypeAlias = Callable[[ReluStep | TruncateStep], Dither]

_EXACT_IN_FLOAT64 = float(1 << 53)


def find_label(logits: NDArray[Any]) -> int:
    """The index of the largest logit, the lowest of equals."""
    return int(np.argmax(logits))


def middle_dither(step: ReluStep | TruncateStep) -> Dither:
    """Rounds to nearest and compares signs exactly, as exact arithmetic does."""
    sign = step.undecided if isinstance(step, ReluStep) else 0
    return Dither(np.full(step.shape, (1 << step.shift) >> 1, np.int64), np.full(step.shape, sign, np.int64))


def draw_dithers(generator: np.random.Generator) -> Dithers:
    """Dithers as a session has them, for measuring in clear what they do to logits. Not for use near secrets."""

    def draw(step: ReluStep | TruncateStep) -> Dither:
        cut = step.sign_cut_bits if isinstance(step, ReluStep) else 0
        return Dither(*(generator.integers(0, 1 << bits, step.shape, np.int64) for bits in (step.shift, cut)))

    return draw


def evaluate_as(
    lowering: MaskedLowering,
    weights: IntegerWeights,
    image: Integers,
    arithmetic: Arithmetic,
    draw: Dithers,
) -> Integers:
    """`evaluate` with the plan's bits in either arithmetic, to compare them in clear; `draw` for the dithered one."""
    if arithmetic is Arithmetic.EXACT:
        return evaluate(lowering, weights, image)
    if lowering.arithmetic is Arithmetic.DITHERED:
        return evaluate(lowering, weights, image, dithers=draw)

    def draw_beside_half(step: ReluStep | TruncateStep) -> Dither:  # an exact plan adds a half before it cuts
        drawn = draw(step)
        return Dither(drawn.rounding - ((1 << step.shift) >> 1), drawn.sign)

    dithered = lowering.model_copy(update={"arithmetic": Arithmetic.DITHERED})
    return evaluate(dithered, weights, image, dithers=draw_beside_half)


def evaluate(
    lowering: MaskedLowering,
    weights: IntegerWeights,
    image: Integers,
    *,
    dithers: Dithers = middle_dither,
    observe: Observer | None = None,
    audit: bool = True,
) -> Integers:
    """Logits as integers, int64 of shape (classes,), for an image as `quantise_image` gives it.

    `dithers`: of a dithered plan's layers; an exact plan asks for none.

    If the plan gives a label: 1 for the class with the largest logit, 0 for the others.

    `observe(name, value)` is called for every value in order. With `audit`, raises ModelFileError if a value leaves
    the range in which the engine is exact, naming the step; without it, such a value passes unnoticed here, while the
    engine would wrap it around.
    """
    values: dict[str, torch.Tensor] = {}
    last_uses, arithmetic = lowering.last_uses(), lowering.arithmetic
    with torch.inference_mode():
        for index, step in enumerate(lowering.steps):
            inputs = [values[name] for name in step.inputs]
            if audit:
                _audit(step, inputs, arithmetic)
            match step:
                case InputStep():
                    value = torch.from_numpy(image)
                case ReluStep() | TruncateStep():
                    value = _cut(step, inputs[0], dithers(step) if arithmetic is Arithmetic.DITHERED else None)
                case _:
                    value = _apply(step, inputs, weights)
            values[step.name] = value
            if observe is not None:
                observe(step.name, value.numpy())
            for name in set(step.inputs):
                if last_uses[name] == index and name != lowering.output:
                    del values[name]
        logits = values[lowering.output]
        if audit:
            _require(lowering.step(lowering.output), logits, lowering.step(lowering.output).value.ring_bits - 1)
    return logits.numpy()


def _apply(step: Step, inputs: list[torch.Tensor], weights: IntegerWeights) -> torch.Tensor:  # noqa: C901, PLR0911, PLR0912  (one case for each kind of step)
    match step:
        case LinearStep():
            return _linear(step, inputs[0], weights)
        case AddStep():
            return step.factors[0] * inputs[0] + step.factors[1] * inputs[1]
        case MultiplyStep():
            return inputs[0] * inputs[1]
        case ConcatStep():
            return torch.cat([factor * value for factor, value in zip(step.factors, inputs, strict=True)])
        case SumPoolStep():
            factors = compute_window_factors(step, tuple(inputs[0].shape))
            return _window_sums(inputs[0], step) * torch.from_numpy(factors)
        case PadStep():
            return _pad(inputs[0], step.padding, step.constant)
        case ReshapeStep():
            return inputs[0].reshape(step.shape)
        case OffsetStep():
            return inputs[0] + step.offset
        case MaxPoolStep():
            padded = _pad(inputs[0], step.padding, step.padding_constant)
            return _windows(padded, step.kernel, step.stride).amax(dim=(-2, -1))
        case ClipStep():
            return inputs[0].clamp(max=step.limit)
        case CrypTenStep():
            return _smooth(step, inputs[0])
        case LabelStep():
            return (torch.arange(step.elements) == find_label(inputs[0].numpy())).to(torch.int64)
        case InputStep() | ReluStep() | TruncateStep():
            raise AssertionError("the caller computes these")
        case _:
            assert_never(step)


def _cut(step: ReluStep | TruncateStep, value: torch.Tensor, dither: Dither | None) -> torch.Tensor:
    """A ReLU or a truncation; without a dither, exact."""
    if dither is not None:
        value = value + torch.from_numpy(dither.rounding)
    value = value >> step.shift
    if isinstance(step, TruncateStep):
        return value
    return value * (value >= (0 if dither is None else step.undecided - torch.from_numpy(dither.sign)))


def _linear(step: LinearStep, value: torch.Tensor, weights: IntegerWeights) -> torch.Tensor:
    """Exact: in float64, which is faster, if no sum can pass 2^53; else in int64."""
    weight = torch.tensor(weights[step.weight_name], dtype=torch.float64)
    bias = torch.tensor(weights[step.bias_name])
    largest_sum = float(weight.abs().flatten(1).sum(dim=1).max()) * float(value.abs().max())
    dtype = torch.float64 if largest_sum < _EXACT_IN_FLOAT64 else torch.int64
    operation = step.operation
    if not isinstance(operation, Convolution2d):
        return (weight.to(dtype) @ value.to(dtype)).to(torch.int64) + bias
    product = F.conv2d(
        _pad(value, operation.padding, 0)[None].to(dtype),
        weight.to(dtype),
        stride=operation.stride,
        dilation=operation.dilation,
        groups=operation.groups,
    )
    return product[0].to(torch.int64) + bias[:, None, None]


def _smooth(step: CrypTenStep, value: torch.Tensor) -> torch.Tensor:
    """In floating point: CrypTen's own result has an error below 0.001 that differs from run to run."""
    x = value.to(torch.float64) * step.multiplier / float(CRYPTEN_SCALE << step.divided_bits)
    y = torch.softmax(x, dim=0) if step.function == "softmax" else activation(step.function, x)
    return (y * step.value.scale).round().to(torch.int64)


def compute_window_factors(step: SumPoolStep, input_shape: tuple[int, ...]) -> Integers:
    """What each window's sum is multiplied by, int64 of shape (output height, output width); mostly ones."""
    ones = np.ones(step.shape[1:], dtype=np.int64)
    if step.count_include_pad or not any(step.padding):
        return ones
    cells = _window_sums(torch.ones((1, *input_shape[1:]), dtype=torch.int64), step)[0].numpy()
    return step.divisor // cells * ones


def _window_sums(value: torch.Tensor, step: SumPoolStep) -> torch.Tensor:
    return _windows(_pad(value, step.padding, 0), step.kernel, step.stride).sum(dim=(-2, -1))


def _windows(value: torch.Tensor, kernel: Pair, stride: Pair) -> torch.Tensor:
    """View of shape (channels, output height, output width, kernel height, kernel width)."""
    return value.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])


def _pad(value: torch.Tensor, padding: Padding, constant: int) -> torch.Tensor:
    top, left, bottom, right = padding
    return F.pad(value, (left, right, top, bottom), value=constant)


def _audit(step: Step, inputs: list[torch.Tensor], arithmetic: Arithmetic) -> None:
    """Whether a comparison's input lies where the protocol is exact, or off by the dither alone."""
    match step:
        case ReluStep():
            _require(step, inputs[0], step.ring_bits - 1)
            if arithmetic is Arithmetic.EXACT:
                _require(step, inputs[0] - (1 << step.shift), step.ring_bits - 1)
            else:
                above = (1 << step.sign_cut_bits) - step.undecided
                _require(step, inputs[0] + (above << step.shift) - 1, step.ring_bits - 1)
                _require(step, inputs[0] - (step.undecided << step.shift), step.ring_bits - 1)
        case TruncateStep():
            _require(step, inputs[0], step.ring_bits - (2 if step.widens else 1))
            if arithmetic is Arithmetic.DITHERED and not step.widens:
                _require(step, inputs[0] + ((1 << step.shift) - 1), step.ring_bits - 1)
        case MaxPoolStep() | ClipStep() | CrypTenStep() | LabelStep():
            _require(step, inputs[0], step.ring_bits - 2)
        case InputStep() | LinearStep() | AddStep() | MultiplyStep() | ConcatStep() | SumPoolStep():
            pass  # sums and products may wrap around as long as the value that is compared in the end fits
        case PadStep() | ReshapeStep() | OffsetStep():
            pass
        case _:
            assert_never(step)


def _require(step: Step, value: torch.Tensor, bits: int) -> None:
    """-2^bits <= value < 2^bits."""
    if int(value.max()) >= 1 << bits or int(value.min()) < -(1 << bits):
        raise ModelFileError(
            f"a value read by step '{step.name}' leaves the range of {bits} bits and sign: import the model "
            "again with calibration images that are more like this one, or with more headroom"
        )
