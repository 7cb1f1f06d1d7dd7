"""How the masked engine's cost grows with the picture: the same network at several sizes, the sizes in turns."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.case import prepare
from benchmarks.engines.product import product
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step, measure_in_turns
from benchmarks.variants import write_resized
from contract.base import Strict
from contract.ticket import Engine


class SizeCost(Strict):
    """Medians at one size."""

    side: int
    online_seconds: float
    offline_seconds: float
    online_bytes: int
    offline_bytes: int
    one_way_trips: int


class Growth(Strict):
    """Costs by size, and what a straight line in the number of pixels makes of them."""

    model: str
    runs: int
    sizes: tuple[SizeCost, ...]
    online_bytes_per_pixel: float
    online_microseconds_per_pixel: float
    online_seconds_at_no_pixels: float
    """What the line leaves for an empty picture: trips and calls."""
    machine: Machine
    versions: dict[str, str]


def measure_growth(
    base: Path, folder: Path, *, sides: Sequence[int], runs: int, timeout_seconds: float, on_step: OnStep
) -> Growth:
    """Measure each size on servers of its own, after a warm-up."""
    costs = []
    walls: dict[int, float] = {}
    for side in sides:
        started = time.monotonic()
        place = folder / str(side)
        place.mkdir()
        case = prepare(write_resized(base, place / "model", side), place, seed=1, rounds=runs + 1)
        openers = {"masked": product(Engine.MASKED)}
        measured = measure_in_turns(
            case,
            openers,
            runs=runs,
            timeout_seconds=timeout_seconds,
            on_step=partial(_tell, on_step, sides, walls, runs),
        )
        walls[side] = time.monotonic() - started
        found = [run.measurement for run in measured.of("masked")]
        costs.append(
            SizeCost(
                side=side,
                online_seconds=median(one.online_seconds for one in found),
                offline_seconds=median(one.offline_seconds for one in found),
                online_bytes=found[0].online_bytes,
                offline_bytes=found[0].offline_bytes,
                one_way_trips=found[0].one_way_trips,
            )
        )
    pixels = np.array([cost.side**2 for cost in costs], dtype=np.float64)
    slope, start = np.polyfit(pixels, [cost.online_seconds for cost in costs], 1)
    bytes_slope, _ = np.polyfit(pixels, [cost.online_bytes for cost in costs], 1)
    return Growth(
        model=base.name,
        runs=runs,
        sizes=tuple(costs),
        online_bytes_per_pixel=float(bytes_slope),
        online_microseconds_per_pixel=float(slope * 1e6),
        online_seconds_at_no_pixels=float(start),
        machine=read_machine(),
        versions=read_versions(),
    )


def _tell(on_step: OnStep, sides: Sequence[int], walls: Mapping[int, float], runs: int, step: Step) -> None:
    """A step of one size as one of all. `walls`: what the sizes before it took."""
    side, later = sides[len(walls)], sides[len(walls) + 1 :]
    on_step(
        Step(
            words=f"{side} x {side} pixels, {step.words}",
            done=len(walls) * (runs + 1) + step.done,
            total=len(sides) * (runs + 1),
            seconds_left=seconds_left(walls, later, step.seconds_left),
        )
    )


def seconds_left(walls: Mapping[int, float], later: Sequence[int], this: float | None) -> float | None:
    """Of this size and later ones, those by a straight line in the pixels; None until two sizes are behind."""
    if len(walls) < 2 or this is None:
        return None
    slope, start = np.polyfit([side**2 for side in walls], list(walls.values()), 1)
    return this + sum(max(0.0, float(slope * side**2 + start)) for side in later)
