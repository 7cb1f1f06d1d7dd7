"""Labelled images, and what every source of them can do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError, ImageError
from contract.model_card import InputSpecification
from imaging.reading import read_several

ALL = "all"
"""The role of every example of a source that names no roles."""
TRAINING: Final = ("train", "training")
VALIDATION: Final = ("validation", "val", "valid")
TEST: Final = ("test", "testing")
"""Words that data sets use for the roles, if nobody says which role is for what."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled image. `label` indexes the classes; `patient` is what intervals and splits go by."""

    path: Path
    label: int
    patient: str


class DataSource(Protocol):
    """Gives the examples of a role: a part of the data ("train", a hospital's name, ...)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the model's order."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that there are; ("all",) if the source names none."""

    def examples(self, *roles: str) -> tuple[Example, ...]:
        """The examples of these roles in a fixed order. Raises ConfigurationError for a role that there is not."""

    def reread(self) -> "DataSource":
        """The same source as it stands on the disk now."""


def select_examples(found: Mapping[str, Sequence[Example]], roles: Sequence[str]) -> tuple[Example, ...]:
    """The examples of `roles`, one role after the other. Raises ConfigurationError for a role without examples."""
    missing = [role for role in roles if not found.get(role)]
    if missing:
        known = ", ".join(sorted(found))
        raise ConfigurationError(
            f"the data has no examples of role '{missing[0]}'; its roles are: {known}. Name one of them"
        )
    return tuple(example for role in roles for example in found[role])


def check_disjoint_patients(first: Sequence[Example], second: Sequence[Example]) -> None:
    """Raises ConfigurationError if a patient has images in both: figures on the second would be too good."""
    shared = {example.patient for example in first} & {example.patient for example in second}
    if shared:
        raise ConfigurationError(
            f"{len(shared)} patient(s) are in training and in validation or test: split the manifest by patient"
        )


def collect_labels(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Class indices, int64, shape (examples,)."""
    return np.asarray([example.label for example in examples], dtype=np.int64)


def load(
    examples: Sequence[Example],
    specification: InputSpecification,
    *,
    cache: Path | None = None,
    progress: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """All images as one array: float32, (examples, channels, height, width), read as serving reads them.

    With `cache` the array is a file mapped into memory; it is written again each time. `progress` is called after each
    image.
    """
    shape = (len(examples), specification.channels, specification.height, specification.width)
    images: NDArray[np.float32]
    if cache is None:
        images = np.empty(shape, dtype=np.float32)
    else:
        images = np.lib.format.open_memmap(cache, mode="w+", dtype=np.float32, shape=shape)
    for index, image in enumerate(read_several([example.path for example in examples], specification)):
        if isinstance(image, ImageError):
            raise image
        images[index] = image.tensor
        progress()
    return images


def training_roles(source: DataSource, named: Sequence[str] | None) -> tuple[str, ...]:
    """The roles to train on: those named, else `train`. Raises ConfigurationError if there is neither."""
    return tuple(named) if named else (_found(source, TRAINING, option="--training-role"),)


def validation_role(source: DataSource, named: str | None) -> str:
    """The role to choose and to calibrate on: the one named, else `validation`. Raises ConfigurationError."""
    return named or _found(source, VALIDATION, option="--validation-role")


def test_roles(source: DataSource, named: Sequence[str] | None) -> tuple[str, ...]:
    """The roles to report on besides: those named, else `test` if there is one."""
    return tuple(named) if named else tuple(role for role in TEST if role in source.roles)[:1]


def _found(source: DataSource, usual: Sequence[str], *, option: str) -> str:
    for role in usual:
        if role in source.roles:
            return role
    raise ConfigurationError(
        f"the data has no role '{usual[0]}'; its roles are: {', '.join(source.roles)}. Name one of them with {option}, "
        "or give the images roles: a column of the table, or folders above those of the classes"
    )
