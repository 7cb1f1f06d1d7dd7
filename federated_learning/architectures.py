"""Network architectures that can be trained here, by name.

Every network maps float32 images of shape (batch, channels, height, width) to logits of shape (batch, classes), and
uses only operations that the encrypted engines run well: convolution, ReLU, average or maximum pool, a linear layer;
normalisation of any kind is gone after `fold_normalisation`. Pooling by average is the default: a maximum costs about
three times the traffic encrypted.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from contract.errors import ConfigurationError
from federated_learning.normaliser_free import NormaliserFreeNetwork, StandardisedConvolution2d

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
        """`stride` is that of the first convolution; the shortcut is a 1x1 convolution where the shape changes."""
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


class ResidualNetwork(nn.Module):
    """ResNet with batch normalisation and a global average pool before the linear layer."""

    def __init__(self, shape: NetworkShape, *, blocks: tuple[int, ...], width: int) -> None:
        """`blocks` residual blocks in each stage; stage i has width * 2**i channels."""
        super().__init__()
        stem = NormalisedConvolution2d(inputs=shape.channels, outputs=width, kernel=7, stride=2)
        self.stem = nn.Sequential(stem, nn.ReLU(), shape.pooling(3, 2, 1))
        stages: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(ResidualBlock(inputs=inputs, outputs=outputs, stride=stride))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(inputs, shape.classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ResidualBlock):
                last = cast("nn.BatchNorm2d", module.convolution2[1])
                nn.init.zeros_(last.weight)  # each block starts as the identity: steadier first steps

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        features = self.pool(self.stages(self.stem(images))).flatten(1)
        return cast("Tensor", self.head(self.dropout(features)))


class SmallNetwork(nn.Module):
    """Four plain 3x3 convolutions with ReLU and a pool each, a global average pool and a linear layer."""

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
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(inputs, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        return cast("Tensor", self.head(self.dropout(self.pool(self.layers(images)).flatten(1))))


def _normaliser_free(shape: NetworkShape, *, blocks: tuple[int, ...], width: int) -> nn.Module:
    pool = shape.pooling(3, 2, 1)
    return NormaliserFreeNetwork(
        channels=shape.channels, classes=shape.classes, blocks=blocks, width=width, pool=pool, dropout=shape.dropout
    )


ARCHITECTURES: Mapping[str, Callable[[NetworkShape], nn.Module]] = MappingProxyType(
    {
        "resnet18": lambda shape: ResidualNetwork(shape, blocks=(2, 2, 2, 2), width=64),
        "resnet18-normaliser-free": lambda shape: _normaliser_free(shape, blocks=(2, 2, 2, 2), width=64),
        "small-cnn": lambda shape: SmallNetwork(shape, width=16),
        "resnet10-narrow": lambda shape: ResidualNetwork(shape, blocks=(1, 1, 1, 1), width=8),
        "resnet10-narrow-normaliser-free": lambda shape: _normaliser_free(shape, blocks=(1, 1, 1, 1), width=8),
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
