"""A folder for each class, with or without a folder for each role above them."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from contract.errors import ConfigurationError
from federated_learning.data_source.examples import ALL, DataSource, Example

NOTES = (".txt", ".md", ".csv", ".json")
"""Suffixes of files that may lie beside class folders: notes about the data, no images."""
LITTER = frozenset({"Thumbs.db", "desktop.ini", "DICOMDIR"})
"""Files that systems and archives leave in folders. Names that begin with a dot are passed over as well."""


def list_folders(folder: Path, *, classes: Sequence[str]) -> DataSource:
    """The images in folder/CLASS/file, or folder/ROLE/CLASS/file, by class and then by name.

    A folder within a class folder is a patient, with files at any depth, as archives export studies and series. A file
    that lies in the class folder itself counts as a patient of its own: put the images of one patient into a folder.

    Raises ConfigurationError naming a folder or file that is in a wrong place.
    """
    names = _folders_in(folder)
    places = {ALL: (folder, names)}
    if not set(names) & set(classes):
        places = {role: (folder / role, _folders_in(folder / role)) for role in names}
    found = {role: _list_role(place, inside, classes, folder) for role, (place, inside) in places.items()}
    if not any(found.values()):
        wanted = ", ".join(classes)
        raise ConfigurationError(f"{folder}: holds no image in a folder of a class; make folders named {wanted}")
    again = partial(list_folders, folder, classes=classes)
    # A file in a class folder itself has its own path as its patient's name; a folder's name has no slash.
    names_patients = any("/" not in one.patient for examples in found.values() for one in examples)
    return DataSource(classes=tuple(classes), by_role=found, reread=again, names_patients=names_patients)


def _list_role(folder: Path, names: Sequence[str], classes: Sequence[str], root: Path) -> list[Example]:
    unknown = [name for name in names if name not in classes]
    if unknown:
        known = ", ".join(classes)
        raise ConfigurationError(f"{folder / unknown[0]}: is none of the classes {known}; move it, or correct them")
    return [
        example
        for label, name in enumerate(classes)
        if name in names
        for example in _list_class(folder / name, label, root)
    ]


def _list_class(folder: Path, label: int, root: Path) -> Iterator[Example]:
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or name in LITTER:
                continue
            path = Path(parent, name)
            inside = path.relative_to(folder).parts
            alone = path.relative_to(root).as_posix()
            yield Example(path=path, label=label, patient=inside[0] if len(inside) > 1 else alone)


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
