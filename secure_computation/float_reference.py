"""Plain evaluation of a network in floating point: what the encrypted computation is compared with.

Runs where both halves of a model may be seen: at the model owner (`model-owner check`) and in tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)

from secure_computation.network import (
    INPUT,
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
    Network,
    Operation,
    Pad,
    Padding,
    Relu,
    Reshape,
    Softmax,
)
from secure_computation.private_weights import PrivateWeights

Observer = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """Smallest and largest element that a value took over a batch of samples."""

    smallest: float
    largest: float


def evaluate(
    network: Network,
    weights: PrivateWeights,
    images: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    observe: Observer | None = None,
) -> torch.Tensor:
    """Logits (batch, classes) in `dtype` for images (batch, channels, height, width).

    `observe(name, value)` is called for the input and for every value in order, with the batch as the first axis.
    Raises ValueError if the images do not have the network's input shape.
    """
    if tuple(images.shape[1:]) != network.input_shape:
        raise ValueError(f"images of shape {tuple(images.shape[1:])}, the network asks for {network.input_shape}")
    values = {INPUT: images.to(dtype)}
    last_uses = network.last_uses()
    if observe is not None:
        observe(INPUT, values[INPUT])
    with torch.inference_mode():
        for index, operation in enumerate(network.operations):
            tensors = {
                name.removeprefix(f"{operation.name}."): torch.tensor(weights[name], dtype=dtype)
                for name in operation.weight_shapes()
            }
            value = apply(operation, [values[name] for name in operation.inputs], tensors)
            values[operation.output] = value
            if observe is not None:
                observe(operation.output, value)
            for name in set(operation.inputs):
                if last_uses[name] == index:
                    del values[name]
    return values[network.output]


def value_ranges(network: Network, weights: PrivateWeights, images: torch.Tensor) -> dict[str, ValueRange]:
    """Range of every value over these images, by name, `input` first."""
    ranges: dict[str, ValueRange] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        ranges[name] = ValueRange(smallest=float(value.min()), largest=float(value.max()))

    evaluate(network, weights, images, observe=observe)
    return ranges


def apply(operation: Operation, inputs: list[torch.Tensor], weights: dict[str, torch.Tensor]) -> torch.Tensor:  # noqa: C901, PLR0911, PLR0912  (one case for each kind of operation)
    """One operation on a batch. `weights` are its own, by their names without the operation's: `weight`, `bias`."""
    first = inputs[0]
    match operation:
        case Convolution2d():
            return _convolution(operation, first, weights)
        case FullyConnected():
            return F.linear(first, weights["weight"], weights.get("bias"))
        case Relu():
            return torch.relu(first)
        case Clip():
            return first.clamp(0.0, operation.high)
        case Activation():
            return activation(operation.function, first)
        case Softmax():
            return torch.softmax(first, dim=1)
        case MaxPool():
            return F.max_pool2d(_pad(first, operation.padding, -torch.inf), operation.kernel, operation.stride)
        case AveragePool():
            return _average_pool(operation, first)
        case GlobalAveragePool():
            return first.mean(dim=(2, 3), keepdim=True)
        case Add():
            return first + inputs[1]
        case Multiply():
            return first * inputs[1]
        case Concat():
            return torch.cat(inputs, dim=1)
        case Pad():
            return _pad(first, operation.padding, operation.value)
        case Reshape():
            return first.reshape(first.shape[0], *operation.shape)
        case _:
            assert_never(operation)


def activation(function: Literal["sigmoid", "tanh", "silu", "gelu"], value: torch.Tensor) -> torch.Tensor:
    """A smooth function, element by element."""
    match function:
        case "sigmoid":
            return torch.sigmoid(value)
        case "tanh":
            return torch.tanh(value)
        case "silu":
            return F.silu(value)
        case "gelu":
            return F.gelu(value, approximate="tanh")


def _pad(value: torch.Tensor, padding: Padding, constant: float) -> torch.Tensor:
    top, left, bottom, right = padding
    return F.pad(value, (left, right, top, bottom), value=constant)


def _convolution(operation: Convolution2d, value: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.conv2d(
        _pad(value, operation.padding, 0.0),
        weights["weight"],
        weights.get("bias"),
        stride=operation.stride,
        dilation=operation.dilation,
        groups=operation.groups,
    )


def _average_pool(operation: AveragePool, value: torch.Tensor) -> torch.Tensor:
    mean = F.avg_pool2d(_pad(value, operation.padding, 0.0), operation.kernel, operation.stride)
    if operation.count_include_pad or not any(operation.padding):
        return mean
    inside = F.avg_pool2d(
        _pad(torch.ones_like(value[:1, :1]), operation.padding, 0.0), operation.kernel, operation.stride
    )
    return mean / inside
