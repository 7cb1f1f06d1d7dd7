"""Between real numbers and the integers of a masked plan: the image, constants, averages, logits and weights.

Image and logits are turned at the data owner, online; weights at the model owner, once.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ImageError, ModelFileError
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import WEIGHT_LIMIT, HeatMapStep, LinearStep, SumPoolStep
from secure_computation.network import AveragePool, Clip, Pad, Shape
from secure_computation.private_weights import HiddenTensors, PrivateWeights

IntegerTensor = NDArray[np.int32] | NDArray[np.int64]

_BIAS_LIMIT = 1 << 52  # beyond it, a float64 no longer holds every integer


# The image and the logits


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


def read_logits(lowering: MaskedLowering, integers: NDArray[Any]) -> NDArray[np.float64]:
    """Real logits, float64, from the output integers."""
    return np.asarray(integers, dtype=np.float64) / lowering.step(lowering.output).value.scale


# Constants and averages of the network


def quantise_padding(operation: Pad, scale: float) -> int:
    """The integer that a padding step writes."""
    return round(operation.value * scale)


def quantise_limit(operation: Clip, scale: float) -> int:
    """The integer at which a clip cuts; at least 1."""
    return max(1, round(operation.high * scale))


def divides_by_every_window(pool: AveragePool | SumPoolStep, source: Shape, divisor: int) -> bool:
    """Whether a sum over each window, brought to this divisor, is `divisor` times the mean."""
    sizes = count_window_cells(pool, source)
    if pool.count_include_pad or not any(pool.padding):
        return all(divisor == size for size in sizes)
    return all(divisor % size == 0 for size in sizes)


def count_window_cells(pool: AveragePool | SumPoolStep, source: Shape) -> Iterator[int]:
    """How many values each kind of window counts, some of them more than once."""
    if pool.count_include_pad or not any(pool.padding):
        yield math.prod(pool.kernel)
        return
    heights, widths = (
        _cells_inside(count, size, kernel=kernel, stride=stride, before=before)
        for count, size, kernel, stride, before in zip(
            image_size(pool.shape), image_size(source), pool.kernel, pool.stride, pool.padding[:2], strict=True
        )
    )
    yield from (height * width for height in heights for width in widths)


def _cells_inside(count: int, size: int, *, kernel: int, stride: int, before: int) -> set[int]:
    """How many cells of a window lie in a picture of `size` cells, along one axis: of the windows at its two ends."""
    first_inside = min(count, -(-before // stride))
    first_beyond = max(first_inside, (size + before - kernel) // stride + 1)
    at_the_ends = (*range(first_inside), *range(min(first_beyond, count), count))
    inside = {min(index * stride - before + kernel, size) - max(index * stride - before, 0) for index in at_the_ends}
    return inside | ({kernel} if first_inside < min(first_beyond, count) else set())


def image_size(shape: Shape) -> tuple[int, int]:
    """Height and width of an image's shape."""
    _, height, width = shape
    return height, width


# Weights


class IntegerWeights(HiddenTensors[Any]):
    """int32 weights (|w| <= WEIGHT_LIMIT) and int64 biases by name, for every LinearStep."""


def round_weights(lowering: MaskedLowering, weights: PrivateWeights) -> IntegerWeights:
    """The integers of this plan from the model's real weights; the same ones each time.

    Raises ModelFileError where weights do not fit the plan, naming the layer.
    """
    tensors: dict[str, IntegerTensor] = {}
    for step in lowering.steps:
        if isinstance(step, LinearStep):
            tensors |= _round_layer(step, weights)
    return IntegerWeights(tensors)


def diffuse(weight: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """Round weight * scale to whole numbers so that the errors along each output's inputs cancel.

    The running sum is rounded, not each weight: no stretch of neighbouring weights is off by more than 1 in sum, so
    inputs that vary slowly, as pictures and their channels do, meet hardly any error. Worth two bits of weights against
    rounding each by itself. Each weight moves by less than 1.
    """
    running = np.cumsum(weight.reshape(weight.shape[0], -1).astype(np.float64) * scale, axis=1)
    return np.diff(np.rint(running), axis=1, prepend=0.0).reshape(weight.shape)


def _round_layer(step: LinearStep, weights: PrivateWeights) -> dict[str, IntegerTensor]:
    if isinstance(step, HeatMapStep):
        return _round_heat_map(step, weights)
    if step.weight_name not in weights or weights[step.weight_name].shape != step.weight_shape:
        raise ModelFileError(f"layer '{step.name}' of the plan has other weights: import the model again")
    weight = diffuse(weights[step.weight_name], step.weight_scale)
    bias = np.zeros(step.weight_shape[0])
    if step.operation.bias:
        bias = np.rint(weights[step.bias_name].astype(np.float64) * step.value.scale)
    if np.abs(weight).max() > WEIGHT_LIMIT or np.abs(bias).max() > _BIAS_LIMIT:
        raise ModelFileError(f"layer '{step.name}' has weights beyond the plan's integers: import the model again")
    return {
        step.weight_name: weight.astype(np.int32),
        step.bias_name: bias.astype(np.int64) + step.rounding,
    }


def _round_heat_map(step: HeatMapStep, weights: PrivateWeights) -> dict[str, IntegerTensor]:
    """The head's weights once more, as a 1 x 1 convolution without a bias of its own."""
    source = f"{step.weights_of}.weight"
    if source not in weights or weights[source].shape != step.weight_shape[:2]:
        raise ModelFileError(f"the heat map of the plan has other weights than '{source}': import the model again")
    weight = diffuse(weights[source], step.weight_scale)
    if np.abs(weight).max() > WEIGHT_LIMIT:
        raise ModelFileError("the heat map has weights beyond the plan's integers: import the model again")
    return {
        step.weight_name: weight.astype(np.int32).reshape(step.weight_shape),
        step.bias_name: np.full(step.weight_shape[0], step.rounding, np.int64),
    }
