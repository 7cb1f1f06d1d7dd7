"""How far the logits move when a value or a layer's weights are rounded: derivatives of the network, at import.

First order, in floating point, on a few calibration images: it tells layers apart, in which a bit counts, from others.
How large the error of a plan is then measured, by the integer reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from secure_computation.engines.masked.plan.fixed_point import diffuse
from secure_computation.engines.masked.plan.steps import DIGIT_LIMIT
from secure_computation.float_reference import apply
from secure_computation.network import INPUT, Clip, Network, Relu
from secure_computation.private_weights import PrivateWeights

_MOST_PROBES: Final = 4
"""Derivatives are taken of each logit, or of so many sums and differences of them if there are more."""
_NEAR_ZERO: Final = 1 / 128
"""Of the largest element of a ReLU: so far below 0 its elements are counted."""


@dataclass(frozen=True)
class BelowZero:
    """Elements just below 0, which a ReLU may let through: how many for each unit of value, by what they do."""

    steady: float = 0.0
    """Mean over images and logits of the square of the summed slopes: errors of one sign add up."""
    varied: float = 0.0
    """Mean of the summed squares of slopes."""
    single: float = 0.0
    """Square of the steepest slope of one element, over all images and logits: an element that no calibration image has
    near 0 may be there in another image."""

    def variance(self, scale: float, bits: int) -> float:
        """Of a logit, if the comparison leaves out so many bits of a value that is cut to this scale.

        The j-th value below 0 passes with odds of 1 / 2 - j / 2^bits, and the j-th above 0 is lost with the same odds.
        Sums of these odds times j and times j^2, over all j on both sides, are (i^2 - 1) / 6 and i (i^2 - 1) / 12 for
        i = 2^(bits-1). One bit is never needed. Besides, one element, wherever it is, may be off by i.
        """
        i = 2 ** max(0, bits - 1)
        steady, varied = (i * i - 1) / 6 / scale**2, i * (i * i - 1) / 12 / scale**3
        return float(self.steady * steady**2 + self.varied * varied + self.single * (i * i - 1) / scale**2)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Variances of a logit, means over images and logits."""

    values: Mapping[str, float]
    """By value: for errors of variance 1 in each of its elements, independent. What a ReLU cut to 0 has no error."""
    weights: Mapping[str, float]
    """By layer: if the largest of its weights becomes the integer DIGIT_LIMIT."""
    below_zero: Mapping[str, BelowZero]
    """By ReLU or clip."""


def measure_sensitivity(network: Network, weights: PrivateWeights, images: NDArray[np.float32]) -> Sensitivity:
    """Derivatives on `images`, float32 (images, channels, height, width): one pass forward and up to four back each."""
    errors = {name: _rounding_error(weights[name]) for name in weights if name.endswith(".weight")}
    found = _Sums(network)
    with torch.enable_grad():
        for image in images:
            leaves = {name: torch.tensor(weights[name], requires_grad=name in errors) for name in weights}
            values = _run(network, leaves, torch.from_numpy(image[None]))
            for probe in _draw_probes(network.classes):
                targets = [*values.values(), *(leaves[name] for name in errors)]
                slopes = torch.autograd.grad(
                    values[network.output], targets, probe[None], retain_graph=True, materialize_grads=True
                )
                found.add(values, dict(zip(values, slopes, strict=False)))
                for (name, error), slope in zip(errors.items(), slopes[len(values) :], strict=True):
                    found.weights[name] += float((slope * error).sum()) ** 2
                found.count += 1
    return found.means()


class _Sums:
    def __init__(self, network: Network) -> None:
        names = [INPUT, *(one.name for one in network.operations)]
        self.values = dict.fromkeys(names, 0.0)
        self.weights = {f"{one.name}.weight": 0.0 for one in network.operations if one.weight_shapes()}
        self.rectified = {one.name: one.inputs[0] for one in network.operations if isinstance(one, Relu | Clip)}
        self.steady, self.varied = dict.fromkeys(self.rectified, 0.0), dict.fromkeys(self.rectified, 0.0)
        self.single = dict.fromkeys(self.rectified, 0.0)
        self.logits_of_a_probe = network.classes if network.classes > _MOST_PROBES else 1
        self.count = 0

    def add(self, values: Mapping[str, torch.Tensor], slopes: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.values[name] += float((slopes[name] * (value != 0)).square().sum())
        for name, source in self.rectified.items():
            width = float(values[name].detach().max()) * _NEAR_ZERO or 1.0
            near = slopes[name][(values[source] < 0) & (values[source] > -width)]
            self.steady[name] += float(near.sum() / width) ** 2
            self.varied[name] += float(near.square().sum() / width)
            steepest = self.logits_of_a_probe * float(slopes[name].square().max())
            self.single[name] = max(self.single[name], steepest)

    def means(self) -> Sensitivity:
        return Sensitivity(
            values={name: total / self.count for name, total in self.values.items()},
            weights={name.removesuffix(".weight"): total / self.count for name, total in self.weights.items()},
            below_zero={
                name: BelowZero(self.steady[name] / self.count, self.varied[name] / self.count, self.single[name])
                for name in self.rectified
            },
        )


def _run(network: Network, leaves: Mapping[str, torch.Tensor], image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every value of the network, all of them kept for the way back."""
    made = {INPUT: image.requires_grad_()}
    for operation in network.operations:
        tensors = {name.removeprefix(f"{operation.name}."): leaves[name] for name in operation.weight_shapes()}
        made[operation.name] = apply(operation, [made[name] for name in operation.inputs], tensors)
    return made


def _rounding_error(weight: NDArray[np.float32]) -> torch.Tensor:
    scale = DIGIT_LIMIT / (float(np.abs(weight).max()) or 1.0)
    error: NDArray[np.float32] = (diffuse(weight, scale) / scale - weight).astype(np.float32)
    return torch.from_numpy(error)


def _draw_probes(classes: int) -> torch.Tensor:
    """Weights of sums of logits, one row each, whose squared derivatives have the logits' mean as their own."""
    if classes <= _MOST_PROBES:
        return torch.eye(classes)
    signs: torch.Tensor = 1 - 2 * (torch.arange(classes) >> torch.arange(_MOST_PROBES)[:, None] & 1)
    return torch.div(signs, classes**0.5)
