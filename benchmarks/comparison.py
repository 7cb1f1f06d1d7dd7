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
from benchmarks.machine import read_machine
from benchmarks.measuring import Campaign, Cell, OnStep, Run
from benchmarks.peers import spu_environment
from benchmarks.results import Spread, Taken, combine_by_party, describe_taking, summarise_phases
from benchmarks.variants import variant, write_resized
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


@dataclass(kw_only=True, eq=False)
class _PeerCell(Cell):
    """One peer at one size."""

    peer: Peer
    installed: bool = True


def measure_peers(
    model_folder: Path,
    folder: Path,
    on_step: OnStep,
    *,
    model: str = "",
    peers: Mapping[str, Peer],
    runs: int,
    seed: int,
    timeout_seconds: float,
) -> Peers:
    """Measure each peer `runs` times after a warm-up, in turns: at the model's own size, then on small images.

    On small images only if a peer is measured on nothing else. `timeout_seconds` is for one run, or one set-up, of one
    peer. `folder` takes temporary files. Whatever happens, every process is gone when this returns or raises.
    """
    machine = read_machine()
    model_folder = variant(model_folder, folder, model=model, side=None)
    full = small = prepare(model_folder, _make(folder / "full"), seed=seed, rounds=runs + 1)
    needs_small = any(not peer.full_size for peer in peers.values())
    if needs_small and full.size > SMALL_SIDE:  # a model that is as small already is measured once
        place = _make(folder / "small")
        small = prepare(write_resized(model_folder, place / "model", SMALL_SIDE), place, seed=seed, rounds=runs + 1)
    cells = [_make_cell(name, peer, full, runs) for name, peer in peers.items() if peer.full_size]
    cells += [
        _make_cell(name, peer, small, runs)
        for name, peer in peers.items()
        if needs_small and peer.small and not (peer.full_size and small is full)
    ]
    _measure(cells, timeout_seconds=timeout_seconds, on_step=on_step)
    return Peers(
        model=full.card.name,
        model_version=full.card.version,
        model_sha256=full.card.model_sha256,
        seed=seed,
        runs=runs,
        agreement=AGREEMENT,
        expected=tuple(
            ExpectedLogits(size=case.size, run=run, logits=tuple(case.pictures(run).expected.reshape(-1).tolist()))
            for case in ([full] if small is full else [full, small])
            for run in range(runs + 1)
        ),
        rows=tuple(_make_row(cell) for cell in cells),
        spu_versions=spu_environment.versions(),
        **describe_taking(machine),
    )


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _make_cell(name: str, peer: Peer, case: Case, runs: int) -> _PeerCell:
    words = f"{name}, {case.size} x {case.size}"
    turns = range(runs + 1)
    return _PeerCell(engine=name, words=words, prepare=lambda: case, opener=peer.opener, turns=turns, peer=peer)


def _measure(cells: Sequence[_PeerCell], *, timeout_seconds: float, on_step: OnStep) -> None:
    """Size by size, so that not all processes are there at once."""
    campaign = Campaign(cells, timeout_seconds=timeout_seconds, on_step=on_step, goes_on_after_failures=True)
    for cell in cells:
        if cell.peer.prepare is not None:
            campaign.tell(f"{cell.engine}: installing if it is missing")
            try:
                cell.peer.prepare()
            except EncryptedInferenceError as error:
                cell.failure, cell.installed = " ".join(str(error).split()), False
    for size in dict.fromkeys(cell.case.size for cell in cells):
        campaign.measure([cell for cell in cells if cell.case.size == size])


def _make_row(cell: _PeerCell) -> PeerRow:
    counted = cell.counted
    error = max((run.max_abs_error for run in counted), default=math.nan)
    label_equal = _labels_are_equal(counted, cell.case) if counted else None
    status, reason = Status.MEASURED, cell.failure
    if reason is not None:
        status = Status.FAILED if cell.installed else Status.NOT_INSTALLED
    elif any(math.isnan(run.max_abs_error) for run in counted):
        status, reason, error = Status.DIFFERENT, "not as many finite logits as the model has classes", math.nan
    elif error > AGREEMENT or not label_equal:
        status, reason = Status.DIFFERENT, "see the largest error"
    figures = [] if cell.failure else counted
    measured = [run.measurement for run in figures]
    phases = summarise_phases(figures) if figures else {}
    return PeerRow(
        peer=cell.engine,
        system=cell.peer.system,
        configuration=cell.peer.configuration,
        trust=cell.peer.trust,
        size=cell.case.size,
        status=status,
        reason=reason,
        runs=len(figures),
        online_seconds=Spread.over([one.online_seconds for one in measured]) if figures else None,
        offline_seconds=Spread.over([one.offline_seconds for one in measured]) if figures else None,
        setup_seconds=cell.set_up_seconds if figures else None,
        online_bytes=phases.get("online_bytes"),
        offline_bytes=phases.get("offline_bytes"),
        one_way_trips=phases.get("one_way_trips") if cell.peer.counts_trips else None,
        cpu_seconds=combine_by_party(measured, lambda one: one.cpu_seconds, median),
        peak_rss_bytes=combine_by_party(measured, lambda one: one.peak_rss_bytes, max),
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
