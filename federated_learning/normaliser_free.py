"""ResNet without normalisation layers: scaled weight standardisation (Brock, De and Smith 2021, arXiv:2101.08692).

Batch normalisation keeps statistics of the training images, which a federation would have to exchange, and ties the
examples of a batch together, which differential privacy forbids. Here the weights are standardised instead, and every
scale of the network (activation gain, expected deviation, skip gain) multiplies a convolution's weight. What an engine
sees is therefore a plain convolution with a bias: `fold_normalisation` gives it.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""1 / the standard deviation of relu(x) for x of the standard normal distribution."""
RESIDUAL_SCALE = 0.2
"""Weight of a block's branch beside its shortcut: the paper's alpha."""
SMALLEST_SPREAD = 1e-4
"""Of fan-in times variance: below it a kernel counts as constant."""


class _Standardised(torch.autograd.Function):
    """(w - mean) * factor / sqrt(fan-in * variance) for each output's kernel, in as few passes over w as there can be.

    Kernels are most of the network's memory, and autograd's own chain of operations would cost half a training step.
    Kernels are views in channels-last order: rows of fan-in numbers.
    """

    @staticmethod
    def forward(context: Any, weight: Tensor, factor: Tensor) -> Tensor:
        rows = _rows(weight)
        mean = rows.mean(1, keepdim=True)
        # fan-in * variance; the means are small beside the deviations, so that nothing cancels
        spread = torch.linalg.vecdot(rows, rows).unsqueeze(1) - rows.shape[1] * mean * mean
        scale = torch.rsqrt(spread.clamp_min(SMALLEST_SPREAD))
        context.save_for_backward(weight, mean, scale, factor)
        slope = scale * factor.unsqueeze(1)
        return _kernels(torch.addcmul(-mean * slope, rows, slope), weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, mean, scale, factor = context.saved_tensors
        rows, gradients = _rows(weight), _rows(gradient)
        total = gradients.sum(1, keepdim=True)
        along = torch.linalg.vecdot(gradients, rows).unsqueeze(1) - mean * total  # gradient . (weight - mean)
        slope = scale * factor.unsqueeze(1)
        radial = slope * scale * scale * along
        base = torch.addcmul(mean * radial - slope * total / rows.shape[1], rows, -radial)
        return _kernels(torch.addcmul(base, gradients, slope), weight), (along * scale).squeeze(1)


def _rows(kernels: Tensor) -> Tensor:
    return kernels.permute(0, 2, 3, 1).reshape(kernels.shape[0], -1)


def _kernels(rows: Tensor, like: Tensor) -> Tensor:
    outputs, inputs, height, width = like.shape
    return rows.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


class StandardisedConvolution2d(nn.Module):
    """A convolution whose kernels always have mean 0 and variance 1 / fan-in, times a learned gain for each output."""

    scale: Tensor

    def __init__(
        self, *, inputs: int, outputs: int, kernel: int, stride: int = 1, scale: float = 1.0, gated: bool = False
    ) -> None:
        """`scale` multiplies the kernels; with `gated` a learned number, 0 at first, multiplies kernels and bias."""
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.gain = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="linear")

    def effective(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the plain convolution that this one is."""
        factor: Tensor = self.gain * self.scale
        bias: Tensor = self.bias
        if self.gate is not None:
            factor, bias = factor * (RESIDUAL_SCALE * self.gate), bias * (RESIDUAL_SCALE * self.gate)
        return cast("Tensor", _Standardised.apply(self.weight, factor)), bias  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        weight, bias = self.effective()
        return F.conv2d(images, weight, bias, self.stride, self.padding)

    def fold(self) -> nn.Conv2d:
        """The same function as a plain convolution."""
        weight, bias = (value.detach() for value in self.effective())
        outputs, inputs, kernel, _ = weight.shape
        plain = nn.Conv2d(inputs, outputs, kernel, self.stride, self.padding)
        plain.load_state_dict({"weight": weight, "bias": bias})
        return plain


class PreactivationBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 3x3 convolution beside a shortcut; scales live in the convolutions."""

    def __init__(self, *, inputs: int, outputs: int, stride: int, deviation: float) -> None:
        """`deviation` is the expected standard deviation of what comes in: the paper's beta."""
        super().__init__()
        first = RELU_GAIN / deviation
        self.convolution1 = StandardisedConvolution2d(
            inputs=inputs, outputs=outputs, kernel=3, stride=stride, scale=first
        )
        self.convolution2 = StandardisedConvolution2d(
            inputs=outputs, outputs=outputs, kernel=3, scale=RELU_GAIN, gated=True
        )
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = StandardisedConvolution2d(
                inputs=inputs, outputs=outputs, kernel=1, stride=stride, scale=first
            )

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        active = torch.relu(images)
        shortcut = images if self.shortcut is None else self.shortcut(active)
        return cast("Tensor", self.convolution2(torch.relu(self.convolution1(active))) + shortcut)


class NormaliserFreeNetwork(nn.Module):
    """ResNet of pre-activation blocks; as in the paper the stem pools without an activation of its own."""

    def __init__(
        self, *, channels: int, classes: int, blocks: tuple[int, ...], width: int, pool: nn.Module, dropout: float
    ) -> None:
        """`blocks` in each stage; stage i has width * 2**i channels. `pool` halves the stem's output."""
        super().__init__()
        self.stem = nn.Sequential(StandardisedConvolution2d(inputs=channels, outputs=width, kernel=7, stride=2), pool)
        stages: list[nn.Module] = []
        inputs, variance = width, 1.0
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                deviation = math.sqrt(variance)
                stages.append(PreactivationBlock(inputs=inputs, outputs=outputs, stride=stride, deviation=deviation))
                # A shortcut with a convolution starts from variance 1 again; each branch adds its own.
                variance = (1.0 if stride != 1 or inputs != outputs else variance) + RESIDUAL_SCALE**2
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        features = self.pool(torch.relu(self.stages(self.stem(images)))).flatten(1)
        return cast("Tensor", self.head(self.dropout(features)))
