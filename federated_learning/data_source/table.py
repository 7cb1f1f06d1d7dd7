"""A table (CSV) of images beside a folder."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from contract.errors import ConfigurationError
from federated_learning.data_source.examples import ALL, DataSource, Example

MAX_MANIFEST_BYTES = 1 << 28


def read_table(table: Path, *, folder: Path, classes: Sequence[str]) -> DataSource:
    """The images that the rows of a CSV with a header name, in their order.

    Columns: `path`, relative to the folder, or `file`, a plain name that lies in the folder of its label; `label`, a
    class's name; `patient` and `role`, which may be left out together with their column: each image is then a patient
    of its own, and all have the role "all". A row with `duplicate_of` set is a copy of another row's image and is never
    used: a copy across splits would leak, a copy within one counts a patient twice.

    Raises ConfigurationError naming the line that is wrong.
    """
    found: dict[str, list[Example]] = {}
    seen: set[Path] = set()
    names_patients = True
    for number, row in _rows(table):
        names_patients = "patient" in row
        if row.get("duplicate_of"):
            continue
        example = _read_example(row, f"{table}: line {number}", folder, classes)
        if example.path in seen:
            raise ConfigurationError(f"{table}: line {number}: the file is listed before; correct the manifest")
        seen.add(example.path)
        found.setdefault(row.get("role", ALL), []).append(example)
    if not found:
        raise ConfigurationError(f"{table}: lists no image; give a CSV with a row for each")
    again = partial(read_table, table, folder=folder, classes=classes)
    return DataSource(classes=tuple(classes), by_role=found, reread=again, names_patients=names_patients)


def _read_example(row: dict[str, str], where: str, folder: Path, classes: Sequence[str]) -> Example:
    label = row.get("label") or ""
    if label not in classes:
        known = ", ".join(classes)
        raise ConfigurationError(f"{where}: '{label[:60]}' is none of the classes {known}; correct the label")
    named = row.get("path") or row.get("file") or ""
    relative = PurePosixPath(named)
    plain = not relative.is_absolute() and ".." not in relative.parts and ("path" in row or relative.name == named)
    patient = row.get("patient", f"{label}/{named}")
    if not (named and plain and patient and row.get("role", ALL)):
        raise ConfigurationError(
            f"{where}: needs a file's plain name or a path within the folder, and a patient and a role if the "
            "table has those columns; correct the manifest"
        )
    path = folder / relative if "path" in row else folder / label / named
    return Example(path=path, label=classes.index(label), patient=patient)


def _rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows by line; a short row has empty cells. Raises ConfigurationError for what is no such table."""
    try:
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            raise ConfigurationError(f"{manifest}: larger than {MAX_MANIFEST_BYTES} bytes; give a CSV of file names")
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ConfigurationError(f"{manifest}: cannot be read ({error.strerror}); give the path of a CSV") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{manifest}: is not a CSV in UTF-8; give the path of a manifest") from error
    if "label" not in columns or not columns & {"path", "file"}:
        raise ConfigurationError(f"{manifest}: its first line must name the columns label and path, or label and file")
    crowded = next((number for number, row in rows if None in row), None)
    if crowded is not None:
        raise ConfigurationError(f"{manifest}: line {crowded}: has more cells than the first; correct the manifest")
    return rows
