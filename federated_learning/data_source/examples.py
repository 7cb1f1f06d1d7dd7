"""Labelled images, and what every source of them can do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSource:
    """The examples of each role: a part of the data ("train", a hospital's name, ...)."""

    classes: tuple[str, ...]
    """Names of the classes, in the model's order."""
    by_role: Mapping[str, Sequence[Example]]
    """In a fixed order; by the role ("all",) alone if the source names none."""
    reread: Callable[[], "DataSource"]
    """The same source as it stands on the disk now. Raises ConfigurationError."""
    names_patients: bool
    """Whether it says which images are of one patient; else each is a patient of its own."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that there are."""
        return tuple(self.by_role)

    def examples(self, *roles: str) -> tuple[Example, ...]:
        """The examples of these roles, one after the other. Raises ConfigurationError for a role without examples."""
        missing = [role for role in roles if not self.by_role.get(role)]
        if missing:
            known = ", ".join(sorted(self.by_role))
            raise ConfigurationError(
                f"the data has no examples of role '{missing[0]}'; its roles are: {known}. Name one of them"
            )
        return tuple(example for role in roles for example in self.by_role[role])


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


def load(examples: Sequence[Example], specification: InputSpecification) -> NDArray[np.float32]:
    """All images as one array: float32, (examples, channels, height, width), read as serving reads them.

    Raises ImageError for a file that cannot be read.
    """
    shape = (len(examples), specification.channels, specification.height, specification.width)
    images = np.empty(shape, dtype=np.float32)
    for index, image in enumerate(read_several([example.path for example in examples], specification)):
        if isinstance(image, ImageError):
            raise image
        images[index] = image.tensor
    return images


def choose_training_roles(source: DataSource, named: Sequence[str] | None) -> tuple[str, ...]:
    """The roles to train on: those named, else `train`. Raises ConfigurationError if there is neither."""
    return tuple(named) if named else (_find_role(source, TRAINING, option="--training-role"),)


def choose_validation_role(source: DataSource, named: str | None) -> str:
    """The role to choose and to calibrate on: the one named, else `validation`. Raises ConfigurationError."""
    return named or _find_role(source, VALIDATION, option="--validation-role")


def choose_test_roles(source: DataSource, named: Sequence[str] | None) -> tuple[str, ...]:
    """The roles to report on besides: those named, else `test` if there is one."""
    return tuple(named) if named else tuple(role for role in TEST if role in source.roles)[:1]


def _find_role(source: DataSource, usual: Sequence[str], *, option: str) -> str:
    for role in usual:
        if role in source.roles:
            return role
    raise ConfigurationError(
        f"the data has no role '{usual[0]}'; its roles are: {', '.join(source.roles)}. Name one of them with {option}, "
        "or give the images roles: a column of the table, or folders above those of the classes"
    )
