"""Data for hospitals on one machine: a table for each, out of one manifest, or drawn pictures if there is none."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from PIL import Image

from contract.base import Name, Strict
from contract.errors import CallerError, ConfigurationError
from federated_learning.data_source.examples import DataSource, Example

TRAINING, VALIDATION = "train", "validation"
DRAWN_PER_CLASS = {TRAINING: 8, VALIDATION: 3}


class Site(Strict):
    """Which of a manifest's roles a hospital trains on."""

    name: Name
    role: str
    part: int = 0
    parts: int = 1
    """This hospital has the patients of one of so many equal parts of the role."""


def divide_roles(count: int, roles: Sequence[str]) -> tuple[Site, ...]:
    """`count` hospitals, named by letters; roles are divided, the last ones first, if there are more hospitals."""
    if not 3 <= count <= len(ascii_lowercase):
        raise CallerError(f"{count} hospitals: choose from 3 to {len(ascii_lowercase)}")
    each, more = divmod(count, len(roles))
    parts = [max(1, each + (index >= len(roles) - more)) for index in range(len(roles))]
    shares = [(role, part, of) for role, of in zip(roles, parts, strict=True) for part in range(of)]
    return tuple(
        Site(name=f"hospital-{letter}", role=role, part=part, parts=of)
        for letter, (role, part, of) in zip(ascii_lowercase, shares[:count], strict=False)
    )


def write_tables(
    source: DataSource,
    folder: Path,
    *,
    data: Path,
    hospitals: Sequence[Site],
    validation_role: str,
    at_most: int | None = None,
) -> Mapping[str, Path]:
    """A table (CSV) for each hospital, with its training images and its share of the validation images, by patient.

    `at_most`: training images of each class and hospital, and half as many to validate on, for a quick run.
    """
    tables = {}
    for index, site in enumerate(hospitals):
        training = _limit(_take_part(source.examples(site.role), site.part, site.parts), at_most)
        if not training:
            raise ConfigurationError(f"role '{site.role}' has too few patients for so many hospitals: ask for fewer")
        held_out = _limit(
            _take_part(source.examples(validation_role), index, len(hospitals)), at_most and (at_most + 1) // 2
        )
        rows = [
            (example.path.relative_to(data).as_posix(), source.classes[example.label], example.patient, role)
            for role, examples in ((TRAINING, training), (VALIDATION, held_out))
            for example in examples
        ]
        tables[site.name] = _write_table(folder / f"{site.name}.csv", ("path", "label", "patient", "role"), rows)
    return tables


def count_patients(tables: Iterable[Path]) -> int:
    """Patients that hospitals train on, by their tables, altogether."""
    total = 0
    for table in tables:
        with table.open(newline="", encoding="utf-8") as file:
            total += len({row["patient"] for row in csv.DictReader(file) if row["role"] == TRAINING})
    return total


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def _take_part(examples: Sequence[Example], part: int, parts: int) -> list[Example]:
    """Every `parts`-th patient's examples, from patient number `part` on."""
    patients = sorted({example.patient for example in examples})[part::parts]
    wanted = set(patients)
    return [example for example in examples if example.patient in wanted]


def _limit(examples: Sequence[Example], at_most: int | None) -> list[Example]:
    if at_most is None:
        return list(examples)
    kept: dict[int, list[Example]] = {}
    for example in examples:
        if len(of_class := kept.setdefault(example.label, [])) < at_most:
            of_class.append(example)
    return [example for of_class in kept.values() for example in of_class]


def draw_data(
    folder: Path, *, classes: Sequence[str], roles: Sequence[str], validation_role: str, side: int, hospitals: int
) -> Path:
    """Draw grey pictures whose class can be seen, stripes of a width for each, and return their manifest (CSV)."""
    generator, rows = np.random.default_rng(5), list[Sequence[str]]()
    counts = dict.fromkeys(roles, -(-hospitals // len(roles)) * DRAWN_PER_CLASS[TRAINING])
    counts[validation_role] = hospitals * DRAWN_PER_CLASS[VALIDATION]
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for role, count in counts.items():
            for index in range(count):
                file = f"{role}-{index}.png"
                stripes = 60 * np.sin(np.arange(side) * np.pi / (label + 1.5))
                picture = generator.normal(120, 12, size=(side, side)) + stripes
                Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / name / file)
                rows.append([file, name, f"{role}-{name}-{index}", role])
    return _write_table(folder / "manifest.csv", ("file", "label", "patient", "role"), rows)
