"""A campaign: many faults over several cells at once, and what came of them.

The points are all messages that undisturbed scenarios pass on each link, each way, times what can be done to a message.
A campaign takes them in an order drawn from its seed, each scenario and link in turn, so that a small one meets all.
"""

import gc
import io
import queue
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Literal

from sqlalchemy import func, select

from contract.base import Strict
from imaging.reading import read_model_input
from inference_service.session_states import LIVE
from inference_service.storage import SessionRow
from tests.end_to_end.federation import Federation, running_federation
from tests.end_to_end.models import PATIENT, tiny_weights
from tests.end_to_end.traces import forms
from tests.faults.fault import Fault, Kind, Link, Way
from tests.faults.harness import EXACT, HANGS_AFTER_SECONDS, Cell, Scenario, Trial, Watch, running_cell, watching

Point = tuple[Scenario, Fault]
REPORTED = 2
"""Messages each way between a model owner and the front end after a cut: the report and its answer, at least."""


class Summary(Strict):
    """What faults led to, counted by what was done, where, and what the data owner saw: a result file's content."""

    format: Literal[1] = 1
    taken: datetime
    seed: int
    tried: int
    faults: int
    """Those of them whose message came."""
    failures: tuple[str, ...]
    """Empty, or the campaign failed."""
    wall_seconds: float
    """Of the parts together; several may have run at once."""
    longest_scenario_seconds: float
    by_kind: dict[str, int]
    by_link: dict[str, int]
    by_scenario: dict[str, int]
    by_outcome: dict[str, int]

    def __add__(self, later: "Summary") -> "Summary":
        """Of both, where `later` is another part of the same campaign."""
        return Summary(
            taken=max(self.taken, later.taken),
            seed=self.seed,
            tried=self.tried + later.tried,
            faults=self.faults + later.faults,
            failures=self.failures + later.failures,
            wall_seconds=round(self.wall_seconds + later.wall_seconds, 1),
            longest_scenario_seconds=max(self.longest_scenario_seconds, later.longest_scenario_seconds),
            by_kind=_added(self.by_kind, later.by_kind),
            by_link=_added(self.by_link, later.by_link),
            by_scenario=_added(self.by_scenario, later.by_scenario),
            by_outcome=_added(self.by_outcome, later.by_outcome),
        )


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(first) + Counter(second)).items()))


def _summary(trials: Sequence[Trial], failures: Sequence[str], *, seed: int, seconds: float) -> Summary:
    struck = [(trial, trial.fault) for trial in trials if trial.struck and trial.fault is not None]

    def counts(names: Iterable[str]) -> dict[str, int]:
        return dict(sorted(Counter(names).items()))

    return Summary(
        taken=datetime.now(UTC),
        seed=seed,
        tried=len(trials),
        faults=len(struck),
        failures=tuple(failures),
        wall_seconds=round(seconds, 1),
        longest_scenario_seconds=round(max(trial.seconds for trial in trials), 2),
        by_kind=counts(fault.kind.value for _, fault in struck),
        by_link=counts(fault.link.value for _, fault in struck),
        by_scenario=counts(trial.scenario.value for trial, _ in struck),
        by_outcome=counts(trial.outcome for trial, _ in struck),
    )


def points(cell: Cell, *, seed: int) -> Iterator[Point]:
    """All points, without end: each round goes through every scenario, link and way in an order of its own."""
    lengths = {(scenario, *end): count for scenario in Scenario for end, count in _lengths(cell, scenario).items()}
    drawn = random.Random(seed)
    groups: dict[tuple[Scenario, Link, Kind], list[Fault]] = defaultdict(list)
    while True:
        for (scenario, link, way), count in lengths.items():
            for kind in Kind:
                faults = [Fault(kind=kind, link=link, way=way, number=number) for number in range(count)]
                groups[scenario, link, kind] += faults
        for faults in groups.values():
            drawn.shuffle(faults)
        while groups:
            for key in drawn.sample(sorted(groups), len(groups)):
                yield key[0], groups[key].pop()
                if not groups[key]:
                    del groups[key]


def _lengths(cell: Cell, scenario: Scenario) -> dict[tuple[Link, Way], int]:
    """Messages of an undisturbed scenario; the second run, because the first one also brings the masked weights."""
    for _ in range(2):
        trial = cell.trial(scenario, None)
        if trial.failures:
            raise AssertionError(f"without a fault: {'; '.join(trial.failures)}")
    return {**trial.messages, (Link.REPORTS, Way.OUT): REPORTED, (Link.REPORTS, Way.BACK): REPORTED}


def run(folder: Path, *, faults: int, cells: int, seed: int, skip: int = 0) -> Summary:
    """Strike so many faults, after the first `skip` in the seed's order, in a federation of its own."""
    started, output = datetime.now(UTC), io.StringIO()
    clock = _Clock()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(output))
        stack.enter_context(redirect_stderr(output))
        watch = stack.enter_context(watching())
        serving = running_federation(folder / "federation", model=EXACT, clock=clock)
        federation = stack.enter_context(serving)
        running = [stack.enter_context(running_cell(federation, folder / f"cell-{n}", watch)) for n in range(cells)]
        drawn = points(running[0], seed=seed)
        chosen = list(islice(drawn, skip, skip + faults))
        for cell in running[1:]:
            _lengths(cell, Scenario.FRESH)  # which brings the masked weights
        before = _held()
        trials = _spread(running, chosen)
        failures = [f"{trial.scenario.value}; {trial.fault}: {what}" for trial in trials for what in trial.failures]
        failures += watch.used_twice() + _grown(before) + _left_live(federation, clock)
    watch.logged.append(output.getvalue())
    failures += leaks(federation, folder, watch, running)
    seconds = (datetime.now(UTC) - started).total_seconds()
    return _summary(trials, failures, seed=seed, seconds=seconds)


def run_part(faults: int, cells: int, seed: int, skip: int) -> Summary:
    """Run a part of a campaign in a process of its own, with folders that are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), faults=faults, cells=cells, seed=seed, skip=skip)


def _spread(cells: Sequence[Cell], chosen: Sequence[Point]) -> list[Trial]:
    """Each cell takes the next point when it is done with one."""
    waiting: queue.SimpleQueue[Point] = queue.SimpleQueue()
    for point in chosen:
        waiting.put(point)
    trials: list[Trial] = []

    def work(cell: Cell) -> None:
        while True:
            try:
                scenario, fault = waiting.get_nowait()
            except queue.Empty:
                return
            trials.append(cell.trial(scenario, fault))

    threads = [threading.Thread(target=work, args=(cell,)) for cell in cells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trials) == len(chosen), "a cell died; its traceback is above"
    return trials


class _Clock:
    """The front end's clock, which can be set forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def _left_live(federation: Federation, clock: _Clock) -> list[str]:
    """Sessions whose end nobody could report must end by themselves when their time is over."""
    clock.ahead = timedelta(days=1)
    federation.front_end.sessions.sweep()
    live = select(func.count()).select_from(SessionRow).where(SessionRow.state.in_([state.value for state in LIVE]))
    with federation.front_end.database.read() as session:
        count = session.scalar(live) or 0
    return [f"{count} sessions were left open after their time"] if count else []


def _held() -> tuple[int, int]:
    gc.collect()
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


ROOM = 24
"""Threads and descriptors that pools may take at first use: far fewer than one for each fault."""


def _grown(before: tuple[int, int]) -> list[str]:
    """Sessions that wait for somebody who stalled hold a thread until their deadline; then nothing may be left."""
    limit, after = time.monotonic() + HANGS_AFTER_SECONDS, _held()
    while any(new > old + ROOM for old, new in zip(before, after, strict=True)) and time.monotonic() < limit:
        time.sleep(0.5)
        after = _held()
    names = ("threads", "open files")
    return [
        f"{name} grew from {old} to {new}"
        for name, old, new in zip(names, before, after, strict=True)
        if new > old + ROOM
    ]


def leaks(federation: Federation, folder: Path, watch: Watch, cells: Sequence[Cell]) -> list[str]:
    """Secrets in what was logged or raised, in what front end and crypto provider keep, and at the wrong party."""
    specification = federation.model.card.input
    tensors = [read_model_input(path, specification).tensor for cell in cells for path in cell.images]
    images = [PATIENT.encode(), *(form for tensor in tensors for form in forms(tensor))]
    rows = [row for values in tiny_weights().values() if values.ndim > 1 for row in values.reshape(len(values), -1)]
    weights = [form for row in rows for form in forms(row)]
    keys = [key.get_secret_value().encode() for key in federation.front_end_keys.values()]
    logged = "\n".join(watch.logged).encode()
    places = {"the logs": (logged, images + weights + keys)}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or {"model", "registry"} & set(parts) or path.suffix == ".dcm":
            continue
        places[str(path.relative_to(folder))] = (
            path.read_bytes(),
            images + ([] if "model-owner" in parts else weights),
        )
    return [
        f"a secret in {place}" for place, (content, secrets) in places.items() if any(s in content for s in secrets)
    ]
