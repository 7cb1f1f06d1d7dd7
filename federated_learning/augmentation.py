"""Changes of training images: their size, and random ones for radiographs by MONAI's transforms, drawn from a seed."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from pydantic import BeforeValidator, ConfigDict, Field
from torch import Generator, Tensor

from contract.base import Strict

if TYPE_CHECKING:
    from monai.transforms.compose import Compose


class Augmentation(Strict):
    """Strength of each change; 0 switches it off. Intensities are in units of the data's standard deviation."""

    model_config = ConfigDict(allow_inf_nan=False)

    flip_probability: float = Field(default=0.5, ge=0, le=1)
    rotation_degrees: float = Field(default=12.0, ge=0, le=180)
    shift: float = Field(default=0.08, ge=0, lt=1)
    """Largest shift as a fraction of the side."""
    scale: float = Field(default=0.15, ge=0, lt=1)
    """Largest change of either side's length, drawn for height and width apart."""
    gamma: float = Field(default=0.3, ge=0, le=10)
    """Largest natural logarithm of the exponent on grey values, as another tube voltage or film would change them."""
    contrast: float = Field(default=0.25, ge=0, lt=1)
    brightness: float = Field(default=0.2, ge=0, le=100)
    noise: float = Field(default=0.0, ge=0, le=100)
    """Largest standard deviation of added Gaussian noise."""
    erase_probability: float = Field(default=0.3, ge=0, le=1)
    """Of setting one rectangle, up to a third of either side, to the mean grey value."""
    mixup: float = Field(default=0.2, ge=0, le=1000)
    """Parameter of the Beta distribution of mixing weights (Zhang et al. 2018)."""


NONE = Augmentation(
    flip_probability=0, rotation_degrees=0, shift=0, scale=0, gamma=0, contrast=0, brightness=0, erase_probability=0,
    mixup=0,
)  # fmt: skip
"""No change at all; MONAI is then not even imported."""

NamedAugmentation = Annotated[Augmentation, BeforeValidator(lambda value: NONE if value == "none" else value)]
"""An augmentation in settings: a table, or the word "none"."""


Transform = Callable[[Tensor], Any]


@lru_cache(maxsize=8)
def _make_pipeline(settings: Augmentation, size: int) -> "Compose | None":
    if settings.model_copy(update={"mixup": 0.0}) == NONE:
        return None
    from monai.transforms.compose import Compose

    return Compose([*_yield_moves(settings, size), *_yield_grey_changes(settings, size)])


def _yield_moves(settings: Augmentation, size: int) -> Iterator[Transform]:
    from monai.transforms.spatial.array import RandAffine, RandFlip

    if settings.flip_probability:
        yield RandFlip(prob=settings.flip_probability, spatial_axis=1)
    if settings.rotation_degrees or settings.shift or settings.scale:
        yield RandAffine(
            prob=1.0,
            rotate_range=math.radians(settings.rotation_degrees),
            translate_range=(settings.shift * size,) * 2,
            scale_range=(settings.scale,) * 2,
            padding_mode="border",
            spatial_size=(size, size),
            cache_grid=True,
        )


def _yield_grey_changes(settings: Augmentation, size: int) -> Iterator[Transform]:
    from monai.transforms.intensity import array as monai

    if settings.gamma:
        yield monai.RandAdjustContrast(prob=1.0, gamma=(math.exp(-settings.gamma), math.exp(settings.gamma)))
    if settings.contrast:
        yield monai.RandScaleIntensity(factors=settings.contrast, prob=1.0)
    if settings.brightness:
        yield monai.RandShiftIntensity(offsets=settings.brightness, prob=1.0)
    if settings.noise:
        yield monai.RandGaussianNoise(prob=1.0, std=settings.noise)
    if settings.erase_probability:
        yield monai.RandCoarseDropout(
            holes=1,
            spatial_size=max(1, size // 10),
            max_spatial_size=max(2, size // 3),
            fill_value=0.0,
            prob=settings.erase_probability,
        )


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """MONAI without its record of what was done to each tensor: half the time of a transform."""
    from monai.data.meta_obj import get_track_meta, set_track_meta

    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


def augment(images: Tensor, settings: Augmentation, generator: Generator) -> Tensor:
    """Move and re-light each image of a normalised batch (batch, channels, height, width); same shape and dtype.

    Images are square. What moves in from outside repeats the border.
    """
    pipeline = _make_pipeline(settings, images.shape[-1])
    if pipeline is None:
        return images
    seed = int(torch.randint(2**32, (1,), generator=generator))
    with _plain_tensors():
        pipeline.set_random_state(seed=seed)
        changed = [cast("Any", pipeline(image)) for image in images.clone()]  # some change their input
    return torch.stack(changed).to(images.dtype)


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


def resize(images: Tensor, size: int) -> Tensor:
    """Antialiased bilinear to (size, size); unchanged if it has that size."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
