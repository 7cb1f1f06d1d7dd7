"""From a source to images that can be trained on: read once, kept on the disk, checked for change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from contract.model_card import InputSpecification
from federated_learning.data_source.examples import DataSource, Example, collect_labels
from federated_learning.data_source.folders import list_folders
from federated_learning.data_source.image_store import Skipped, read_into_store
from federated_learning.data_source.images import LazyImages
from federated_learning.data_source.table import read_table


def open_source(folder: Path, *, classes: Sequence[str], table: Path | None = None) -> DataSource:
    """The images of a folder, by class folders or by a table (CSV). Raises ConfigurationError.

    See `list_folders` and `read_table` for what each may look like.
    """
    if table is None:
        return list_folders(folder, classes=classes)
    return read_table(table, folder=folder, classes=classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """The images of some roles. Holds file names, which may name patients: never sent anywhere."""

    whose: str
    """Begins messages: the hospital, or nothing."""
    source: DataSource
    roles: tuple[str, ...]
    listed: tuple[Example, ...]
    """All that the source listed when training began."""
    examples: tuple[Example, ...]
    """Those that could be read: `images[i]` is of `examples[i]`."""
    images: LazyImages
    skipped: tuple[Skipped, ...]
    stamps: tuple[tuple[int, int] | None, ...]
    """Size and time of change (nanoseconds) of each file of `listed`; None if there was none."""

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, shape (images,)."""
        return collect_labels(self.examples)

    @property
    def class_counts(self) -> dict[str, int]:
        """Images of each class, zero included. A secret of the hospital: only sums over hospitals may leave it."""
        counts = np.bincount(self.labels, minlength=len(self.source.classes))
        return {name: int(count) for name, count in zip(self.source.classes, counts, strict=True)}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the hospital's own screen: what is unusual and yet no error."""
        lines = [
            f"{self.whose}no image of class '{name}': what the model learns of it, it learns at other hospitals"
            for name, count in self.class_counts.items()
            if count == 0
        ]
        if self.skipped:
            first = self.skipped[0]
            lines.append(
                f"{self.whose}{len(self.skipped)} of {len(self.listed)} files were left out as unusable; "
                f"the first is {first.path}: {first.reason}"
            )
        return tuple(lines)

    def check_unchanged(self) -> None:
        """Compare the files with what they were when training began. Raises ConfigurationError naming one that differs.

        Training itself reads the pictures that were kept; but a model whose data is not what its record says cannot be
        explained afterwards, and a resumed run would go on with other images.
        """
        for example, stamp in zip(self.listed, self.stamps, strict=True):
            if read_stamp(example.path) != stamp:
                raise self._changed(example.path)
        now = self.source.reread().examples(*self.roles)
        if now != self.listed:
            odd = sorted(example.path for example in {*now} ^ {*self.listed})
            raise self._changed(odd[0] if odd else self.listed[0].path.parent)

    def _changed(self, path: Path) -> ConfigurationError:
        return ConfigurationError(
            f"{self.whose}{path} was changed, added or removed while training: restore the data as it was, or "
            "start a new run"
        )


def _name(hospital: str) -> str:
    return f"hospital {hospital}: " if hospital else ""


def read_stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def list_files(
    source: DataSource, roles: Sequence[str], *, hospital: str = "", may_miss: bool = False
) -> tuple[tuple[Example, ...], tuple[tuple[int, int] | None, ...]]:
    """What the source lists for the roles, and the stamp of each file. No file is opened.

    Raises ConfigurationError for a role that there is not and, unless some may be missing, for a missing file.
    """
    listed = source.examples(*roles)
    stamps = tuple(read_stamp(example.path) for example in listed)
    missing = [example for example, stamp in zip(listed, stamps, strict=True) if stamp is None]
    if missing and not may_miss:
        raise ConfigurationError(
            f"{_name(hospital)}{missing[0].path}: there is no such file ({len(missing)} of {len(listed)} are missing); "
            "copy it there, or take it from the table"
        )
    return listed, stamps


def prepare(
    source: DataSource,
    roles: Sequence[str],
    specification: InputSpecification,
    *,
    cache: Path,
    hospital: str = "",
    skip_unusable: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Prepared:
    """Read the images of `roles` as serving would, into a file in the folder `cache`, and give them lazily.

    The file is found by what it is made of, the files' contents and the specification; a change makes a new one. It
    holds readable pictures of patients: keep `cache` where the images themselves may lie. `skip_unusable` leaves out
    files that cannot be read, or that serving would want to have confirmed (another modality or body part, blank).
    `progress(done, all)` is called after each image.

    Raises ConfigurationError that names the hospital and the file which cannot be used.
    """
    listed, stamps = list_files(source, roles, hospital=hospital, may_miss=skip_unusable)
    whose = _name(hospital)
    pixels, kept, skipped = read_into_store(
        [example.path for example in listed],
        specification,
        folder=cache,
        label="/".join((hospital, *roles)),
        whose=whose,
        skip_unusable=skip_unusable,
        progress=progress,
    )
    prepared = Prepared(
        whose=whose,
        source=source,
        roles=tuple(roles),
        listed=listed,
        examples=tuple(listed[index] for index in kept),
        images=LazyImages(pixels, mean=specification.mean, standard_deviation=specification.standard_deviation),
        skipped=skipped,
        stamps=stamps,
    )
    prepared.check_unchanged()
    return prepared
