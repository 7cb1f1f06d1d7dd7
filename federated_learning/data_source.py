"""Where training images come from: a manifest (CSV) beside a folder of files."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import InputSpecification
from imaging.reading import read_model_input

MAX_MANIFEST_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled image. `label` indexes the classes; `patient` is what intervals and splits go by."""

    path: Path
    label: int
    patient: str


class DataSource(Protocol):
    """Gives the examples of a part of the data ("train", a hospital's name, ...)."""

    def examples(self, *parts: str) -> tuple[Example, ...]:
        """The examples of these parts in a fixed order."""
        ...


class ManifestSource:
    """Rows of a CSV with columns file, label, patient, role and, optionally, duplicate_of.

    Files lie at folder/label/file. A row with `duplicate_of` set is a copy of another row's image and is never used:
    a copy across splits would leak, a copy within one counts a patient twice.
    """

    def __init__(self, *, manifest: Path, folder: Path, classes: Sequence[str]) -> None:
        """Read and check the manifest. Raises ConfigurationError naming the line that is wrong."""
        self._examples: dict[str, list[Example]] = {}
        labels = {name: index for index, name in enumerate(classes)}
        for number, row in _rows(manifest):
            if row.get("duplicate_of"):
                continue
            file, label, patient, role = (row.get(key) or "" for key in ("file", "label", "patient", "role"))
            if not (file and patient and role) or label not in labels or Path(file).name != file:
                raise ConfigurationError(
                    f"{manifest}: line {number}: needs a plain file name, a patient, a role and a label out of "
                    f"{', '.join(classes)}; correct the manifest"
                )
            example = Example(path=folder / label / file, label=labels[label], patient=patient)
            self._examples.setdefault(role, []).append(example)

    def examples(self, *parts: str) -> tuple[Example, ...]:
        """Examples of the roles `parts`, in manifest order. Raises ConfigurationError for a role without rows."""
        missing = [part for part in parts if part not in self._examples]
        if missing:
            known = ", ".join(sorted(self._examples))
            raise ConfigurationError(f"the manifest has no rows of role '{missing[0]}'; its roles are: {known}")
        return tuple(example for part in parts for example in self._examples[part])


def _rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            raise ConfigurationError(f"{manifest}: larger than {MAX_MANIFEST_BYTES} bytes; give a CSV of file names")
        with manifest.open(newline="", encoding="utf-8") as file:
            return [(number, row) for number, row in enumerate(csv.DictReader(file), start=2)]
    except OSError as error:
        raise ConfigurationError(f"{manifest}: cannot be read ({error.strerror}); give the path of a CSV") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{manifest}: is not a CSV in UTF-8; give the path of a manifest") from error


def check_disjoint_patients(first: Sequence[Example], second: Sequence[Example]) -> None:
    """Raises ConfigurationError if a patient has images in both: figures on the second would be too good."""
    shared = {example.patient for example in first} & {example.patient for example in second}
    if shared:
        raise ConfigurationError(
            f"{len(shared)} patient(s) are in training and in validation or test: split the manifest by patient"
        )


def load(
    examples: Sequence[Example],
    specification: InputSpecification,
    *,
    cache: Path | None = None,
    progress: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """All images as one array: float32, (examples, channels, height, width), read as serving reads them.

    With `cache` the array is a file mapped into memory, so that a data set larger than memory can be trained on; the
    file is written anew each time. `progress` is called after each image.
    """
    shape = (len(examples), specification.channels, specification.height, specification.width)
    images: NDArray[np.float32]
    if cache is None:
        images = np.empty(shape, dtype=np.float32)
    else:
        images = np.lib.format.open_memmap(cache, mode="w+", dtype=np.float32, shape=shape)
    for index, example in enumerate(examples):
        images[index] = read_model_input(example.path, specification).tensor
        progress()
    return images


def labels_of(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Class indices, int64, shape (examples,)."""
    return np.asarray([example.label for example in examples], dtype=np.int64)
