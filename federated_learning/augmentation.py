"""Random changes of training images, drawn from a given generator so that a run can be repeated."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength of each change; 0 switches it off."""

    flip_probability: float = 0.5
    rotation_degrees: float = 10.0
    shift: float = 0.06
    """Largest shift as a fraction of the side."""
    scale: float = 0.12
    contrast: float = 0.2
    brightness: float = 0.15
    """Largest brightness offset in units of the training set's standard deviation."""
    mixup: float = 0.2
    """Parameter of the Beta distribution of mixing weights (Zhang et al. 2018)."""


def _uniform(count: int, spread: float, generator: Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * spread


def augment(images: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Move and re-light each image of a normalised batch (batch, channels, height, width); same shape and dtype.

    What moves in from outside repeats the border.
    """
    count = len(images)
    angle = _uniform(count, math.radians(settings.rotation_degrees), generator)
    zoom = 1 + _uniform(count, settings.scale, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < settings.flip_probability, -1.0, 1.0)
    # affine_grid's own coordinates run over [-1, 1], so a shift of the whole side is 2
    shift_x, shift_y = (_uniform(count, 2 * settings.shift, generator) for _ in range(2))
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = (torch.stack([mirror * cosine, -sine, shift_x], 1), torch.stack([mirror * sine, cosine, shift_y], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gain = 1 + _uniform(count, settings.contrast, generator)
    offset = _uniform(count, settings.brightness, generator)
    return moved * gain.view(-1, 1, 1, 1) + offset.view(-1, 1, 1, 1)


def mix(images: Tensor, targets: Tensor, settings: Augmentation, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mixup: convex combinations of a batch and its target distributions (batch, classes) with a shuffled copy."""
    if settings.mixup == 0:
        return images, targets
    concentration = torch.full((len(images), 2), settings.mixup)
    gamma = torch._standard_gamma(concentration, generator=generator)  # noqa: SLF001  (the public Beta takes no generator)
    weight = (gamma[:, 0] / gamma.sum(1).clamp_min(1e-20)).clamp(0, 1)
    weight = torch.maximum(weight, 1 - weight)
    order = torch.randperm(len(images), generator=generator)
    by_image = weight.view(-1, 1, 1, 1)
    by_target = weight.view(-1, 1)
    return images * by_image + images[order] * (1 - by_image), targets * by_target + targets[order] * (1 - by_target)
