"""Our engines beside what a researcher would use instead: one run, the same weights and images, outputs compared.

A peer that cannot be installed, that fails, or whose outputs differ is a row of the result that says so; the others go
on. Peers take turns, as engines do in `latency`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from statistics import median, median_low
from typing import Literal

import numpy as np
from pydantic import ValidationError

from benchmarks.case import Case, Pictures, prepare
from benchmarks.configuration import THREADS
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import Engine, Measurement, NotServed, OnStep, Step
from benchmarks.peers import SMALL_SIDE, Peer, spu_environment
from benchmarks.variants import write_resized
from contract.base import Strict
from contract.errors import CallerError, ComputationFailed, EncryptedInferenceError
from model_owner.agreement import choose_answers

AGREEMENT = 0.05
"""Largest distance of a logit from onnxruntime's that still counts as the same answer. Fixed point rounds."""

MAX_RESULT_BYTES = 16 << 20


class Status(StrEnum):
    """What became of a peer."""

    MEASURED = "measured"
    DIFFERENT = "different outputs"
    FAILED = "failed"
    NOT_INSTALLED = "not installed"


class Spread(Strict):
    """Over the measured runs."""

    median: float
    smallest: float
    largest: float


class MeasuredRun(Strict):
    """One evaluation. Run 0 is the warm-up, which no other figure counts."""

    run: int
    online_seconds: float
    offline_seconds: float
    online_bytes: int
    offline_bytes: int
    logits: tuple[float, ...]
    details: dict[str, float]
    """What only this peer counts."""


class PeerRow(Strict):
    """One peer at one size. Figures are there where it was measured, and None where it does not count them."""

    peer: str
    system: str
    configuration: str
    trust: str
    size: int
    status: Status
    reason: str | None
    """Why it is not `measured`."""
    runs: int
    online_seconds: Spread | None
    offline_seconds: Spread | None
    setup_seconds: float | None
    """Once: start its processes, compile, share the weights where that is not a part of online or offline."""
    online_bytes: int | None
    offline_bytes: int | None
    one_way_trips: int | None
    cpu_seconds: dict[str, float]
    """Median, by party."""
    peak_rss_bytes: dict[str, int]
    """Largest of all runs, by party."""
    max_logit_error: float | None
    """Largest of all runs: distance of a logit from onnxruntime's."""
    label_equal: bool | None
    """Every run named the class that onnxruntime does."""
    evaluations: tuple[MeasuredRun, ...]


class ExpectedLogits(Strict):
    """What onnxruntime answers in clear to the image of one run."""

    size: int
    run: int
    logits: tuple[float, ...]


class Peers(Strict):
    """The whole comparison."""

    format: Literal[1] = 1
    taken: str
    model: str
    model_version: str
    model_sha256: str
    seed: int
    threads: int
    runs: int
    """Asked for; a row says how many it has."""
    agreement: float
    expected: tuple[ExpectedLogits, ...]
    rows: tuple[PeerRow, ...]
    machine: Machine
    versions: dict[str, str]
    spu_versions: dict[str, str]
    """In SPU's own environment; empty where it is not installed."""

    @property
    def doubtful(self) -> tuple[PeerRow, ...]:
        """Rows that failed or whose outputs differ."""
        return tuple(row for row in self.rows if row.status in {Status.FAILED, Status.DIFFERENT})


@dataclass
class _Entry:
    """One peer at one size, while it is measured."""

    name: str
    peer: Peer
    case: Case
    stack: ExitStack
    engine: Engine | None = None
    status: Status = Status.MEASURED
    reason: str | None = None
    setup_seconds: float | None = None
    wall_seconds: float | None = None
    """Of its last run, all of it."""
    measurements: list[Measurement] = field(default_factory=list)
    """Of the warm-up, then of each run."""

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"{self.name}, {self.case.size} x {self.case.size}"

    @property
    def going(self) -> bool:
        """Nothing went wrong so far."""
        return self.status is Status.MEASURED

    def attempt(self, action: Callable[[], object], *, otherwise: Status) -> None:
        """Do it; where the peer cannot, note why and take the peer down."""
        try:
            action()
        except EncryptedInferenceError as error:
            self.status = otherwise
            self.reason = " ".join(str(error).split())
            self.engine = None
            self.stack.close()


def measure_peers(
    model_folder: Path,
    folder: Path,
    *,
    peers: Mapping[str, Peer],
    runs: int,
    seed: int,
    timeout_seconds: float,
    on_step: OnStep,
) -> Peers:
    """Measure each peer `runs` times after a warm-up, in turns: at the model's own size, then on small images.

    Small images only where a peer is measured on nothing else. `timeout_seconds` is for one run, or one set-up, of one
    peer. `folder` takes temporary files. Whatever happens, every process is gone when this returns or raises.
    """
    machine = read_machine()
    taken = datetime.now(tz=UTC).isoformat(timespec="seconds")
    case = prepare(model_folder, _new(folder / "full"), seed=seed, rounds=runs + 1)
    cases = {"full": case}
    if any(not peer.full_size for peer in peers.values()):
        # A model that is as small already is measured once.
        small = case
        if case.size > SMALL_SIDE:
            place = _new(folder / "small")
            small = prepare(write_resized(model_folder, place / "model", SMALL_SIDE), place, seed=seed, rounds=runs + 1)
        cases["small"] = small
    with ExitStack() as stack:
        entries = [
            _Entry(name, peer, one, stack.enter_context(ExitStack()))
            for size, one in cases.items()
            for name, peer in peers.items()
            if (peer.full_size if size == "full" else peer.small and not (peer.full_size and one is case))
        ]
        _measure(entries, runs=runs, timeout_seconds=timeout_seconds, on_step=on_step)
    return Peers(
        taken=taken,
        model=case.card.name,
        model_version=case.card.version,
        model_sha256=case.card.model_sha256,
        seed=seed,
        threads=THREADS,
        runs=runs,
        agreement=AGREEMENT,
        expected=tuple(
            ExpectedLogits(size=size, run=run, logits=tuple(one.pictures(run).expected.reshape(-1).tolist()))
            for size, one in {one.size: one for one in cases.values()}.items()
            for run in range(runs + 1)
        ),
        rows=tuple(_row(entry) for entry in entries),
        machine=machine,
        versions=read_versions(),
        spu_versions=spu_environment.versions(),
    )


def read_peers(path: Path) -> Peers:
    """Read a saved comparison. Raises CallerError where it is none, or one of another version."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RESULT_BYTES + 1)
        if len(content) > MAX_RESULT_BYTES:
            raise CallerError(f"{path}: more than {MAX_RESULT_BYTES} bytes, so not a result of scripts/bench peers")
        return Peers.model_validate_json(content)
    except OSError as error:
        raise CallerError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise CallerError(f"{path}: not a result of this version's scripts/bench peers; measure again") from error


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _measure(entries: Sequence[_Entry], *, runs: int, timeout_seconds: float, on_step: OnStep) -> None:
    """Size by size, so that not all processes are there at once."""
    for entry in entries:
        if entry.peer.prepare is not None:
            on_step(_step(f"{entry.name}: installing where it is missing", entries, runs))
            entry.attempt(entry.peer.prepare, otherwise=Status.NOT_INSTALLED)
    for folder in dict.fromkeys(entry.case.folder for entry in entries):
        group = [entry for entry in entries if entry.case.folder == folder]
        for entry in (one for one in group if one.going):
            on_step(_step(f"{entry.words}: setting up", entries, runs))
            entry.attempt(partial(_open, entry, timeout_seconds), otherwise=Status.FAILED)
        for turn in range(runs + 1):
            for entry in (one for one in group if one.going):
                words = f"run {turn} of {runs}" if turn else "warm-up"
                on_step(_step(f"{entry.words}: {words}", entries, runs))
                entry.attempt(partial(_evaluate, entry, entry.case.pictures(turn)), otherwise=Status.FAILED)
        for entry in group:
            entry.stack.close()


def _open(entry: _Entry, timeout_seconds: float) -> None:
    started = time.monotonic()
    engine = entry.stack.enter_context(entry.peer.opener(entry.case, timeout_seconds))
    if isinstance(engine, NotServed):
        raise ComputationFailed(engine.reason)
    entry.engine = engine
    entry.setup_seconds = time.monotonic() - started


def _evaluate(entry: _Entry, pictures: Pictures) -> None:
    assert entry.engine is not None
    started = time.monotonic()
    entry.measurements.append(entry.engine.measure(pictures))
    entry.wall_seconds = time.monotonic() - started


def _step(words: str, entries: Sequence[_Entry], runs: int) -> Step:
    """How far it is. What has not run yet is taken to last as long as the others did on average."""
    known = [entry.wall_seconds for entry in entries if entry.wall_seconds is not None]
    typical = sum(known) / len(known) if known else None
    left = [(runs + 1 - len(entry.measurements), entry.wall_seconds or typical) for entry in entries if entry.going]
    done = sum(len(entry.measurements) for entry in entries)
    return Step(
        words=words,
        done=done,
        total=done + sum(count for count, _ in left),
        seconds_left=None if typical is None else sum(count * (seconds or 0.0) for count, seconds in left),
    )


def _row(entry: _Entry) -> PeerRow:
    measured = entry.measurements[1:]
    status, reason = entry.status, entry.reason
    error, label_equal = _compared(measured, entry.case)
    if entry.going and (error is None or error > AGREEMENT or not label_equal):
        status = Status.DIFFERENT
        reason = "not as many finite logits as the model has classes" if error is None else "see the largest error"
    figures = measured if entry.going else []
    return PeerRow(
        peer=entry.name,
        system=entry.peer.system,
        configuration=entry.peer.configuration,
        trust=entry.peer.trust,
        size=entry.case.size,
        status=status,
        reason=reason,
        runs=len(figures),
        online_seconds=_spread([one.online_seconds for one in figures]),
        offline_seconds=_spread([one.offline_seconds for one in figures]),
        setup_seconds=entry.setup_seconds if figures else None,
        online_bytes=median_low(one.online_bytes for one in figures) if figures else None,
        offline_bytes=median_low(one.offline_bytes for one in figures) if figures else None,
        one_way_trips=(
            median_low(one.one_way_trips for one in figures) if figures and entry.peer.counts_trips else None
        ),
        cpu_seconds={
            party: median(one.cpu_seconds[party] for one in figures) for one in figures[:1] for party in one.cpu_seconds
        },
        peak_rss_bytes={
            party: max(one.peak_rss_bytes[party] for one in figures)
            for one in figures[:1]
            for party in one.peak_rss_bytes
        },
        max_logit_error=error,
        label_equal=label_equal,
        evaluations=tuple(_run(number, one) for number, one in enumerate(entry.measurements)),
    )


def _compared(measured: Sequence[Measurement], case: Case) -> tuple[float | None, bool | None]:
    """Largest error (None where there is none to tell) and whether every label is the expected one."""
    if not measured:
        return None, None
    expected = np.asarray([case.pictures(run).expected.reshape(-1) for run in range(1, len(measured) + 1)])
    if any(len(one.logits) != expected.shape[1] or not np.isfinite(one.logits).all() for one in measured):
        return None, False
    logits = np.asarray([one.logits for one in measured])
    error = float(np.abs(logits - expected).max())
    found, wanted = (choose_answers(case.card, one.reshape(-1, len(case.card.classes))) for one in (logits, expected))
    return error, bool((found == wanted).all())


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(median=median(values), smallest=min(values), largest=max(values)) if values else None


def _run(number: int, one: Measurement) -> MeasuredRun:
    return MeasuredRun(
        run=number,
        online_seconds=one.online_seconds,
        offline_seconds=one.offline_seconds,
        online_bytes=one.online_bytes,
        offline_bytes=one.offline_bytes,
        # A number that is none cannot be written as JSON; the row says that the outputs differ.
        logits=tuple(float(np.nan_to_num(value)) for value in one.logits),
        details=dict(one.details),
    )
