"""A folder for each class, with or without a folder for each role above them."""

import os
from collections.abc import Sequence
from pathlib import Path

from contract.errors import ConfigurationError
from federated_learning.data_source.examples import ALL, Example, select_examples

NOTES = (".txt", ".md", ".csv", ".json")
"""Suffixes of files that may lie beside class folders: notes about the data, no images."""
LITTER = frozenset({"Thumbs.db", "desktop.ini", "DICOMDIR"})
"""Files that systems and archives leave in folders. Names that begin with a dot are passed over as well."""


class FolderSource:
    """folder/CLASS/file, or folder/ROLE/CLASS/file.

    A folder within a class folder is a patient, with files at any depth, as archives export studies and series. A file
    that lies in the class folder itself counts as a patient of its own: put the images of one patient into a folder.
    """

    def __init__(self, folder: Path, *, classes: Sequence[str]) -> None:
        """List the files. Raises ConfigurationError naming a folder or file that is in a wrong place."""
        self._folder, self._classes = folder, tuple(classes)
        self._examples: dict[str, list[Example]] = {}
        names = _folders_in(folder)
        if set(names) & set(self._classes):
            self._examples[ALL] = self._of_role(folder, names)
        else:
            for role in names:
                self._examples[role] = self._of_role(folder / role, _folders_in(folder / role))
        if not any(self._examples.values()):
            wanted = ", ".join(self._classes)
            raise ConfigurationError(f"{folder}: holds no image in a folder of a class; make folders named {wanted}")

    def _of_role(self, folder: Path, names: Sequence[str]) -> list[Example]:
        unknown = [name for name in names if name not in self._classes]
        if unknown:
            known = ", ".join(self._classes)
            raise ConfigurationError(f"{folder / unknown[0]}: is none of the classes {known}; move it, or correct them")
        return [example for name in self._classes if name in names for example in self._of_class(folder / name)]

    def _of_class(self, folder: Path) -> list[Example]:
        label, found = self._classes.index(folder.name), []
        for parent, folders, files in os.walk(folder, onerror=_refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.startswith(".") or name in LITTER:
                    continue
                path = Path(parent, name)
                inside = path.relative_to(folder).parts
                alone = path.relative_to(self._folder).as_posix()
                found.append(Example(path=path, label=label, patient=inside[0] if len(inside) > 1 else alone))
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """As given."""
        return self._classes

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the role folders, sorted; ("all",) without."""
        return tuple(self._examples)

    def examples(self, *roles: str) -> tuple[Example, ...]:
        """By class, then by name. Raises ConfigurationError for a role that there is not."""
        return select_examples(self._examples, roles)

    def reread(self) -> "FolderSource":
        """The folder as it stands on the disk now. Raises ConfigurationError."""
        return FolderSource(self._folder, classes=self._classes)


def _refuse(error: OSError) -> None:
    raise ConfigurationError(f"{error.filename}: cannot be read ({error.strerror}); correct its permissions")


def _folders_in(folder: Path) -> list[str]:
    """Names of the folders in it, sorted; a file that may be an image is refused: it would silently not be used."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be read ({error.strerror}); give a folder of images") from error
    visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in LITTER]
    loose = [entry for entry in visible if not entry.is_dir() and entry.suffix.lower() not in NOTES]
    if loose:
        raise ConfigurationError(f"{loose[0]}: lies outside the folder of a class; move it there, or give a table")
    return [entry.name for entry in visible if entry.is_dir()]
