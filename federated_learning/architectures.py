"""Network architectures that can be trained here, by name.

Every network maps float32 images of shape (batch, channels, height, width) to logits of shape (batch, classes), and
uses only operations that the encrypted engines run well: convolution, ReLU, average or maximum pool, a linear layer;
normalisation of any kind is gone after `fold_normalisation`. Pooling by average is the default: a maximum costs about
three times the traffic encrypted.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from contract.errors import ConfigurationError

Pool = Literal["average", "max"]


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """What every architecture is built from. `dropout` acts on the features before the linear layer, in training."""

    channels: int
    classes: int
    pool: Pool = "average"
    dropout: float = 0.0

    def pooling(self, kernel: int, stride: int, padding: int = 0) -> nn.Module:
        """A new pooling layer of the chosen kind."""
        kind = nn.AvgPool2d if self.pool == "average" else nn.MaxPool2d
        return kind(kernel, stride=stride, padding=padding)


class NormalisedConvolution2d(nn.Sequential):
    """A convolution without bias, then batch normalisation."""

    def __init__(self, *, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        """The padding keeps the size at stride 1."""
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs))

    def fold(self) -> nn.Conv2d:
        """The same function, in evaluation mode, as a plain convolution with bias."""
        convolution, normalisation = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(self))
        return fuse_conv_bn_eval(convolution.eval(), normalisation.eval())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, the basic block of He et al. 2016."""

    def __init__(self, *, inputs: int, outputs: int, stride: int) -> None:
        """`stride` is that of the first convolution; the shortcut is a 1x1 convolution if the shape changes."""
        super().__init__()
        self.convolution1 = NormalisedConvolution2d(inputs=inputs, outputs=outputs, kernel=3, stride=stride)
        self.convolution2 = NormalisedConvolution2d(inputs=outputs, outputs=outputs, kernel=3)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = NormalisedConvolution2d(inputs=inputs, outputs=outputs, kernel=1, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        hidden = torch.relu(self.convolution1(images))
        return torch.relu(self.convolution2(hidden) + self.shortcut(images))


def _plan_blocks(blocks: tuple[int, ...], width: int) -> Iterator[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each of `blocks` blocks in each stage; stage i has width * 2**i channels."""
    inputs = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            outputs = width * 2**stage
            yield inputs, outputs, 2 if stage > 0 and block == 0 else 1
            inputs = outputs


class Classifier(nn.Module):
    """What ends every network: a global average pool and a linear layer."""

    def _end(self, shape: NetworkShape, inputs: int) -> None:
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(inputs, shape.classes)

    def extract(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> features (batch, inputs of the linear layer, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        return cast("Tensor", self.head(self.dropout(self.pool(self.extract(images)).flatten(1))))


class ResidualNetwork(Classifier):
    """ResNet with batch normalisation."""

    def __init__(self, shape: NetworkShape, *, blocks: tuple[int, ...], width: int) -> None:
        """`blocks` residual blocks in each stage; stage i has width * 2**i channels."""
        super().__init__()
        stem = NormalisedConvolution2d(inputs=shape.channels, outputs=width, kernel=7, stride=2)
        self.stem = nn.Sequential(stem, nn.ReLU(), shape.pooling(3, 2, 1))
        self.stages = nn.Sequential(*(
            ResidualBlock(inputs=inputs, outputs=outputs, stride=stride)
            for inputs, outputs, stride in _plan_blocks(blocks, width)
        ))  # fmt: skip
        self._end(shape, width * 2 ** (len(blocks) - 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ResidualBlock):
                last = cast("nn.BatchNorm2d", module.convolution2[1])
                nn.init.zeros_(last.weight)  # each block starts as the identity: steadier first steps

    def extract(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.stages(self.stem(images)))


class SmallNetwork(Classifier):
    """Four plain 3x3 convolutions with ReLU and a pool each."""

    def __init__(self, shape: NetworkShape, *, width: int) -> None:
        """Layer i has width * 2**i channels."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs = shape.channels
        for level in range(4):
            outputs = width * 2**level
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(cast("Tensor", convolution.bias))
            # Pooled first: a maximum commutes with ReLU, and either way four times fewer ReLUs are computed.
            layers += [convolution, shape.pooling(2, 2), nn.ReLU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self._end(shape, inputs)

    def extract(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.layers(images))


RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""1 / the standard deviation of relu(x) for x of the standard normal distribution."""
RESIDUAL_SCALE = 0.2
"""Weight of a block's branch beside its shortcut: the paper's alpha."""
SMALLEST_SPREAD = 1e-8
"""Added to fan-in times variance, for kernels that are constant."""


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
        outputs, inputs, height, width = self.weight.shape
        rows = self.weight.permute(0, 2, 3, 1).reshape(outputs, -1)  # a view: kernels are in channels-last order
        fan_in = rows.shape[1]
        # Its epsilon is added to the variance alone.
        standardised = F.layer_norm(rows, (fan_in,), eps=SMALLEST_SPREAD / fan_in)
        weight = standardised * (factor / math.sqrt(fan_in)).unsqueeze(1)
        return weight.view(outputs, height, width, inputs).permute(0, 3, 1, 2), bias

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


class NormaliserFreeNetwork(Classifier):
    """ResNet of pre-activation blocks; as in the paper the stem pools without an activation of its own.

    Scaled weight standardisation (Brock, De and Smith 2021, arXiv:2101.08692). Batch normalisation keeps statistics of
    the training images, which hospitals would have to exchange, and ties the examples of a batch together, which
    differential privacy forbids. Here the weights are standardised instead, and every scale of the network (activation
    gain, expected deviation, skip gain) multiplies a convolution's weight. What an engine sees is therefore a plain
    convolution with a bias: `fold_normalisation` gives it.
    """

    def __init__(self, shape: NetworkShape, *, blocks: tuple[int, ...], width: int) -> None:
        """`blocks` in each stage; stage i has width * 2**i channels."""
        super().__init__()
        stem = StandardisedConvolution2d(inputs=shape.channels, outputs=width, kernel=7, stride=2)
        self.stem = nn.Sequential(stem, shape.pooling(3, 2, 1))
        stages: list[nn.Module] = []
        variance = 1.0
        for inputs, outputs, stride in _plan_blocks(blocks, width):
            deviation = math.sqrt(variance)
            stages.append(PreactivationBlock(inputs=inputs, outputs=outputs, stride=stride, deviation=deviation))
            # A shortcut with a convolution starts from variance 1 again; each branch adds its own.
            variance = (1.0 if stride != 1 or inputs != outputs else variance) + RESIDUAL_SCALE**2
        self.stages = nn.Sequential(*stages)
        self._end(shape, width * 2 ** (len(blocks) - 1))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def extract(self, images: Tensor) -> Tensor:
        return torch.relu(self.stages(self.stem(images)))


ARCHITECTURES: Mapping[str, Callable[[NetworkShape], nn.Module]] = MappingProxyType(
    {
        "resnet18": lambda shape: ResidualNetwork(shape, blocks=(2, 2, 2, 2), width=64),
        "resnet18-normaliser-free": lambda shape: NormaliserFreeNetwork(shape, blocks=(2, 2, 2, 2), width=64),
        "small-cnn": lambda shape: SmallNetwork(shape, width=16),
        "resnet10-narrow": lambda shape: ResidualNetwork(shape, blocks=(1, 1, 1, 1), width=8),
        "resnet10-narrow-normaliser-free": lambda shape: NormaliserFreeNetwork(shape, blocks=(1, 1, 1, 1), width=8),
    }
)
"""Name -> builder. The narrow ones are for quick trials and tests."""


def build(architecture: str, *, channels: int, classes: int, pool: Pool = "average", dropout: float = 0.0) -> nn.Module:
    """A freshly initialised network; draws from torch's global generator. Raises ConfigurationError."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigurationError(f"architecture '{architecture}' is unknown; choose one of: {known}")
    return ARCHITECTURES[architecture](NetworkShape(channels=channels, classes=classes, pool=pool, dropout=dropout))


def fold_normalisation(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that computes the same with plain convolutions and biases only."""
    plain = copy.deepcopy(network).eval()
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NormalisedConvolution2d | StandardisedConvolution2d):
                setattr(parent, name, child.fold())
    return plain
