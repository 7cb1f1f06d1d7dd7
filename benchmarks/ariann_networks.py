"""The networks of AriaNN's table, as its public repository builds them, with random weights.

Architectures: `models.py` and `data.py` of github.com/LaRiffle/ariann (Ryffel, Tholoniat, Pointcheval and Bach, AriaNN,
PoPETs 2022), and torchvision's AlexNet, VGG-16 and ResNet-18 where that file starts from them. As there, a max pool
stands before the ReLU that follows it, and dropout, which does nothing at inference, is left out.

The weights are He-scaled random numbers of a fixed seed: what a secure evaluation costs depends on shapes alone, and
the answers mean nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Final

import torch
from torch import nn

SEED: Final = 2022


def lenet(classes: int) -> nn.Sequential:
    """For 1 x 28 x 28; ends in a ReLU, as AriaNN's does."""
    features = [layer for sizes in ((1, 20), (20, 50)) for layer in (nn.Conv2d(*sizes, 5), nn.MaxPool2d(2), nn.ReLU())]
    return nn.Sequential(*features, nn.Flatten(), *_classifier(800, 500, classes), nn.ReLU())


def alexnet_small(classes: int) -> nn.Sequential:
    """For 3 x 32 x 32; batch norms after ReLUs, and a last ReLU, as in AriaNN's."""
    layers: list[nn.Module] = []
    for first in (nn.Conv2d(3, 96, 11, 4, 10), nn.Conv2d(96, 256, 5, 1, 1)):
        layers += [first, nn.MaxPool2d(3, 2), nn.ReLU(), nn.BatchNorm2d(first.out_channels)]
    for sizes in pairwise((256, 384, 384, 256)):
        layers += [nn.Conv2d(*sizes, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *_classifier(256, 256, 256, classes), nn.ReLU())


def alexnet(classes: int) -> nn.Sequential:
    """The features of torchvision for 3 x 64 x 64, which leave one pixel, and a smaller classifier."""
    layers: list[nn.Module] = []
    for first in (nn.Conv2d(3, 64, 11, 4, 2), nn.Conv2d(64, 192, 5, 1, 2)):
        layers += [first, nn.MaxPool2d(3, 2), nn.ReLU()]
    for sizes in pairwise((192, 384, 256)):
        layers += [nn.Conv2d(*sizes, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *_classifier(256, 1024, 1024, classes))


def vgg16(classes: int, *, side: int) -> nn.Sequential:
    """The features of torchvision; the classifier's first layer takes what is left of a picture of `side` pixels."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.insert(-1, nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), *_classifier(512 * (side // 32) ** 2, 4096, 4096, classes))


def resnet18(classes: int) -> nn.Sequential:
    """As in torchvision, with max pool and ReLU of the stem exchanged."""
    from monai.networks.nets.resnet import ResNetBlock

    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1), nn.ReLU()]
    inputs = 64
    for outputs, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            shortcut = None if inputs == outputs else projection
            layers.append(ResNetBlock(inputs, outputs, spatial_dims=2, stride=stride, downsample=shortcut))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_classifier(512, classes))


def _classifier(*sizes: int) -> list[nn.Module]:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for pair in pairwise(sizes):
        layers += [nn.Linear(*pair), nn.ReLU()]
    return layers[:-1]


NETWORKS: Final[Mapping[str, Callable[[int], nn.Module]]] = {
    "lenet-28": lenet,
    "alexnet-32": alexnet_small,
    "alexnet-64": alexnet,
    "vgg16-32": partial(vgg16, side=32),
    "vgg16-64": partial(vgg16, side=64),
    "resnet18-224": resnet18,
}
"""By the row's name. Each takes the number of classes."""


def draw_network(name: str, classes: int) -> nn.Module:
    """A network ready for inference. Its batch norms are as after training: every channel has numbers of its own."""
    torch.manual_seed(SEED)
    network = NETWORKS[name](classes)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0, 0.05)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for scale in (layer.weight, layer.running_var):
                nn.init.uniform_(scale, 0.8, 1.2)
            for shift in (layer.bias, layer.running_mean):
                nn.init.normal_(shift, 0, 0.1)
    return network.eval()
