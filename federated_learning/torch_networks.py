"""A network as the rest of the package handles it: its weights by name, its logits for many images."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from federated_learning.architectures import build
from federated_learning.augmentation import resize
from federated_learning.data_source.images import ImageArray
from federated_learning.training_settings import TrainingSettings

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Weights = dict[str, Tensor]


def new_network(settings: TrainingSettings) -> nn.Module:
    """The settings' network as `seed` initialises it; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build(
            settings.architecture,
            channels=settings.channels,
            classes=settings.classes,
            pool=settings.pool,
            dropout=settings.dropout,
        )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def shared_weights(network: nn.Module) -> Weights:
    """Copies of every float tensor of the network, statistics of batch normalisation included: what is aggregated."""
    state = network.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if value.is_floating_point()}


def find_shapes(settings: TrainingSettings) -> dict[str, tuple[int, ...]]:
    """Of every tensor that is aggregated, from the settings' architecture."""
    return {name: tuple(value.shape) for name, value in shared_weights(new_network(settings)).items()}


def load_shared(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite the network's float tensors with these. Raises RuntimeError if names or shapes differ."""
    network.load_state_dict(network.state_dict() | dict(weights))


def network_with(settings: TrainingSettings, weights: Mapping[str, Tensor]) -> nn.Module:
    """The settings' architecture with these weights, in evaluation mode."""
    network = new_network(settings)
    load_shared(network, weights)
    return network.eval()


@torch.no_grad()
def predict(network: nn.Module, images: ImageArray, *, size: int | None = None, batch: int = 32) -> NDArray[np.float32]:
    """Logits in float32 for normalised images (n, channels, height, width) -> (n, classes), in evaluation mode.

    `images` may be read lazily, a batch at a time.
    """
    network.eval()
    parts = []
    for start in range(0, len(images), batch):
        inputs = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))
        inputs = inputs if size is None else resize(inputs, size)
        parts.append(network(inputs.contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts).astype(np.float32)
