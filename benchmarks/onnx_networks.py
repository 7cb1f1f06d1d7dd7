"""The networks of AriaNN's table, as its public repository builds them, with random weights.

Architectures: `models.py` and `data.py` of github.com/LaRiffle/ariann (Ryffel, Tholoniat, Pointcheval and Bach, AriaNN,
PoPETs 2022), and torchvision's AlexNet, VGG-16 and ResNet-18 where that file starts from them. As there, a max pool
stands before the ReLU that follows it, and dropout, which does nothing at inference, is left out.

The weights are He-scaled random numbers of a fixed seed: what a secure evaluation costs depends on shapes alone, and
the answers mean nothing. They are written as ONNX with a card, so that the product imports them like any model.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.variants import write_random_model
from contract.model_card import Modality

SEED = 2022
OPSET, IR_VERSION = 17, 9


class _Graph:
    """Grows an ONNX graph from the image onwards; layers return the name of their output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._random = np.random.default_rng(SEED)

    def convolution(
        self, source: str, sizes: tuple[int, int], kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> str:
        """`sizes`: channels in, channels out."""
        inputs, outputs = sizes
        weights = [self._weight((outputs, inputs, kernel, kernel)), *([self._bias(outputs)] if bias else [])]
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        return self.node("Conv", [source, *weights], **shape)

    def linear(self, source: str, sizes: tuple[int, int]) -> str:
        """`sizes`: features in, features out."""
        inputs, outputs = sizes
        return self.node("Gemm", [source, self._weight((outputs, inputs)), self._bias(outputs)], transB=1)

    def batch_norm(self, source: str, channels: int) -> str:
        """As after training: every channel has a scale, shift, mean and variance of its own."""
        scale, variance = (self._random.uniform(0.8, 1.2, channels) for _ in range(2))
        shift, mean = (self._random.normal(0, 0.1, channels) for _ in range(2))
        return self.node("BatchNormalization", [source, *map(self._tensor, (scale, shift, mean, variance))])

    def max_pool(self, source: str, kernel: int, stride: int, padding: int = 0) -> str:
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        return self.node("MaxPool", [source], **shape)

    def relu(self, source: str) -> str:
        return self.node("Relu", [source])

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        output = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def _weight(self, shape: tuple[int, ...]) -> str:
        return self._tensor(self._random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape))

    def _bias(self, size: int) -> str:
        return self._tensor(self._random.normal(0, 0.05, size))

    def _tensor(self, values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
        from onnx import numpy_helper

        name = f"tensor{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name


Build = Callable[[_Graph, str, int], str]
"""From the image's name and the number of classes to the name of the logits."""


def lenet(graph: _Graph, source: str, classes: int) -> str:
    """For 1 x 28 x 28; ends in a ReLU, as AriaNN's does."""
    for sizes in ((1, 20), (20, 50)):
        source = graph.relu(graph.max_pool(graph.convolution(source, sizes, 5), 2, 2))
    source = graph.relu(graph.linear(graph.node("Flatten", [source]), (800, 500)))
    return graph.relu(graph.linear(source, (500, classes)))


def alexnet_small(graph: _Graph, source: str, classes: int) -> str:
    """For 3 x 32 x 32; batch norms after ReLUs, and a last ReLU, as in AriaNN's."""
    for sizes, kernel, stride, padding in (((3, 96), 11, 4, 10), ((96, 256), 5, 1, 1)):
        source = graph.convolution(source, sizes, kernel, stride=stride, padding=padding)
        source = graph.batch_norm(graph.relu(graph.max_pool(source, 3, 2)), sizes[1])
    for sizes in ((256, 384), (384, 384), (384, 256)):
        source = graph.relu(graph.convolution(source, sizes, 3, padding=1))
    source = graph.node("Flatten", [source])
    for sizes in ((256, 256), (256, 256), (256, classes)):
        source = graph.relu(graph.linear(source, sizes))
    return source


def alexnet(graph: _Graph, source: str, classes: int) -> str:
    """The features of torchvision for 3 x 64 x 64, which leave one pixel, and a smaller classifier."""
    for sizes, kernel, stride, padding in (((3, 64), 11, 4, 2), ((64, 192), 5, 1, 2)):
        source = graph.convolution(source, sizes, kernel, stride=stride, padding=padding)
        source = graph.relu(graph.max_pool(source, 3, 2))
    for sizes in ((192, 384), (384, 256)):
        source = graph.relu(graph.convolution(source, sizes, 3, padding=1))
    source = graph.relu(graph.max_pool(graph.convolution(source, (256, 256), 3, padding=1), 3, 2))
    source = graph.node("Flatten", [source])
    for sizes in ((256, 1024), (1024, 1024)):
        source = graph.relu(graph.linear(source, sizes))
    return graph.linear(source, (1024, classes))


def vgg16(graph: _Graph, source: str, classes: int, *, side: int) -> str:
    """The features of torchvision; the classifier's first layer takes what is left of a picture of `side` pixels."""
    inputs = 3
    for outputs, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for last in (*(False,) * (convolutions - 1), True):
            source = graph.convolution(source, (inputs, outputs), 3, padding=1)
            source = graph.relu(graph.max_pool(source, 2, 2) if last else source)
            inputs = outputs
    source = graph.node("Flatten", [source])
    for sizes in ((512 * (side // 32) ** 2, 4096), (4096, 4096)):
        source = graph.relu(graph.linear(source, sizes))
    return graph.linear(source, (4096, classes))


def resnet18(graph: _Graph, source: str, classes: int) -> str:
    """As in torchvision, with max pool and ReLU of the stem exchanged."""
    source = graph.convolution(source, (3, 64), 7, stride=2, padding=3, bias=False)
    source = graph.relu(graph.max_pool(graph.batch_norm(source, 64), 3, 2, 1))
    inputs = 64
    for outputs, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            source = _residual_block(graph, source, (inputs, outputs), stride)
            inputs = outputs
    source = graph.node("Flatten", [graph.node("GlobalAveragePool", [source])])
    return graph.linear(source, (512, classes))


def _residual_block(graph: _Graph, source: str, sizes: tuple[int, int], stride: int) -> str:
    inputs, outputs = sizes
    hidden = graph.convolution(source, sizes, 3, stride=stride, padding=1, bias=False)
    hidden = graph.relu(graph.batch_norm(hidden, outputs))
    hidden = graph.convolution(hidden, (outputs, outputs), 3, padding=1, bias=False)
    hidden = graph.batch_norm(hidden, outputs)
    if stride != 1 or inputs != outputs:
        source = graph.convolution(source, sizes, 1, stride=stride, bias=False)
        source = graph.batch_norm(source, outputs)
    return graph.relu(graph.node("Add", [hidden, source]))


def write_network(folder: Path, name: str, build: Build, *, channels: int, side: int, classes: int, title: str) -> Path:
    """Write model.onnx and card.json of a network with random weights into a new `folder`; return it."""
    from onnx import TensorProto, helper

    graph = _Graph()
    logits = build(graph, "image", classes)
    size: list[str | int | None] = ["batch", channels, side, side]
    onnx_graph = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", classes])],
        graph.tensors,
    )
    opset = [helper.make_opsetid("", OPSET)]
    content = helper.make_model(onnx_graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()
    card = {
        "name": name,
        "title": title,
        "input": {
            "modalities": tuple(Modality),
            "channels": channels,
            "height": side,
            "width": side,
            "mean": (0.5,) * channels,
            "standard_deviation": (0.25,) * channels,
        },
        "classes": tuple(f"class-{number}" for number in range(classes)),
    }
    return write_random_model(folder, content, card)
