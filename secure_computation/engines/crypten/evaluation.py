"""Evaluates a public network on CrypTen tensors. The same walk for both parties, and for the dry run.

Every value is an `MPCTensor`: additive shares mod 2^64 of x * 2^16, of shape (1, channels, height, width) or
(1, features).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

import torch
from torch.nn import functional

from secure_computation.crypten_bridge import activations, comparison
from secure_computation.crypten_bridge.activations import with_share
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.softmax import softmax
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

PRECISION_BITS: Final = 16
BELOW_EVERYTHING: Final = -float(1 << 20)
"""Pads max-pooling: below every activation that the plausibility bound of the engine lets through."""

EncryptedTensor = Any
OnOperation = Callable[[int, Operation], None]
"""Called before each operation with its index: progress, and the step that errors name."""


def evaluate(
    network: Network,
    image: EncryptedTensor,
    weights: Mapping[str, EncryptedTensor],
    on_operation: OnOperation,
) -> EncryptedTensor:
    """Evaluate the whole network; returns the output's shares, (1, classes). Values go as soon as they are unused."""
    values: dict[str, EncryptedTensor] = {INPUT: image}
    last_uses = network.last_uses()
    for index, operation in enumerate(network.operations):
        on_operation(index, operation)
        values[operation.output] = _apply(operation, [values[name] for name in operation.inputs], weights)
        for name in set(operation.inputs):
            if last_uses[name] == index and name != network.output:
                del values[name]
    return values[network.output]


def _apply(  # noqa: C901, PLR0911, PLR0912 - one line for each operation of a closed set
    operation: Operation, inputs: list[EncryptedTensor], weights: Mapping[str, EncryptedTensor]
) -> EncryptedTensor:
    x = inputs[0]
    match operation:
        case Convolution2d():
            return _convolution(operation, x, weights)
        case FullyConnected():
            product = x.matmul(weights[f"{operation.name}.weight"].t())
            return product + weights[f"{operation.name}.bias"] if operation.bias else product
        case Relu():
            return _relu(x)
        case Clip():
            return _clip(x, operation.high)
        case Activation():
            return activations.apply_activation(operation.function, x)
        case Softmax():
            return softmax(x)
        case MaxPool():
            return _max_pool(x, operation)
        case AveragePool():
            return _average_pool(x, operation)
        case GlobalAveragePool():
            return _share_sum(x, (2, 3)).div(math.prod(x.size()[2:]))
        case Add():
            return inputs[0] + inputs[1]
        case Multiply():
            return inputs[0] * inputs[1]
        case Concat():
            return load_crypten().cat(inputs, dim=1)
        case Pad():
            return _pad(x, operation.padding, operation.value)
        case Reshape():
            return x.reshape(1, *operation.shape)
        case _ as never:
            assert_never(never)


def _convolution(
    operation: Convolution2d, x: EncryptedTensor, weights: Mapping[str, EncryptedTensor]
) -> EncryptedTensor:
    top, left, bottom, right = operation.padding
    symmetric = top == bottom and left == right
    result = (x if symmetric else _pad(x, operation.padding, 0.0)).conv2d(
        weights[f"{operation.name}.weight"],
        stride=operation.stride,
        padding=(top, left) if symmetric else (0, 0),
        dilation=operation.dilation,
        groups=operation.groups,
    )
    if operation.bias:
        result = result + weights[f"{operation.name}.bias"].reshape(1, -1, 1, 1)
    return result


def _pad(x: EncryptedTensor, padding: Padding, value: float) -> EncryptedTensor:
    top, left, bottom, right = padding
    return x.pad((left, right, top, bottom), value=value) if any(padding) else x


def _share_sum(x: EncryptedTensor, dimensions: tuple[int, ...]) -> EncryptedTensor:
    """Sum over dimensions, which stay with size 1. Local: each party sums its share."""
    return with_share(x, x.share.sum(dim=dimensions, keepdim=True))


def _relu(x: EncryptedTensor) -> EncryptedTensor:
    return with_share(x, comparison.relu(x.share))


def _clip(x: EncryptedTensor, high: float) -> EncryptedTensor:
    """min(max(x, 0), high) = relu(x) - relu(x - high), both comparisons in one round."""
    both = _relu(load_crypten().stack([x, x - high]))
    return both[0] - both[1]


def _average_pool(x: EncryptedTensor, operation: AveragePool) -> EncryptedTensor:
    padded = _pad(x, operation.padding, 0.0)
    height, width = operation.kernel
    pooled = functional.avg_pool2d(padded.share, operation.kernel, stride=operation.stride, divisor_override=1)
    total = with_share(padded, pooled)
    if operation.count_include_pad or not any(operation.padding):
        return total.div(height * width)
    # Windows at the border hold fewer values: a public factor for each position.
    top, left, bottom, right = operation.padding
    ones = functional.pad(torch.ones(1, 1, *x.size()[2:], device=x.share.device), (left, right, top, bottom))
    counts = functional.avg_pool2d(ones, operation.kernel, stride=operation.stride, divisor_override=1)
    return total * counts.reciprocal()


def _max_pool(x: EncryptedTensor, operation: MaxPool) -> EncryptedTensor:
    """Columns first, then rows: a 3 x 3 window costs 4 comparisons in 4 rounds of ReLU, not 8.

    CrypTen's own `max_pool2d` finds a one-hot argmax as well, for training; it costs several times more and changes its
    process-wide configuration while it runs, which would disturb other sessions.
    """
    padded = _pad(x, operation.padding, BELOW_EVERYTHING)
    share: torch.Tensor = padded.share
    for dim in (3, 2):
        windows = share.unfold(dim, operation.kernel[dim - 2], operation.stride[dim - 2]).movedim(-1, 0)
        share = comparison.largest(windows, 0)[0]
    return with_share(padded, share)
