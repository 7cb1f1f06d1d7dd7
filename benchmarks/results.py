"""What results share: figures over the runs, where and when they were taken, and how their files are read."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
from pydantic import ValidationError

from benchmarks.configuration import THREADS
from benchmarks.machine import Machine, read_versions
from benchmarks.measuring import Measurement, Run
from contract.base import Strict
from contract.errors import CallerError

FORMAT: Final = 2
"""Of saved files. Raised if a reader of the old form would go wrong."""

Kept = TypeVar("Kept")
SavedFile = TypeVar("SavedFile", bound=Strict)


class Range(Strict):
    """Smallest and largest of the measured runs."""

    smallest: float
    largest: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        smallest, middle, high, largest = (float(one) for one in np.quantile(values, (0, 0.5, 0.95, 1)))
        found = {"smallest": smallest, "median": middle, "p95": high, "largest": largest}
        return cls(**{name: found[name] for name in cls.model_fields})


class Spread(Range):
    """Their median as well."""

    median: float


class Quantiles(Spread):
    """Of one kind of seconds over all images, interpolated between neighbours if there are few."""

    p95: float


class Phases(Strict):
    """What one evaluation costs: medians over the measured runs, of the whole batch."""

    online_seconds: float
    offline_seconds: float
    """0 for an engine that does nothing before the image is there."""
    online_bytes: int
    offline_bytes: int
    one_way_trips: int


class Figures(Phases):
    """The same with its ranges, and how right the answers are."""

    online_seconds_range: Range
    offline_seconds_range: Range
    max_abs_error: float
    """Largest of all runs: distance of a logit from onnxruntime's."""


class Taken(Strict):
    """When, how and where a result was taken."""

    taken: str
    """When the last run had ended, ISO 8601."""
    threads: int
    machine: Machine
    versions: dict[str, str]


class PartFile(Strict, Generic[Kept]):
    """One part of the report as it is kept."""

    format: int
    part: str
    taken: str
    """When it had ended, ISO 8601."""
    wall_seconds: float
    code: str
    """`product_version()` of the code that was measured."""
    machine: Machine
    result: Kept


def summarise_phases(runs: Sequence[Run]) -> dict[str, Any]:
    """The fields of `Phases`. Counts stay whole numbers."""
    found = [run.measurement for run in runs]
    return {
        "online_seconds": median(one.online_seconds for one in found),
        "offline_seconds": median(one.offline_seconds for one in found),
        "online_bytes": median_low(one.online_bytes for one in found),
        "offline_bytes": median_low(one.offline_bytes for one in found),
        "one_way_trips": median_low(one.one_way_trips for one in found),
    }


def summarise_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """The fields of `Figures`."""
    return summarise_phases(runs) | {
        "online_seconds_range": Range.over([run.measurement.online_seconds for run in runs]),
        "offline_seconds_range": Range.over([run.measurement.offline_seconds for run in runs]),
        "max_abs_error": max(run.max_abs_error for run in runs),
    }


def combine_by_party(
    measured: Sequence[Measurement],
    figures: Callable[[Measurement], Mapping[str, Any]],
    combine: Callable[[list[Any]], Any],
) -> dict[str, Any]:
    """One figure for each party, over the runs; nothing for no runs."""
    return {party: combine([figures(one)[party] for one in measured]) for one in measured[:1] for party in figures(one)}


def describe_taking(machine: Machine) -> dict[str, Any]:
    """The fields of `Taken`, now. `machine` was read before anything started, for its load."""
    taken = datetime.now(tz=UTC).isoformat(timespec="seconds")
    return {"taken": taken, "threads": THREADS, "machine": machine, "versions": read_versions()}


def read_file(path: Path, kind: type[SavedFile]) -> SavedFile:
    """Read a result file of this version. Raises CallerError, in plain words, for any other."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CallerError(f"{path.name} cannot be read as a result of scripts/bench: measure again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CallerError(
            f"{path.name} is a result file of version {found}, and this program reads version {FORMAT}: measure again, "
            "or read it with the version of this repository that wrote it"
        )
    try:
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise CallerError(f"{path.name} is not what this version's scripts/bench writes: measure again") from error


def locate_part(name: str, folder: Path) -> Path:
    """Where `scripts/bench report` keeps a part's result."""
    return folder / f"{name}.json"


def read_part(name: str, folder: Path, kind: type[SavedFile]) -> PartFile[SavedFile] | None:
    """A part as the report keeps it; None if it was not measured. Raises CallerError for a file of another version."""
    path = locate_part(name, folder)
    return read_file(path, PartFile[kind]) if path.is_file() else None  # type: ignore[valid-type]
