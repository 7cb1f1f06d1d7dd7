"""Runs engines in turns and keeps what each run cost. Knows no engine and prints nothing."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.case import Case


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation of one image. benchmarks/README.md says what is timed from where to where."""

    online_seconds: float
    offline_seconds: float
    online_bytes: int
    offline_bytes: int
    one_way_trips: int
    peak_rss_bytes: Mapping[str, int]
    """By party."""
    logits: tuple[float, ...]
    details: Mapping[str, float] = field(default_factory=dict)
    """What only this engine counts; kept in saved results."""


class Engine(Protocol):
    """One way to evaluate the model of a case, set up and ready."""

    def measure(self) -> Measurement:
        """Evaluate the image once."""
        ...


Opener = Callable[[Case, float], AbstractContextManager[Engine]]
"""Sets an engine up for a case, with a limit in seconds for each run, and takes it down again."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement in its place. Round 0 is the warm-up, which no figure counts."""

    engine: str
    round: int
    measurement: Measurement
    max_abs_error: float


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
) -> list[Run]:
    """Warm up each engine once, then measure `runs` rounds, each engine once a round.

    Taking turns, so that whatever else the machine does meets all engines alike. Whatever happens, every engine is
    taken down before this returns or raises.
    """
    total = (runs + 1) * len(openers)
    walls: dict[str, float] = {}
    found: list[Run] = []
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, opener in openers.items():
            on_step(Step(words=f"{name}: setting up", done=0, total=total, seconds_left=None))
            engines[name] = stack.enter_context(opener(case, timeout_seconds))
        for turn in range(runs + 1):
            for name, engine in engines.items():
                words = f"{name}: run {turn} of {runs}" if turn else f"{name}: warm-up"
                left = _seconds_left(walls, list(engines), runs=runs, done=len(found))
                on_step(Step(words=words, done=len(found), total=total, seconds_left=left))
                started = time.monotonic()
                measurement = engine.measure()
                walls[name] = time.monotonic() - started
                error = case.error_of(measurement.logits)
                found.append(Run(engine=name, round=turn, measurement=measurement, max_abs_error=error))
    return found


def _seconds_left(walls: Mapping[str, float], names: Sequence[str], *, runs: int, done: int) -> float | None:
    if len(walls) < len(names):
        return None
    turns_left, position = divmod((runs + 1) * len(names) - done, len(names))
    rest_of_turn = names[len(names) - position :]
    return turns_left * sum(walls.values()) + sum(walls[name] for name in rest_of_turn)
