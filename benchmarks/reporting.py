"""From runs to figures, and how they are shown and kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low

from rich.console import Console
from rich.table import Table

from benchmarks.case import Case
from benchmarks.configuration import THREADS, Configuration
from benchmarks.machine import Machine
from benchmarks.measuring import Run
from contract.model_card import Strict

FORMAT = 1
"""Of saved files. Raised where a reader of the old form would go wrong."""

TABLE_WIDTH = 140
"""Columns of text that the table needs at most."""


class Range(Strict):
    """Smallest and largest of the measured runs."""

    smallest: float
    largest: float


class Result(Strict):
    """One engine's figures over the measured runs. One line of `--json`."""

    model: str
    engine: str
    size: int
    batch: int
    online_seconds: float
    """Median."""
    offline_seconds: float
    """Median; 0 for an engine that does nothing before the image is there."""
    online_bytes: int
    offline_bytes: int
    one_way_trips: int
    peak_rss_bytes: dict[str, int]
    """Largest of all runs, by party."""
    max_abs_error: float
    """Largest of all runs: distance of a logit from onnxruntime's."""
    runs: int
    online_seconds_range: Range
    offline_seconds_range: Range
    threads: int
    seed: int
    model_version: str
    machine: Machine
    versions: dict[str, str]


def summarise(
    runs: Sequence[Run], case: Case, configuration: Configuration, machine: Machine, versions: dict[str, str]
) -> list[Result]:
    """One result for each engine, in the order of the configuration. The warm-up counts for nothing."""
    return [
        _result([run for run in runs if run.engine == engine and run.round > 0], case, configuration, machine, versions)
        for engine in configuration.engines
    ]


def _result(
    runs: Sequence[Run], case: Case, configuration: Configuration, machine: Machine, versions: dict[str, str]
) -> Result:
    measured = [run.measurement for run in runs]
    online = [one.online_seconds for one in measured]
    offline = [one.offline_seconds for one in measured]
    return Result(
        model=configuration.model,
        engine=runs[0].engine,
        size=case.size,
        batch=1,
        online_seconds=median(online),
        offline_seconds=median(offline),
        online_bytes=median_low(one.online_bytes for one in measured),
        offline_bytes=median_low(one.offline_bytes for one in measured),
        one_way_trips=median_low(one.one_way_trips for one in measured),
        peak_rss_bytes={
            party: max(one.peak_rss_bytes[party] for one in measured) for party in measured[0].peak_rss_bytes
        },
        max_abs_error=max(run.max_abs_error for run in runs),
        runs=len(runs),
        online_seconds_range=Range(smallest=min(online), largest=max(online)),
        offline_seconds_range=Range(smallest=min(offline), largest=max(offline)),
        threads=THREADS,
        seed=configuration.seed,
        model_version=case.card.version,
        machine=machine,
        versions=versions,
    )


def print_table(console: Console, results: Sequence[Result]) -> None:
    """Print the figures for people."""
    first = results[0]
    table = Table(
        title=f"{first.model} {first.model_version}, {first.size} x {first.size}, batch {first.batch}, "
        f"medians of {first.runs} run(s)",
        caption=f"{first.machine.processor}, {first.machine.cores} core(s), {first.threads} thread(s) a party; load "
        f"when it began: {first.machine.load_average:.1f}",
    )
    table.add_column("engine")
    for heading in ("online s", "(range)", "offline s", "online MB", "offline MB", "one-way trips", "max error"):
        table.add_column(heading, justify="right")
    table.add_column("peak memory, MB")
    for result in results:
        spread = result.online_seconds_range
        memory = "\n".join(f"{party} {size / 1e6:,.0f}" for party, size in result.peak_rss_bytes.items())
        table.add_row(
            result.engine,
            f"{result.online_seconds:.3g}",
            f"{spread.smallest:.3g} - {spread.largest:.3g}",
            f"{result.offline_seconds:.3g}",
            f"{result.online_bytes / 1e6:,.1f}",
            f"{result.offline_bytes / 1e6:,.1f}",
            f"{result.one_way_trips}",
            f"{result.max_abs_error:.2g}",
            memory,
        )
    console.print(table)


def save(
    folder: Path, results: Sequence[Result], runs: Sequence[Run], case: Case, *, now: datetime | None = None
) -> Path:
    """Write all figures and all runs, the warm-up too, as one new JSON file; return its path."""
    taken = now or datetime.now(tz=UTC)
    path = folder / f"latency-{results[0].model}-{taken:%Y%m%dT%H%M%SZ}.json"
    content = {
        "format": FORMAT,
        "taken": taken.isoformat(timespec="seconds"),
        "model": {"name": case.card.name, "version": case.card.version, "sha256": case.card.model_sha256},
        "expected_logits": case.expected.tolist(),
        "results": [result.model_dump(mode="json") for result in results],
        "runs": [asdict(run) for run in runs],
    }
    with path.open("x") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    return path
