"""Small networks, weights and images for tests, and one call that runs all three roles on them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secure_computation import float_reference
from secure_computation.channel.memory import Recorders
from secure_computation.engines.crypten.engine import CrypTenDataOwner, CrypTenDealer, CrypTenModelOwner
from secure_computation.engines.crypten.lowering import CrypTenLowering, lower
from secure_computation.engines.masked.session.in_process import InProcessParties, InProcessResult, run_in_process
from secure_computation.material import ItemName
from secure_computation.network import (
    INPUT,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    Network,
    Operation,
    Relu,
    Reshape,
)
from secure_computation.private_weights import PrivateWeights

ITEM = ItemName("0" * 64)
CLASSES = 3


def convolution(
    name: str, source: str, shape: tuple[int, int, int], out: int, kernel: int, **more: Any
) -> Convolution2d:
    """A convolution of `source`, whose shape is given; its own shape is inferred."""
    weight = (out, shape[0] // more.get("groups", 1), kernel, kernel)
    drafted = Convolution2d(
        name=name, inputs=(source,), shape=(1, 1, 1), weight_shape=weight, **({"bias": True} | more)
    )
    return drafted.model_copy(update={"shape": drafted.infer((shape,))})


def classifier(input_shape: tuple[int, int, int], body: list[Operation]) -> Network:
    """Append what turns the body's last value into logits: global average pool, flatten, fully connected."""
    last = body[-1]
    head: list[Operation] = []
    if len(last.shape) == 3:
        channels = last.shape[0]
        head.append(GlobalAveragePool(name="gap", inputs=(last.name,), shape=(channels, 1, 1)))
        head.append(Reshape(name="flat", inputs=("gap",), shape=(channels,)))
    features = (head or body)[-1].shape[0]
    head.append(
        FullyConnected(
            name="fc",
            inputs=((head or body)[-1].name,),
            shape=(CLASSES,),
            in_features=features,
            out_features=CLASSES,
            bias=True,
        )
    )
    return Network(input_shape=input_shape, operations=(*body, *head), output="fc", classes=CLASSES)


def flattened(input_shape: tuple[int, int, int], body: list[Operation]) -> Network:
    """Every element of the body's last value reaches the logits with its own weight."""
    last = body[-1]
    size = int(np.prod(last.shape))
    return classifier(input_shape, [*body, Reshape(name="all", inputs=(last.name,), shape=(size,))])


def small_network(size: int = 6) -> Network:
    """Two convolutions with ReLU between: every protocol of the engine, in a moment."""
    first = convolution("c1", INPUT, (1, size, size), 2, 3, padding=(1, 1, 1, 1))
    relu = Relu(name="r1", inputs=("c1",), shape=first.shape)
    second = convolution("c2", "r1", (2, size, size), 3, 3, stride=(2, 2))
    return classifier((1, size, size), [first, relu, second])


def random_weights(network: Network, seed: int = 0) -> PrivateWeights:
    """Weights that keep activations near 1."""
    generator = np.random.default_rng(seed)
    return PrivateWeights(
        network,
        {
            name: (generator.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
            for name, shape in network.weight_shapes().items()
        },
    )


def random_image(network: Network, seed: int = 0) -> NDArray[np.float32]:
    """Normal noise of the network's input shape."""
    return np.random.default_rng(1000 + seed).normal(size=network.input_shape).astype(np.float32)


def plain_logits(network: Network, weights: PrivateWeights, image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The float reference, float64 of shape (classes,)."""
    logits = float_reference.evaluate(network, weights, torch.from_numpy(image[None]))[0]
    return np.asarray(logits.numpy(), dtype=np.float64)


def run_all(
    network: Network,
    weights: PrivateWeights,
    image: NDArray[np.float32],
    *,
    lowering: CrypTenLowering | None = None,
    item: ItemName = ITEM,
    recorders: Recorders | None = None,
) -> InProcessResult:
    """Run all three roles; lower the network first if that was not done."""
    lowering = lowering or lower(network)
    parties = InProcessParties(
        dealer=CrypTenDealer(lowering),
        data_owner=CrypTenDataOwner(network, lowering),
        model_owner=CrypTenModelOwner(network, weights, lowering),
    )
    return run_in_process(parties, image, item=item, recorders=recorders)


def changed(weights: PrivateWeights, network: Network, tensors: Mapping[str, NDArray[np.float32]]) -> PrivateWeights:
    """The same weights but for some tensors."""
    return PrivateWeights(network, dict(weights) | dict(tensors))
