"""Our engines beside what a researcher would use instead: one run, the same weights and images, outputs compared.

A peer that cannot be installed, that fails, or whose outputs differ is a row of the result that says so; the others go
on. Peers take turns, as engines do in `latency`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from benchmarks.case import Case, prepare
from benchmarks.engines import SMALL_SIDE, Peer
from benchmarks.latency import by_party
from benchmarks.machine import read_machine
from benchmarks.measuring import Campaign, Cell, OnStep, Run
from benchmarks.peers import spu_environment
from benchmarks.results import Spread, Taken, describe_taking, phases_over
from benchmarks.variants import write_resized
from contract.base import Strict
from contract.errors import ComputationFailed, EncryptedInferenceError
from model_owner.agreement import choose_answers

AGREEMENT = 0.05
"""Largest distance of a logit from onnxruntime's that still counts as the same answer. Fixed point rounds."""


class Status(StrEnum):
    """What became of a peer."""

    MEASURED = "measured"
    DIFFERENT = "different outputs"
    FAILED = "failed"
    NOT_INSTALLED = "not installed"


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
    """One peer at one size. Figures are there if it was measured, and None if it does not count them."""

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
    """Once: start its processes, compile, share the weights unless that is a part of online or offline."""
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


class Peers(Taken):
    """The whole comparison."""

    format: Literal[1] = 1
    model: str
    model_version: str
    model_sha256: str
    seed: int
    runs: int
    """Asked for; a row says how many it has."""
    agreement: float
    expected: tuple[ExpectedLogits, ...]
    rows: tuple[PeerRow, ...]
    spu_versions: dict[str, str]
    """In SPU's own environment; empty if it is not installed."""

    @property
    def doubtful(self) -> tuple[PeerRow, ...]:
        """Rows that failed or whose outputs differ."""
        return tuple(row for row in self.rows if row.status in {Status.FAILED, Status.DIFFERENT})

    def require_agreement(self) -> None:
        """Raise ComputationFailed if a peer failed or its outputs differ: the exit status must not hide it."""
        doubtful = ", ".join(f"{row.peer} at {row.size} ({row.status.value})" for row in self.doubtful)
        if doubtful:
            raise ComputationFailed(f"not every peer answered as onnxruntime does: {doubtful}; the rows say more")


@dataclass(frozen=True, eq=False)
class _Entry:
    """One peer at one size."""

    name: str
    peer: Peer
    cell: Cell

    @property
    def case(self) -> Case:
        return self.cell.case


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

    On small images only if a peer is measured on nothing else. `timeout_seconds` is for one run, or one set-up, of one
    peer. `folder` takes temporary files. Whatever happens, every process is gone when this returns or raises.
    """
    machine = read_machine()
    full = prepare(model_folder, _new(folder / "full"), seed=seed, rounds=runs + 1)
    small = None
    if any(not peer.full_size for peer in peers.values()):
        small = full  # a model that is as small already is measured once
        if full.size > SMALL_SIDE:
            place = _new(folder / "small")
            small = prepare(write_resized(model_folder, place / "model", SMALL_SIDE), place, seed=seed, rounds=runs + 1)
    entries = [_entry(name, peer, full, runs) for name, peer in peers.items() if peer.full_size]
    if small is not None:
        entries += [
            _entry(name, peer, small, runs)
            for name, peer in peers.items()
            if peer.small and not (peer.full_size and small is full)
        ]
    not_installed = _measure(entries, timeout_seconds=timeout_seconds, on_step=on_step)
    cases = [full] if small is None or small is full else [full, small]
    return Peers(
        model=full.card.name,
        model_version=full.card.version,
        model_sha256=full.card.model_sha256,
        seed=seed,
        runs=runs,
        agreement=AGREEMENT,
        expected=tuple(
            ExpectedLogits(size=case.size, run=run, logits=tuple(case.pictures(run).expected.reshape(-1).tolist()))
            for case in cases
            for run in range(runs + 1)
        ),
        rows=tuple(_row(entry, installed=entry not in not_installed) for entry in entries),
        spu_versions=spu_environment.versions(),
        **describe_taking(machine),
    )


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _entry(name: str, peer: Peer, case: Case, runs: int) -> _Entry:
    words = f"{name}, {case.size} x {case.size}"
    cell = Cell(engine=name, words=words, prepare=lambda: case, opener=peer.opener, turns=range(runs + 1))
    return _Entry(name, peer, cell)


def _measure(entries: Sequence[_Entry], *, timeout_seconds: float, on_step: OnStep) -> set[_Entry]:
    """Size by size, so that not all processes are there at once. Returns what could not be installed."""
    cells = [entry.cell for entry in entries]
    campaign = Campaign(cells, timeout_seconds=timeout_seconds, on_step=on_step, goes_on_after_failures=True)
    not_installed = set()
    for entry in entries:
        if entry.peer.prepare is not None:
            campaign.tell(f"{entry.name}: installing if it is missing")
            try:
                entry.peer.prepare()
            except EncryptedInferenceError as error:
                entry.cell.failure = " ".join(str(error).split())
                not_installed.add(entry)
    for folder in dict.fromkeys(entry.case.folder for entry in entries):
        campaign.measure([entry.cell for entry in entries if entry.case.folder == folder])
    return not_installed


def _row(entry: _Entry, *, installed: bool) -> PeerRow:
    cell, counted = entry.cell, entry.cell.counted
    error = max((run.max_abs_error for run in counted), default=math.nan)
    label_equal = _labels_are_equal(counted, entry.case) if counted else None
    status, reason = Status.MEASURED, cell.failure
    if reason is not None:
        status = Status.FAILED if installed else Status.NOT_INSTALLED
    elif any(math.isnan(run.max_abs_error) for run in counted):
        status, reason, error = Status.DIFFERENT, "not as many finite logits as the model has classes", math.nan
    elif error > AGREEMENT or not label_equal:
        status, reason = Status.DIFFERENT, "see the largest error"
    figures = [] if cell.failure else counted
    measured = [run.measurement for run in figures]
    phases = phases_over(figures) if figures else {}
    return PeerRow(
        peer=entry.name,
        system=entry.peer.system,
        configuration=entry.peer.configuration,
        trust=entry.peer.trust,
        size=entry.case.size,
        status=status,
        reason=reason,
        runs=len(figures),
        online_seconds=Spread.over([one.online_seconds for one in measured]) if figures else None,
        offline_seconds=Spread.over([one.offline_seconds for one in measured]) if figures else None,
        setup_seconds=cell.set_up_seconds if figures else None,
        online_bytes=phases.get("online_bytes"),
        offline_bytes=phases.get("offline_bytes"),
        one_way_trips=phases.get("one_way_trips") if entry.peer.counts_trips else None,
        cpu_seconds=by_party(measured, lambda one: one.cpu_seconds, median),
        peak_rss_bytes=by_party(measured, lambda one: one.peak_rss_bytes, max),
        max_logit_error=None if math.isnan(error) else error,
        label_equal=label_equal,
        evaluations=tuple(_evaluation(run) for run in cell.runs),
    )


def _labels_are_equal(counted: Sequence[Run], case: Case) -> bool:
    """Whether every run answers as onnxruntime does; not if there is nothing to compare."""
    if any(math.isnan(run.max_abs_error) for run in counted):
        return False
    classes = len(case.card.classes)
    found = np.asarray([run.measurement.logits for run in counted]).reshape(-1, classes)
    wanted = np.asarray([case.pictures(run.round).expected for run in counted]).reshape(-1, classes)
    return bool((choose_answers(case.card, found) == choose_answers(case.card, wanted)).all())


def _evaluation(run: Run) -> MeasuredRun:
    one = run.measurement
    return MeasuredRun(
        run=run.round,
        online_seconds=one.online_seconds,
        offline_seconds=one.offline_seconds,
        online_bytes=one.online_bytes,
        offline_bytes=one.offline_bytes,
        # A number that is none cannot be written as JSON; the row says that the outputs differ.
        logits=tuple(float(np.nan_to_num(value)) for value in one.logits),
        details=dict(one.details),
    )
