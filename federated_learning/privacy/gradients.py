"""What each patient's images say about the weights, shortened to a norm, in integers.

A patient's gradient is that of the mean loss over the patient's images. Patients with equally many images are
differentiated together (torch.func: vmap of grad), some at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod, sqrt

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from federated_learning.augmentation import resize
from federated_learning.data_source.images import ImageArray
from federated_learning.torch_networks import shared_weights

ELEMENTS_AT_ONCE = 1 << 23
"""Of gradients that are held at once, some 12 bytes each."""
BELOW_ONE = 1 - 2.0**-20
"""What float64 may err in a norm, and more: a gradient that is shortened ends below the clipping norm."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ClippedSum:
    """Over some patients. Without noise it never leaves this process, nor is it stored."""

    total: NDArray[np.int64]
    """(elements,), in grid steps, tensors in the network's order."""
    patients: int
    left_out: int
    """Patients whose gradient was not finite, and counts as zero."""


def sum_clipped_gradients(
    network: nn.Module,
    images: ImageArray,
    labels: NDArray[np.int64],
    patients: Sequence[NDArray[np.int64]],
    *,
    clip: float,
    steps: int,
    size: int,
    batch: int,
    label_smoothing: float = 0.0,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> ClippedSum:
    """Sum over `patients`, each given by the places of its images, of gradients of norm `clip` = `steps` at most.

    `size`: of images, (size, size). `batch`: images at once, unless one patient has more. The patients' integers have a
    norm of `steps` at most, whatever the network does with their images.
    """
    parameters = dict(network.named_parameters())
    weights = {name: parameters[name].detach() for name in shared_weights(network)}  # in the order of what is summed
    total = np.zeros(sum(value.numel() for value in weights.values()), np.float64)
    differentiate = _differentiate(network, label_smoothing)
    done = left_out = 0
    for places in _divide(patients, batch=batch, elements=total.size):
        flat = places.ravel()
        pictures = resize(torch.from_numpy(np.ascontiguousarray(images[flat])), size)
        targets = torch.from_numpy(labels[flat])
        shape = places.shape
        found = differentiate(weights, pictures.view(*shape, *pictures.shape[1:]), targets.view(shape))
        bounded = _add_shortened(total, found, clip=clip, steps=steps)
        done, left_out = done + len(places), left_out + len(places) - bounded
        progress(done, len(patients))
    return ClippedSum(total=total.astype(np.int64), patients=len(patients), left_out=left_out)


def _differentiate(
    network: nn.Module, label_smoothing: float
) -> Callable[[Mapping[str, Tensor], Tensor, Tensor], Mapping[str, Tensor]]:
    """(weights, images (patients, images, ...), labels (patients, images)) -> gradients (patients, ...) by name."""
    network.train()

    def compute_loss(weights: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(network, dict(weights), (images,))
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return vmap(grad(compute_loss), in_dims=(None, 0, 0))


def _divide(patients: Sequence[NDArray[np.int64]], *, batch: int, elements: int) -> Iterator[NDArray[np.int64]]:
    """Patients with equally many images, some at a time: places, (patients, images)."""
    by_count: dict[int, list[NDArray[np.int64]]] = {}
    for places in patients:
        by_count.setdefault(len(places), []).append(places)
    for count, alike in sorted(by_count.items()):
        at_once = max(1, min(batch // count, ELEMENTS_AT_ONCE // elements))
        for start in range(0, len(alike), at_once):
            yield np.stack(alike[start : start + at_once])


def _add_shortened(total: NDArray[np.float64], found: Mapping[str, Tensor], *, clip: float, steps: int) -> int:
    """Add gradients to `total`, shortened and in grid steps; returns of how many patients.

    Whole numbers below 2^53, also in every partial sum: all that is compared and added here is exact.
    """
    rows = torch.cat([value.reshape(len(value), prod(value.shape[1:])) for value in found.values()], dim=1).numpy()
    bounded = 0
    for row in rows:  # one patient at a time, which stays in the processor's cache
        steps_of_one = row.astype(np.float64)
        square = _square(steps_of_one)
        if not isfinite(square):
            continue
        # Rounding towards zero makes no element larger, so that the integers' norm is no more than that of the reals.
        np.multiply(steps_of_one, steps * BELOW_ONE / max(sqrt(square), clip), out=steps_of_one)
        np.trunc(steps_of_one, out=steps_of_one)
        if _square(steps_of_one) <= steps**2:
            total += steps_of_one
            bounded += 1
    return bounded


def _square(row: NDArray[np.float64]) -> float:
    """Its squared norm, without the threads that a product of vectors would start."""
    return float(np.einsum("i,i->", row, row))
