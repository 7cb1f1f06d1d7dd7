"""How the masked engine's cost grows with the picture: the same network at several sizes, the sizes in turns."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.case import Case, prepare
from benchmarks.engines.product import product
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import Campaign, Cell, OnStep
from benchmarks.results import Phases, summarise_phases
from benchmarks.variants import write_resized
from contract.base import Strict
from contract.ticket import Engine


class SizeCost(Phases):
    """Medians at one size."""

    side: int


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
    base: Path, folder: Path, on_step: OnStep, *, sides: Sequence[int], runs: int, timeout_seconds: float
) -> Growth:
    """Measure each size on servers of its own, after a warm-up."""

    def prepare_size(side: int) -> Case:
        place = folder / str(side)
        place.mkdir()
        return prepare(write_resized(base, place / "model", side), place, seed=1, rounds=runs + 1)

    cells = {
        side: Cell(
            engine="masked",
            words=f"{side} x {side} pixels, masked",
            prepare=partial(prepare_size, side),
            opener=product(Engine.MASKED),
            turns=range(runs + 1),
        )
        for side in sides
    }
    campaign = Campaign(list(cells.values()), timeout_seconds=timeout_seconds, on_step=on_step)
    for cell in cells.values():
        campaign.measure([cell])
    costs = [SizeCost(side=side, **summarise_phases(cell.counted)) for side, cell in cells.items()]
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
