"""One image or batch by several engines: from runs to figures, and the files that keep them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low
from typing import Any, TypeAlias

from benchmarks.case import Case, prepare
from benchmarks.configuration import THREADS, Configuration
from benchmarks.engines import openers
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import LinkTraffic, Measured, Measurement, OnStep, Run, measure_in_turns
from benchmarks.results import FORMAT, Figures, Range, figures_over
from benchmarks.variants import variant
from contract.base import Strict
from contract.files import create


class Result(Figures):
    """One engine's figures over the measured runs. One line of `--json`."""

    model: str
    engine: str
    size: int
    batch: int
    total_seconds: float
    """Median of the sums: what a user waits if nothing was stocked."""
    total_seconds_range: Range
    links: tuple[LinkTraffic, ...]
    """Medians of the runs. Empty if the engine does not count by link."""
    cpu_seconds: dict[str, float]
    """Median, by party."""
    peak_rss_bytes: dict[str, int]
    """Largest of all runs, by party."""
    runs: int
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

    @property
    def machine(self) -> Machine | None:
        """What it was taken on; None if nothing was measured."""
        return self.results[0].machine if self.results else None

    @property
    def rows(self) -> tuple[Row, ...]:
        """What `--json` prints, a line for each engine."""
        return (*self.results, *self.not_measured)


def measure_latency(configuration: Configuration, folder: Path, on_step: OnStep) -> Summary:
    """Measure one cell of the grid, with files in `folder`."""
    machine, versions = read_machine(), read_versions()
    model = variant(configuration.model_folder, folder, model=configuration.model, side=configuration.side)
    case = prepare(model, folder, seed=configuration.seed, rounds=configuration.runs + 1, batch=configuration.batch)
    every = openers()
    measured = measure_in_turns(
        case,
        {engine: every[engine] for engine in configuration.engines},
        runs=configuration.runs,
        timeout_seconds=configuration.timeout_seconds,
        on_step=on_step,
    )
    return summarise(measured, case, configuration, machine, versions)


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
    shared: dict[str, Any] = {"model": configuration.model, "size": case.size, "batch": case.batch}
    alike = {
        **shared,
        "threads": THREADS,
        "seed": configuration.seed,
        "model_version": card.version,
        "machine": machine,
        "versions": versions,
    }
    return Summary(
        format=FORMAT,
        taken=(now or datetime.now(tz=UTC)).isoformat(timespec="seconds"),
        model=ModelFile(name=card.name, version=card.version, sha256=card.model_sha256),
        results=tuple(
            _result(measured.counted(engine), case, alike)
            for engine in configuration.engines
            if engine not in measured.not_served
        ),
        not_measured=tuple(
            NotMeasured(engine=engine, not_measured=reason, **shared) for engine, reason in measured.not_served.items()
        ),
        runs=tuple(asdict(run) for run in measured.runs),
        expected_logits=tuple(
            tuple(tuple(logits) for logits in pictures.expected.tolist()) for pictures in case.rounds
        ),
    )


def _result(runs: Sequence[Run], case: Case, alike: Mapping[str, Any]) -> Result:
    measured = [run.measurement for run in runs]
    total = [one.online_seconds + one.offline_seconds for one in measured]
    return Result(
        engine=runs[0].engine,
        total_seconds=median(total),
        total_seconds_range=Range.over(total),
        links=tuple(_median_traffic([one.links[place] for one in measured]) for place in range(len(measured[0].links))),
        cpu_seconds=by_party(measured, lambda one: one.cpu_seconds, median),
        peak_rss_bytes=by_party(measured, lambda one: one.peak_rss_bytes, max),
        runs=len(runs),
        pictures=len({seed for run in runs for seed in case.pictures(run.round).seeds}),
        **figures_over(runs),
        **alike,
    )


def by_party(
    measured: Sequence[Measurement],
    figures: Callable[[Measurement], Mapping[str, Any]],
    combine: Callable[[list[Any]], Any],
) -> dict[str, Any]:
    """One figure for each party, over the runs; nothing for no runs."""
    return {party: combine([figures(one)[party] for one in measured]) for one in measured[:1] for party in figures(one)}


def _median_traffic(links: Sequence[LinkTraffic]) -> LinkTraffic:
    return LinkTraffic(
        sender=links[0].sender,
        receiver=links[0].receiver,
        offline_bytes=median_low(link.offline_bytes for link in links),
        online_bytes=median_low(link.online_bytes for link in links),
    )


def save(folder: Path, summary: Summary) -> Path:
    """Write one cell as one new JSON file, named by what was measured and when; return its path."""
    first = summary.rows[0]
    taken = datetime.fromisoformat(summary.taken)
    batch = f"-batch-{first.batch}" if first.batch > 1 else ""
    path = folder / f"latency-{first.model}-{first.size}px{batch}-{taken:%Y%m%dT%H%M%SZ}.json"
    create(path, f"{summary.model_dump_json(indent=2)}\n".encode(), mode=None)
    return path
