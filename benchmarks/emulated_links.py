"""The engines over emulated links. `predicting` holds what the cost model says beside what is measured here."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low
from typing import Any, Final

from pydantic import model_validator

from benchmarks.case import Case
from benchmarks.configuration import THREADS, Configuration
from benchmarks.cost_model import EngineCost, cost_of, predict
from benchmarks.emulation import MeasuredLink, measure_link
from benchmarks.engines import openers
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import Engine, Measurement, NotServed, OnStep, Opener, Step
from benchmarks.relay import relayed
from benchmarks.reporting import Range
from contract.base import Strict
from contract.errors import CallerError
from contract.files import create
from secure_computation.links import LOOPBACK, Link, find_link

FORMAT: Final = 2
"""Of saved files. Raised where a reader of the old form would go wrong."""
SLOW_SECONDS: Final = 40.0
"""An engine that is foretold to take longer over a link is run once there, and the row says so."""
FIRST_DIFFERS: Final = frozenset({"masked"})
"""Engines whose first session fetches what later ones have (masked weights): warmed up over every link."""
WITHOUT_NETWORK: Final = frozenset({"plaintext"})
"""Measured on loopback alone: no link would change it."""


class LinkFacts(Strict):
    """A link that was asked for, and what the relay made of it on this machine."""

    link: Link
    measured: MeasuredLink | None
    """None on loopback: no relay stands there."""


class NetworkRow(Strict):
    """One engine over one link."""

    engine: str
    network: str
    runs: int
    """Measured ones. 1 where the engine is slow over this link."""
    online_seconds: float
    online_seconds_range: Range
    offline_seconds: float
    offline_seconds_range: Range
    online_bytes: int
    offline_bytes: int
    one_way_trips: int
    max_abs_error: float
    """Largest of all runs: distance of a logit from onnxruntime's."""


class SavedRun(Strict):
    """One run as it was, warm-ups (round 0) too."""

    network: str
    engine: str
    round: int
    measurement: dict[str, Any]
    max_abs_error: float


class Networks(Strict):
    """Everything that `scripts/bench networks` keeps."""

    format: int
    taken: str
    model: str
    model_version: str
    size: int
    batch: int
    threads: int
    seed: int
    links: tuple[LinkFacts, ...]
    rows: tuple[NetworkRow, ...]
    runs: tuple[SavedRun, ...]
    machine: Machine
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _without_predictions(cls, content: Any) -> Any:
        """Files of format 1 held predictions of that day's cost model as well. What was measured stands unchanged."""
        if not isinstance(content, dict) or content.get("format") != 1:
            return content
        rows = [{name: row[name] for name in row if "predict" not in name} for row in content["rows"]]
        return {name: content[name] for name in content if name != "costs"} | {"format": FORMAT, "rows": rows}

    def measured(self, engine: str, link: Link) -> list[dict[str, Any]]:
        """Runs of an engine over a link, the warm-up left out."""
        return runs_that_count(self.runs, engine, link)


def runs_that_count(runs: Sequence[SavedRun], engine: str, link: Link) -> list[dict[str, Any]]:
    """Measurements of an engine over a link, the warm-up left out."""
    return [run.measurement for run in runs if (run.engine, run.network) == (engine, link.name) and run.round > 0]


def parse_networks(text: str) -> tuple[Link, ...]:
    """Read `loopback,lan,wan`, or with links spelt out `lan;latency_ms=15,mbit=50`.

    Raises CallerError for an unknown network, or one that is named twice.
    """
    separator = ";" if ";" in text or "=" in text else ","
    links = tuple(find_link(name.strip()) for name in text.split(separator) if name.strip())
    if not links:
        raise CallerError("no network named: give --networks some, say loopback,lan")
    if len(set(links)) != len(links):
        raise CallerError("--networks names a network twice: name each once, --runs repeats all of them")
    return links


def measure_networks(configuration: Configuration, case: Case, links: Sequence[Link], on_step: OnStep) -> Networks:
    """Measure every engine of `configuration` over every link: loopback first, whether asked for or not.

    What stands between the parties is taken down link by link, whatever happens.
    """
    machine = read_machine()
    ordered = (LOOPBACK, *(link for link in links if link != LOOPBACK))
    if case.batch != 1:
        raise CallerError("networks are measured with one image at a time: leave --batch out")
    campaign = _Campaign(configuration, case, ordered, on_step)
    facts = [LinkFacts(link=link, measured=campaign.measure(link)) for link in ordered]
    return Networks(
        format=FORMAT,
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        model=configuration.model,
        model_version=case.card.version,
        size=case.size,
        batch=1,
        threads=THREADS,
        seed=configuration.seed,
        links=tuple(facts),
        rows=tuple(row for link in ordered for engine in configuration.engines if (row := campaign.row(engine, link))),
        runs=tuple(campaign.runs),
        machine=machine,
        versions=read_versions(),
    )


class _Campaign:
    """What was measured so far."""

    def __init__(self, configuration: Configuration, case: Case, links: Sequence[Link], on_step: OnStep) -> None:
        self._configuration = configuration
        self._case = case
        self._links = links
        self._on_step = on_step
        self.runs: list[SavedRun] = []
        self.costs: dict[str, EngineCost] = {}
        self._walls: dict[str, float] = {}
        """Seconds of one run on loopback, the start of processes included, by engine."""
        self._set_up_seconds: dict[str, float] = {}

    def measure(self, link: Link) -> MeasuredLink | None:
        """All engines over one link, in turns."""
        every: Mapping[str, Opener] = openers(link)
        checked = None
        if link != LOOPBACK:
            self._say(f"{link.name}: measuring the relay", self._turns(link), link)
            with relayed(link) as relay:
                checked = measure_link(relay, link)
        with ExitStack() as stack:
            opened: dict[str, Engine] = {}
            for name in self._engines(link):
                self._say(f"{link.name}, {name}: setting up", self._turns(link), link)
                started = time.monotonic()
                engine = stack.enter_context(every[name](self._case, self._configuration.timeout_seconds))
                if isinstance(engine, NotServed):
                    raise CallerError(f"{name} {engine.reason}: leave it out of --engines")
                opened[name] = engine
                self._set_up_seconds[name] = time.monotonic() - started
            turns = self._turns(link)
            for done, (name, turn) in enumerate(turns):
                words = f"run {turn} of {self._configuration.runs}" if turn else "warm-up"
                self._say(f"{link.name}, {name}: {words}", turns[done:], link)
                started = time.monotonic()
                pictures = self._case.pictures(turn)
                self._keep(name, link, turn, opened[name].measure(pictures))
                if link == LOOPBACK:
                    self._walls[name] = time.monotonic() - started
        if link == LOOPBACK:
            self.costs = {name: cost_of(name, runs_that_count(self.runs, name, link)) for name in self._engines(link)}
        return checked

    def _engines(self, link: Link) -> list[str]:
        return [name for name in self._configuration.engines if link == LOOPBACK or name not in WITHOUT_NETWORK]

    def _turns(self, link: Link) -> list[tuple[str, int]]:
        """Engine and round of every run over a link; round 0 is the warm-up."""
        return [
            (name, turn)
            for turn in range(self._configuration.runs + 1)
            for name in self._engines(link)
            if self._is_run(name, link, turn)
        ]

    def row(self, engine: str, link: Link) -> NetworkRow | None:
        """Figures of one engine over one link; None where it was not run there."""
        measured = runs_that_count(self.runs, engine, link)
        if not measured:
            return None
        online = [float(one["online_seconds"]) for one in measured]
        offline = [float(one["offline_seconds"]) for one in measured]
        return NetworkRow(
            engine=engine,
            network=link.name,
            runs=len(measured),
            online_seconds=median(online),
            online_seconds_range=Range(smallest=min(online), largest=max(online)),
            offline_seconds=median(offline),
            offline_seconds_range=Range(smallest=min(offline), largest=max(offline)),
            online_bytes=median_low(int(one["online_bytes"]) for one in measured),
            offline_bytes=median_low(int(one["offline_bytes"]) for one in measured),
            one_way_trips=median_low(int(one["one_way_trips"]) for one in measured),
            max_abs_error=max(
                run.max_abs_error for run in self.runs if (run.engine, run.network) == (engine, link.name)
            ),
        )

    def _is_run(self, engine: str, link: Link, turn: int) -> bool:
        if link == LOOPBACK or not self.costs or self._foretold(engine, link) <= SLOW_SECONDS:
            return True
        return turn == 1 or (turn == 0 and engine in FIRST_DIFFERS)

    def _foretold(self, engine: str, link: Link) -> float:
        """Seconds of one run over a link."""
        foretold = predict(self.costs[engine], link)
        return foretold.online_seconds + foretold.offline_seconds

    def _keep(self, engine: str, link: Link, turn: int, measurement: Measurement) -> None:
        self.runs.append(
            SavedRun(
                network=link.name,
                engine=engine,
                round=turn,
                measurement=asdict(measurement),
                max_abs_error=self._case.pictures(turn).error_of(measurement.logits),
            )
        )

    def _say(self, words: str, left: Sequence[tuple[str, int]], link: Link) -> None:
        later = self._links[self._links.index(link) + 1 :]
        total = sum(len(self._turns(one)) for one in self._links)
        done = total - len(left) - sum(len(self._turns(one)) for one in later)
        seconds = None
        if self.costs:
            seconds = sum(self._wall(name, link) for name, _ in left)
            for one in later:
                seconds += sum(self._wall(name, one) for name, _ in self._turns(one))
                seconds += sum(self._set_up_seconds[name] for name in self._engines(one))
        self._on_step(Step(words=words, done=done, total=total, seconds_left=seconds))

    def _wall(self, engine: str, link: Link) -> float:
        """Seconds that one run is foretold to take, the start of processes included."""
        at_home = predict(self.costs[engine], LOOPBACK)
        return self._walls[engine] + self._foretold(engine, link) - at_home.online_seconds - at_home.offline_seconds


def save_networks(folder: Path, result: Networks) -> Path:
    """Write the result as one new JSON file; return its path."""
    path = folder / f"networks-{result.model}-{datetime.now(tz=UTC):%Y%m%dT%H%M%SZ}.json"
    create(path, f"{json.dumps(result.model_dump(mode='json'), indent=2)}\n".encode(), mode=None)
    return path
