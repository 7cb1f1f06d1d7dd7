"""Labelled images, and what every source of them can do."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError, ImageError
from contract.model_card import InputSpecification
from imaging.several import read_several

ALL = "all"
"""The role of every example of a source that names no roles."""


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
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that there are; ("all",) where the source names none."""
        ...

    def examples(self, *roles: str) -> tuple[Example, ...]:
        """The examples of these roles in a fixed order. Raises ConfigurationError for a role that there is not."""
        ...

    def reread(self) -> "DataSource":
        """The same source as it stands on the disk now."""
        ...


def examples_of(found: Mapping[str, Sequence[Example]], roles: Sequence[str]) -> tuple[Example, ...]:
    """The examples of `roles`, one role after the other. Raises ConfigurationError for a role without examples."""
    missing = [role for role in roles if not found.get(role)]
    if missing:
        known = ", ".join(sorted(found))
        raise ConfigurationError(
            f"the data has no examples of role '{missing[0]}'; its roles are: {known}. Name one of them"
        )
    return tuple(example for role in roles for example in found[role])


class PatientSplit:
    """Another source's role, cut in two by patient: `training` and `validation`.

    Which side a patient falls on depends on the patient's name and the seed alone, so that new patients move nobody.
    """

    def __init__(self, source: DataSource, role: str = ALL, *, validation_share: float = 0.15, seed: int = 0) -> None:
        """`validation_share`: of patients, about. Raises ConfigurationError for a role that there is not."""
        if not 0 < validation_share < 1:
            raise ConfigurationError("the share of patients to validate on must lie between 0 and 1")
        self._source, self._role, self._share, self._seed = source, role, validation_share, seed
        self._found: dict[str, list[Example]] = {"training": [], "validation": []}
        for example in source.examples(role):
            self._found["validation" if self._is_held_out(example.patient) else "training"].append(example)

    def _is_held_out(self, patient: str) -> bool:
        digest = hashlib.sha256(f"{self._seed}/{patient}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self._share * 2**64

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the source."""
        return self._source.classes

    @property
    def roles(self) -> tuple[str, ...]:
        """Training and validation, less a side on which no patient fell."""
        return tuple(role for role, examples in self._found.items() if examples)

    def examples(self, *roles: str) -> tuple[Example, ...]:
        """As `DataSource.examples`."""
        return examples_of(self._found, roles)

    def reread(self) -> "PatientSplit":
        """As `DataSource.reread`."""
        return PatientSplit(self._source.reread(), self._role, validation_share=self._share, seed=self._seed)


def check_disjoint_patients(first: Sequence[Example], second: Sequence[Example]) -> None:
    """Raises ConfigurationError if a patient has images in both: figures on the second would be too good."""
    shared = {example.patient for example in first} & {example.patient for example in second}
    if shared:
        raise ConfigurationError(
            f"{len(shared)} patient(s) are in training and in validation or test: split the manifest by patient"
        )


def labels_of(examples: Sequence[Example]) -> NDArray[np.int64]:
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

    With `cache` the array is a file mapped into memory; it is written anew each time. `progress` is called after each
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
