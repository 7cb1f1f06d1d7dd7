"""Network architectures that can be trained here, by name.

Every network maps float32 images of shape (batch, channels, height, width) to logits of shape (batch, classes), and
uses only operations that the encrypted engines run well: convolution, batch normalisation (folded at import), ReLU,
average pooling, a linear layer. The stem pools by average: a maximum costs about three times the traffic encrypted.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from contract.errors import ConfigurationError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, the basic block of He et al. 2016."""

    def __init__(self, *, inputs: int, outputs: int, stride: int) -> None:
        """`stride` is that of the first convolution; the shortcut is a 1x1 convolution where the shape changes."""
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.normalisation1 = nn.BatchNorm2d(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.normalisation2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        hidden = torch.relu(self.normalisation1(self.convolution1(images)))
        return torch.relu(self.normalisation2(self.convolution2(hidden)) + self.shortcut(images))


class ResidualNetwork(nn.Module):
    """ResNet with an average pool in the stem and a global average pool before the linear layer."""

    def __init__(self, *, channels: int, classes: int, blocks: tuple[int, ...], width: int) -> None:
        """`blocks` residual blocks in each stage; stage i has width * 2**i channels."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2, padding=1),
        )
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
        self.head = nn.Linear(inputs, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ResidualBlock):
                nn.init.zeros_(module.normalisation2.weight)  # each block starts as the identity: steadier first steps

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        return cast("Tensor", self.head(self.pool(self.stages(self.stem(images))).flatten(1)))


def _resnet18(channels: int, classes: int) -> nn.Module:
    return ResidualNetwork(channels=channels, classes=classes, blocks=(2, 2, 2, 2), width=64)


def _resnet10_narrow(channels: int, classes: int) -> nn.Module:
    return ResidualNetwork(channels=channels, classes=classes, blocks=(1, 1, 1, 1), width=8)


ARCHITECTURES: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"resnet18": _resnet18, "resnet10-narrow": _resnet10_narrow}
)
"""Name -> builder(channels, classes). `resnet10-narrow` is for quick trials and tests."""


def build(architecture: str, *, channels: int, classes: int) -> nn.Module:
    """A freshly initialised network; draws from torch's global generator. Raises ConfigurationError."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigurationError(f"architecture '{architecture}' is unknown; choose one of: {known}")
    return ARCHITECTURES[architecture](channels, classes)
