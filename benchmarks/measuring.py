"""Runs engines in turns and keeps what each run cost. Knows no engine and prints nothing."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.case import Case, Pictures


@dataclass(frozen=True, kw_only=True)
class Link:
    """Payload that crossed one link in one direction."""

    sender: str
    receiver: str
    offline_bytes: int
    online_bytes: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation of one image or batch. benchmarks/README.md says what is timed from where to where."""

    online_seconds: float
    offline_seconds: float
    online_bytes: int
    offline_bytes: int
    one_way_trips: int
    peak_rss_bytes: Mapping[str, int]
    """By party."""
    logits: tuple[float, ...]
    """Of the first picture, then of the second, and so on."""
    links: tuple[Link, ...] = ()
    """Empty where an engine does not tell its links apart."""
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """By party; benchmarks/README.md says what each engine's figure includes. Empty where it is not measured."""
    details: Mapping[str, float] = field(default_factory=dict)
    """What only this engine counts; kept in saved results."""


class Engine(Protocol):
    """One way to evaluate the model of a case, set up and ready."""

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate these pictures once, as one batch."""
        ...


@dataclass(frozen=True)
class NotServed:
    """What an opener gives in place of an engine that cannot do what the case asks for."""

    reason: str
    """One line for the row of the table that would hold its figures."""


Opener = Callable[[Case, float], AbstractContextManager[Engine | NotServed]]
"""Sets an engine up for a case, with a limit in seconds for each run, and takes it down again."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement in its place. Round 0 is the warm-up, which no figure counts."""

    engine: str
    round: int
    measurement: Measurement
    max_abs_error: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that one benchmark found."""

    runs: tuple[Run, ...]
    not_served: Mapping[str, str]
    """Engines without runs, and why."""

    def of(self, engine: str) -> tuple[Run, ...]:
        """Runs of one engine that count: without the warm-up."""
        return tuple(run for run in self.runs if run.engine == engine and run.round > 0)


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far the benchmark is when a run, or the setting up of an engine, begins."""

    words: str
    done: int
    total: int
    seconds_left: float | None
    """None until every engine has run once."""


OnStep = Callable[[Step], None]


def measure_in_turns(
    case: Case, openers: Mapping[str, Opener], *, runs: int, timeout_seconds: float, on_step: OnStep
) -> Measured:
    """Warm up each engine once, then measure `runs` rounds, each engine once a round.

    Taking turns, so that whatever else the machine does meets all engines alike. Whatever happens, every engine is
    taken down before this returns or raises.
    """
    total = (runs + 1) * len(openers)
    walls: dict[str, float] = {}
    found: list[Run] = []
    not_served: dict[str, str] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, opener in openers.items():
            on_step(Step(words=f"{name}: setting up", done=0, total=total, seconds_left=None))
            opened = stack.enter_context(opener(case, timeout_seconds))
            if isinstance(opened, NotServed):
                not_served[name] = opened.reason
            else:
                engines[name] = opened
        total = (runs + 1) * len(engines)
        for turn in range(runs + 1):
            pictures = case.pictures(turn)
            for name, engine in engines.items():
                words = f"{name}: run {turn} of {runs}" if turn else f"{name}: warm-up"
                left = _seconds_left(walls, list(engines), runs=runs, done=len(found))
                on_step(Step(words=words, done=len(found), total=total, seconds_left=left))
                started = time.monotonic()
                measurement = engine.measure(pictures)
                walls[name] = time.monotonic() - started
                error = pictures.error_of(measurement.logits)
                found.append(Run(engine=name, round=turn, measurement=measurement, max_abs_error=error))
    return Measured(runs=tuple(found), not_served=not_served)


def _seconds_left(walls: Mapping[str, float], names: Sequence[str], *, runs: int, done: int) -> float | None:
    if len(walls) < len(names):
        return None
    turns_left, position = divmod((runs + 1) * len(names) - done, len(names))
    rest_of_turn = names[len(names) - position :]
    return turns_left * sum(walls.values()) + sum(walls[name] for name in rest_of_turn)
