"""Networks as people bring them, with drawn weights: the layers and the ending count, an answer means nothing.

Weights are drawn as for training (He et al. 2015), batch norm's statistics are those of varied phantom radiographs,
and the last layer is scaled so that logits spread: the importer and the engines meet usual ranges.

Batch norm's shifts are not drawn around 0, as before training: each layer of such a network multiplies every small
difference of its input by 1.2 (Yang et al. 2019, "A mean field theory of batch normalization"), MobileNetV2 as a whole
by 100, while a trained network leaves it about as large as it is. With shifts above 0 most values pass ReLU, and
differences hardly grow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.variants import write_random_model
from contract.model_card import Task

LOGIT_SPREAD = 1.0
"""Standard deviation of the logits over the pictures."""
BATCH_NORM_SHIFT = 1.5
"""In standard deviations of what batch norm gives."""


@dataclass(frozen=True, kw_only=True)
class TorchNetwork:
    """One network, how it ends and what its card says."""

    name: str
    build: Callable[[], nn.Module]
    """Given nothing, takes one channel; gives logits."""
    outputs: int
    task: Task
    ends_in_sigmoid: bool = False
    side: int = 64
    """Of the picture that it is measured on, in pixels: small, so that measuring all takes minutes."""
    whole_side: int = 224
    """Of the picture that people give it."""


def densenet121(
    outputs: int, *, blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 32, first: int = 64
) -> nn.Module:
    """CheXNet's network (Huang et al. 2017), by MONAI."""
    from monai.networks.nets.densenet import DenseNet

    return DenseNet(2, 1, outputs, init_features=first, growth_rate=growth, block_config=tuple(blocks))


def resnet18(outputs: int, *, channels: Sequence[int] = (64, 128, 256, 512)) -> nn.Module:
    """He et al. 2016, by MONAI, with the usual max pool."""
    from monai.networks.nets.resnet import ResNet, ResNetBlock

    return ResNet(
        ResNetBlock,
        [2, 2, 2, 2],
        list(channels),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_stride=2,
        num_classes=outputs,
    )


def efficientnet_b0(outputs: int) -> nn.Module:
    """Tan and Le 2019, by MONAI: SiLU in every layer, gates over the channels."""
    from monai.networks.nets.efficientnet import EfficientNetBN

    return EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=1, num_classes=outputs)


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [*_convolution(inputs, hidden, 1)]
        layers += [
            *_convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.layers(images)
        return images + made if self.adds else made


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    ]


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage (Sandler et al. 2018, table 2)."""


def mobilenet_v2(
    outputs: int, *, stages: Sequence[tuple[int, int, int, int]] = MOBILENET_V2, last: int = 1280
) -> nn.Module:
    """Sandler et al. 2018: depthwise convolutions and ReLU6."""
    layers: list[nn.Module] = _convolution(1, 32, 3, 2)
    channels = 32
    for expansion, width, blocks, first_stride in stages:
        for index in range(blocks):
            layers.append(_InvertedResidual(channels, width, first_stride if index == 0 else 1, expansion))
            channels = width
    layers += _convolution(channels, last, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, outputs))


NETWORKS = (
    TorchNetwork(
        name="densenet121-18-findings",
        build=lambda: densenet121(18),
        outputs=18,
        task=Task.MULTI_LABEL,
        ends_in_sigmoid=True,
    ),
    TorchNetwork(name="resnet18-one-logit", build=lambda: resnet18(1), outputs=1, task=Task.BINARY),
    TorchNetwork(name="mobilenet-v2", build=lambda: mobilenet_v2(3), outputs=3, task=Task.CLASSIFICATION),
    TorchNetwork(
        name="efficientnet-b0",
        build=lambda: efficientnet_b0(3),
        outputs=3,
        task=Task.CLASSIFICATION,
        whole_side=96,  # at 224 pixels it sends 4.7 GB
    ),
)
"""What the page shows. Any other that belongs there is one more line."""


def write_model(network: TorchNetwork, folder: Path, pictures: Tensor, *, seed: int = 1) -> Path:
    """Write model.onnx and card.json of a network for pictures of this size (n, 1, height, width); return `folder`."""
    import warnings

    torch.manual_seed(seed)
    module = network.build()
    _initialise(module, pictures)
    complete = nn.Sequential(module, nn.Sigmoid()) if network.ends_in_sigmoid else module
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations: nothing here can act on them
        torch.onnx.export(complete.eval(), (pictures[:1],), path, dynamo=False)
    findings = [f"finding {number + 1}" for number in range(network.outputs)]
    return write_random_model(
        folder,
        path.read_bytes(),
        name=network.name,
        title=network.name,
        shape=(1, pictures.shape[2], pictures.shape[3]),
        classes=["no finding", "finding"] if network.outputs == 1 else findings,
        task=network.task,
    )


def _initialise(module: nn.Module, pictures: Tensor) -> None:
    """Draw the weights, take batch norm's statistics from the pictures, and scale the last layer."""
    linear = [one for one in module.modules() if isinstance(one, nn.Linear)]
    for one in module.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.kaiming_normal_(one.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(one, nn.BatchNorm2d):
            one.momentum = None  # the plain average over what is seen
            nn.init.constant_(one.bias, BATCH_NORM_SHIFT)
    with torch.no_grad():
        module.train()
        module(pictures)
        module.eval()
        logits = module(pictures)
        last = linear[-1]
        last.weight.mul_(LOGIT_SPREAD / float((logits - logits.mean(dim=0)).std()))
        centre = module(pictures).mean(dim=0)
        assert last.bias is not None
        last.bias.sub_(centre)
