"""From runs to figures, and how they are shown and kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low
from typing import Any, Final, TypeAlias, TypeVar

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from benchmarks.case import Case
from benchmarks.configuration import THREADS, Configuration
from benchmarks.machine import Machine
from benchmarks.measuring import Link, Measured, Measurement, Run
from contract.base import Strict
from contract.errors import CallerError
from contract.files import create

FORMAT: Final = 2
"""Of saved files. Raised where a reader of the old form would go wrong."""

SavedFile = TypeVar("SavedFile", bound=Strict)

TABLE_WIDTH = 170
"""Columns of text that the table needs at most."""


class Range(Strict):
    """Smallest and largest of the measured runs."""

    smallest: float
    largest: float


class LinkTraffic(Strict):
    """Payload that crossed one link in one direction: median of the runs."""

    sender: str
    receiver: str
    offline_bytes: int
    online_bytes: int


class Result(Strict):
    """One engine's figures over the measured runs. One line of `--json`."""

    model: str
    engine: str
    size: int
    batch: int
    online_seconds: float
    """Median; of the whole batch."""
    offline_seconds: float
    """Median; 0 for an engine that does nothing before the image is there."""
    total_seconds: float
    """Median of the sums: what a user waits where nothing was stocked."""
    online_bytes: int
    offline_bytes: int
    one_way_trips: int
    links: tuple[LinkTraffic, ...]
    """Empty where the engine does not tell its links apart."""
    cpu_seconds: dict[str, float]
    """Median, by party."""
    peak_rss_bytes: dict[str, int]
    """Largest of all runs, by party."""
    max_abs_error: float
    """Largest of all runs and so of all pictures: distance of a logit from onnxruntime's."""
    runs: int
    online_seconds_range: Range
    offline_seconds_range: Range
    total_seconds_range: Range
    threads: int
    seed: int
    """Of the first picture; the runs submitted the `pictures` that follow from it."""
    pictures: int
    """Different ones in the measured runs."""
    model_version: str
    machine: Machine
    versions: dict[str, str]


class NotMeasured(Strict):
    """In place of the figures of an engine that cannot do what was asked."""

    model: str
    engine: str
    size: int
    batch: int
    not_measured: str
    """Why."""


Row: TypeAlias = Result | NotMeasured


class ModelFile(Strict):
    """Which model was measured."""

    name: str
    version: str
    sha256: str


class Summary(Strict):
    """One cell of the grid: every figure, and every run that it rests on. What a saved file holds."""

    format: int
    taken: str
    """When the last run had ended, ISO 8601."""
    model: ModelFile
    results: tuple[Result, ...]
    not_measured: tuple[NotMeasured, ...]
    runs: tuple[dict[str, Any], ...]
    """As measured, the warm-up (round 0) too."""
    expected_logits: tuple[tuple[tuple[float, ...], ...], ...]
    """Of each round's pictures."""

    def first(self) -> Row:
        """A row, for what all rows share."""
        rows: tuple[Row, ...] = (*self.results, *self.not_measured)
        return rows[0]


def summarise(
    measured: Measured,
    case: Case,
    configuration: Configuration,
    machine: Machine,
    versions: dict[str, str],
    *,
    now: datetime | None = None,
) -> Summary:
    """One result for each engine, in the order of the configuration. The warm-up counts for nothing."""
    card = case.card
    return Summary(
        format=FORMAT,
        taken=(now or datetime.now(tz=UTC)).isoformat(timespec="seconds"),
        model=ModelFile(name=card.name, version=card.version, sha256=card.model_sha256),
        results=tuple(
            _result(measured.of(engine), case, configuration, machine, versions)
            for engine in configuration.engines
            if engine not in measured.not_served
        ),
        not_measured=tuple(
            NotMeasured(model=configuration.model, engine=engine, size=case.size, batch=case.batch, not_measured=reason)
            for engine, reason in measured.not_served.items()
        ),
        runs=tuple(asdict(run) for run in measured.runs),
        expected_logits=tuple(
            tuple(tuple(logits) for logits in pictures.expected.tolist()) for pictures in case.rounds
        ),
    )


def _result(
    runs: Sequence[Run], case: Case, configuration: Configuration, machine: Machine, versions: dict[str, str]
) -> Result:
    measured = [run.measurement for run in runs]
    online = [one.online_seconds for one in measured]
    offline = [one.offline_seconds for one in measured]
    total = [one.online_seconds + one.offline_seconds for one in measured]
    return Result(
        model=configuration.model,
        engine=runs[0].engine,
        size=case.size,
        batch=case.batch,
        online_seconds=median(online),
        offline_seconds=median(offline),
        total_seconds=median(total),
        online_bytes=median_low(one.online_bytes for one in measured),
        offline_bytes=median_low(one.offline_bytes for one in measured),
        one_way_trips=median_low(one.one_way_trips for one in measured),
        links=tuple(_traffic([one.links[place] for one in measured]) for place in range(len(measured[0].links))),
        cpu_seconds=_by_party(measured, lambda one: one.cpu_seconds, median),
        peak_rss_bytes=_by_party(measured, lambda one: one.peak_rss_bytes, max),
        max_abs_error=max(run.max_abs_error for run in runs),
        runs=len(runs),
        online_seconds_range=_range(online),
        offline_seconds_range=_range(offline),
        total_seconds_range=_range(total),
        threads=THREADS,
        seed=configuration.seed,
        pictures=len({seed for run in runs for seed in case.pictures(run.round).seeds}),
        model_version=case.card.version,
        machine=machine,
        versions=versions,
    )


def _range(values: Sequence[float]) -> Range:
    return Range(smallest=min(values), largest=max(values))


def _by_party(
    measured: Sequence[Measurement],
    figures: Callable[[Measurement], Mapping[str, Any]],
    combine: Callable[[list[Any]], Any],
) -> dict[str, Any]:
    return {party: combine([figures(one)[party] for one in measured]) for party in figures(measured[0])}


def _traffic(links: Sequence[Link]) -> LinkTraffic:
    return LinkTraffic(
        sender=links[0].sender,
        receiver=links[0].receiver,
        offline_bytes=median_low(link.offline_bytes for link in links),
        online_bytes=median_low(link.online_bytes for link in links),
    )


def print_table(console: Console, summary: Summary) -> None:
    """Print the figures for people."""
    first = summary.first()
    title = f"{first.model}, {first.size} x {first.size}, batch {first.batch}"
    caption = None
    if summary.results:
        one = summary.results[0]
        title += f", medians of {one.runs} run(s) on {one.pictures} phantom(s)"
        caption = (
            f"{one.machine.processor}, {one.machine.cores} core(s), {one.threads} thread(s) a party; load when it "
            f"began: {one.machine.load_average:.1f}"
        )
    table = Table(title=title, caption=caption)
    table.add_column("engine")
    for heading in ("online s", "(range)", "offline s", "total s", "trips", "max error"):
        table.add_column(heading, justify="right")
    table.add_column("sender > receiver: online MB + offline MB")
    table.add_column("processor s, peak MB")
    for result in summary.results:
        table.add_row(*_row(result))
    for missing in summary.not_measured:
        table.add_row(missing.engine, "not measured", *[""] * 5, missing.not_measured, "")
    console.print(table)


def _row(result: Result) -> tuple[str, ...]:
    spread = result.online_seconds_range
    links = [
        f"{link.sender} > {link.receiver}: {link.online_bytes / 1e6:,.1f} + {link.offline_bytes / 1e6:,.1f}"
        for link in result.links
        if link.online_bytes + link.offline_bytes >= 50_000
    ]
    whole = f"all: {result.online_bytes / 1e6:,.1f} + {result.offline_bytes / 1e6:,.1f}"
    parties = [
        f"{party} {_cpu(result.cpu_seconds, party)}, {size / 1e6:,.0f}" for party, size in result.peak_rss_bytes.items()
    ]
    return (
        result.engine,
        f"{result.online_seconds:.3g}",
        f"{spread.smallest:.3g} - {spread.largest:.3g}",
        f"{result.offline_seconds:.3g}",
        f"{result.total_seconds:.3g}",
        f"{result.one_way_trips}",
        f"{result.max_abs_error:.2g}",
        "\n".join([*links, whole]),
        "\n".join(parties),
    )


def _cpu(seconds: Mapping[str, float], party: str) -> str:
    return f"{seconds[party]:.2f}" if party in seconds else "-"


def save(folder: Path, summary: Summary) -> Path:
    """Write one cell as one new JSON file, named by what was measured and when; return its path."""
    first = summary.first()
    taken = datetime.fromisoformat(summary.taken)
    batch = f"-batch-{first.batch}" if first.batch > 1 else ""
    path = folder / f"latency-{first.model}-{first.size}px{batch}-{taken:%Y%m%dT%H%M%SZ}.json"
    create(path, f"{summary.model_dump_json(indent=2)}\n".encode(), mode=None)
    return path


def read_saved(path: Path) -> Summary:
    """Read a file that `save` wrote. Raises CallerError for a file of another version, or of something else."""
    return read_file(path, Summary)


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
        return kind.model_validate_json(path.read_text())
    except ValidationError as error:
        raise CallerError(f"{path.name} is not what scripts/bench writes: measure again") from error
