"""The loop that measures: what is set up at the same time takes turns. Knows no engine and prints nothing."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import mean
from typing import Protocol

from benchmarks.case import Case, Pictures
from contract.errors import ComputationFailed, EncryptedInferenceError


@dataclass(frozen=True, kw_only=True)
class LinkTraffic:
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
    links: tuple[LinkTraffic, ...] = ()
    """Empty if an engine does not count by link."""
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """By party; benchmarks/README.md says what each engine's figure includes. Empty if it is not measured."""
    details: Mapping[str, float] = field(default_factory=dict)
    """What only this engine counts; kept in saved results."""


class Evaluator(Protocol):
    """One engine or peer with the model of a case, set up and ready."""

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate these pictures once, as one batch."""
        ...


@dataclass(frozen=True)
class NotServed:
    """What an opener gives in place of an engine that cannot do what the case asks for."""

    reason: str
    """One line for the row of the table that would hold its figures."""


Opener = Callable[[Case, float], AbstractContextManager[Evaluator | NotServed]]
"""Sets an engine up for a case, with a limit in seconds for each run, and takes it down again."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement in its place. Round 0 is the warm-up, which no figure counts."""

    engine: str
    round: int
    measurement: Measurement
    max_abs_error: float
    """Distance of a logit from the expected one; nan if the outputs cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far the benchmark is when a run, or the setting up of an engine, begins."""

    words: str
    done: int
    total: int
    seconds_left: float | None
    """None until it can be estimated."""


OnStep = Callable[[Step], None]


@dataclass(kw_only=True, eq=False)
class Cell:
    """One engine on one case: what is to be measured, and what was found so far."""

    engine: str
    words: str
    """What progress calls it."""
    prepare: Callable[[], Case]
    """Called once, when the cell is set up."""
    opener: Opener
    turns: Sequence[int]
    """Rounds that are run, in rising order; round 0 is the warm-up."""
    predict_seconds: Callable[[], float | None] = lambda: None
    """How long one run will take, before the first one has shown it; None if that is not known yet."""
    runs: list[Run] = field(default_factory=list)
    failure: str | None = None
    """Why nothing more is measured."""
    set_up_seconds: float | None = None
    wall_seconds: float | None = None
    """Of its last run, all of it."""
    evaluator: Evaluator | None = None

    @cached_property
    def case(self) -> Case:
        """What it is measured on."""
        return self.prepare()

    @property
    def counted(self) -> list[Run]:
        """Runs without the warm-up."""
        return [run for run in self.runs if run.round > 0]

    @property
    def runs_left(self) -> int:
        """How many are still to come."""
        return 0 if self.failure else len(self.turns) - len(self.runs)


class Campaign:
    """Cells that are measured one group after the other; those of a group take turns.

    Taking turns, so that whatever else the machine does meets all of them alike.
    """

    def __init__(
        self, cells: Sequence[Cell], *, timeout_seconds: float, on_step: OnStep, goes_on_after_failures: bool = False
    ) -> None:
        """Plan to measure `cells`. `timeout_seconds` is for one run; a failure ends everything unless it may go on."""
        self._cells = cells
        self._timeout_seconds = timeout_seconds
        self._on_step = on_step
        self._goes_on = goes_on_after_failures

    def measure(self, group: Sequence[Cell]) -> None:
        """Set up these cells, run their turns, and take everything down again, whatever happens."""
        with ExitStack() as stack:
            stacks = {cell: stack.enter_context(ExitStack()) for cell in group}
            for cell in group:
                if not cell.failure:
                    self.tell(f"{cell.words}: setting up", group)
                    self._attempt(cell, stacks[cell], partial(self._open, cell, stacks[cell]))
            for turn in sorted({turn for cell in group for turn in cell.turns}):
                for cell in group:
                    if turn in cell.turns and not cell.failure:
                        words = f"run {turn} of {cell.turns[-1]}" if turn else "warm-up"
                        self.tell(f"{cell.words}: {words}", group)
                        self._attempt(cell, stacks[cell], partial(self._run, cell, turn))

    def tell(self, words: str, group: Sequence[Cell] = ()) -> None:
        """Say what begins, and how far the whole is."""
        done = sum(len(cell.runs) for cell in self._cells)
        total = done + sum(cell.runs_left for cell in self._cells)
        self._on_step(Step(words=words, done=done, total=total, seconds_left=self._seconds_left(group)))

    def _seconds_left(self, group: Sequence[Cell]) -> float | None:
        """None until every cell of the group has run once. What cannot be predicted counts as their average."""
        known = [cell.wall_seconds for cell in self._cells if cell.wall_seconds is not None]
        if not known or any(cell.wall_seconds is None and cell.runs_left for cell in group):
            return None
        return sum(
            cell.runs_left * (cell.wall_seconds or cell.predict_seconds() or mean(known)) for cell in self._cells
        )

    def _attempt(self, cell: Cell, stack: ExitStack, action: Callable[[], None]) -> None:
        try:
            action()
        except EncryptedInferenceError as error:
            if not self._goes_on:
                raise
            cell.failure = " ".join(str(error).split())
            stack.close()

    def _open(self, cell: Cell, stack: ExitStack) -> None:
        case, started = cell.case, time.monotonic()
        opened = stack.enter_context(cell.opener(case, self._timeout_seconds))
        if isinstance(opened, NotServed):
            cell.failure = opened.reason
        else:
            cell.evaluator, cell.set_up_seconds = opened, time.monotonic() - started

    def _run(self, cell: Cell, turn: int) -> None:
        assert cell.evaluator is not None
        pictures, started = cell.case.pictures(turn), time.monotonic()
        measurement = cell.evaluator.measure(pictures)
        cell.wall_seconds = time.monotonic() - started
        error = pictures.measure_error(measurement.logits)
        if math.isnan(error) and not self._goes_on:
            raise ComputationFailed(
                f"an engine answered with {len(measurement.logits)} logits, not all finite or not as many as the model "
                "has classes: report this"
            )
        cell.runs.append(Run(engine=cell.engine, round=turn, measurement=measurement, max_abs_error=error))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that one benchmark found."""

    runs: tuple[Run, ...]
    not_served: Mapping[str, str]
    """Engines without runs, and why."""


def measure_in_turns(
    case: Case, openers: Mapping[str, Opener], *, runs: int, timeout_seconds: float, on_step: OnStep
) -> Measured:
    """Warm up each engine once, then measure `runs` rounds, each engine once a round."""
    cells = [
        Cell(engine=name, words=name, prepare=lambda: case, opener=opener, turns=range(runs + 1))
        for name, opener in openers.items()
    ]
    Campaign(cells, timeout_seconds=timeout_seconds, on_step=on_step).measure(cells)
    found = sorted((run for cell in cells for run in cell.runs), key=lambda run: run.round)
    return Measured(runs=tuple(found), not_served={cell.engine: cell.failure for cell in cells if cell.failure})


def estimate_left(started: float, done: float, total: float) -> float | None:
    """Seconds until all work is done, if it goes on as since `started` (monotonic clock); None before any is done."""
    return (time.monotonic() - started) * (total - done) / done if done else None
