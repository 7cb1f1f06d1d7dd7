"""One image or batch by several engines: from runs to figures, and the files that keep them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low
from typing import Any, TypeAlias

from benchmarks.case import Case, prepare
from benchmarks.configuration import THREADS, Configuration
from benchmarks.engines import openers
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import LinkTraffic, Measured, OnStep, Run, measure_in_turns
from benchmarks.results import (
    FORMAT,
    Figures,
    Range,
    combine_by_party,
    locate_part,
    read_file,
    read_part,
    summarise_figures,
)
from benchmarks.variants import variant
from contract.base import Strict
from contract.errors import CallerError
from contract.files import create


class CommandSeconds(Strict):
    """From typing `data-owner diagnose` to its answer: starting the program, the session, and writing the result."""

    first: float
    """The first call, which also fetches what is fetched once (masked weights)."""
    later: float
    """Median of the others."""


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
    cold_seconds: CommandSeconds | None = None
    """None for what is no command of ours. Of `masked-stocked`: from stock."""
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
    runs: tuple[Run, ...]
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
            _result([run for run in measured.runs if run.engine == engine], case, alike)
            for engine in configuration.engines
            if engine not in measured.not_served
        ),
        not_measured=tuple(
            NotMeasured(engine=engine, not_measured=reason, **shared) for engine, reason in measured.not_served.items()
        ),
        runs=measured.runs,
        expected_logits=tuple(
            tuple(tuple(logits) for logits in pictures.expected.tolist()) for pictures in case.rounds
        ),
    )


def _result(every: Sequence[Run], case: Case, alike: Mapping[str, Any]) -> Result:
    runs = [run for run in every if run.round > 0]
    measured = [run.measurement for run in runs]
    total = [one.online_seconds + one.offline_seconds for one in measured]
    return Result(
        engine=runs[0].engine,
        total_seconds=median(total),
        total_seconds_range=Range.over(total),
        links=tuple(_median_traffic([one.links[place] for one in measured]) for place in range(len(measured[0].links))),
        cpu_seconds=combine_by_party(measured, lambda one: one.cpu_seconds, median),
        cold_seconds=_command_seconds(every),
        peak_rss_bytes=combine_by_party(measured, lambda one: one.peak_rss_bytes, max),
        runs=len(runs),
        pictures=len({seed for run in runs for seed in case.pictures(run.round).seeds}),
        **summarise_figures(runs),
        **alike,
    )


def _command_seconds(runs: Sequence[Run]) -> CommandSeconds | None:
    found = [run.measurement.details["command_seconds"] for run in runs if "command_seconds" in run.measurement.details]
    return CommandSeconds(first=found[0], later=median(found[1:])) if len(found) > 1 else None


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


def read_newest(folder: Path, model: str) -> tuple[Path, Summary]:
    """The result of a model that `report` keeps, else the newest that `latency --save` wrote, and its file.

    Raises CallerError if there is none, or it is of another version.
    """
    kept = read_part(f"latency-{model}", folder, Summary)
    if kept is not None:
        return locate_part(kept.part, folder), kept.result
    found = sorted(folder.glob(f"latency-{model}-[0-9]*.json"), key=lambda path: path.stem.rpartition("-")[2])
    if not found:
        raise CallerError(
            f"no result of {model} in {folder}: run scripts/bench latency --model {model} --save {folder}"
        )
    return found[-1], read_file(found[-1], Summary)
