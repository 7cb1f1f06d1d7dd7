"""Where the masked engine's online time goes, layer by layer: both parties in one process, without links or encryption.

The parties' own classes are run and timed through what they tell anyway: P0 its progress, P1 the step that begins.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks import measuring
from benchmarks.machine import Machine, read_machine, read_versions
from contract.base import Strict
from contract.model_card import read_card
from imaging.phantom import write_phantom
from imaging.reading import read_model_input
from model_owner.calibration_images import load_calibration_images
from model_owner.choosing_precision import lower_within_budget
from model_owner.onnx_import.compiling import compile_model
from secure_computation.channel.channel import Channel
from secure_computation.engines.interface import OnHeatMap, OnLayer, Reply
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import ComparisonStep, Step
from secure_computation.engines.masked.session.in_process import InProcessParties, MemoryStore, run_in_process
from secure_computation.engines.masked.session.sides import (
    DataOwnerItem,
    MaskedDataOwner,
    MaskedDealer,
    MaskedModelOwner,
)
from secure_computation.material import ItemName
from secure_computation.randomness import Seed
from secure_computation.session_statements import SessionSigning


class LayerTime(Strict):
    """One step of the plan: medians of the runs."""

    name: str
    kind: str
    elements: int
    """Of its result."""
    has_round_trip: bool
    model_owner_seconds: float
    """From the step's beginning to the next one's, by P1's clock: its own work and its wait for P0. What a layer of
    comparisons takes of linear maps is computed as it is opened, and counts there."""
    data_owner_cpu_seconds: float
    """P0's processor time for its answer; 0 if it has no part."""


class Layers(Strict):
    """One network, layer by layer."""

    model: str
    size: int
    runs: int
    layers: tuple[LayerTime, ...]
    machine: Machine
    versions: dict[str, str]


class _Clock:
    """Marks by name, each with the wall clock and the thread's processor time."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float, float]] = []

    def mark(self, name: str) -> None:
        self.marks.append((name, time.perf_counter(), time.thread_time()))

    def mark_step(self, step: Step) -> None:
        self.mark(step.name)

    def wall_seconds(self) -> dict[str, float]:
        return self._sum_differences(1)

    def cpu_seconds(self) -> dict[str, float]:
        return self._sum_differences(2)

    def _sum_differences(self, which: int) -> dict[str, float]:
        """From each mark to the next; a name may come more than once."""
        found: dict[str, float] = defaultdict(float)
        for before, after in pairwise(self.marks):
            found[before[0]] += float(after[which]) - float(before[which])
        return found


class _TimedDataOwner(MaskedDataOwner):
    """P0, whose progress is noted. It draws ahead, as in a session."""

    def __init__(self, lowering: MaskedLowering) -> None:
        super().__init__(lowering, store=MemoryStore())
        self.clock = _Clock()

    def run(
        self,
        images: Sequence[NDArray[np.float32]],
        prepared: Sequence[DataOwnerItem],
        *,
        model_owner: Channel,
        on_layer: OnLayer,
        on_heat_map: OnHeatMap | None = None,
        signing: SessionSigning | None = None,
    ) -> tuple[Reply, ...]:
        for item in prepared:
            self.draw_ahead(item)
        self.clock = _Clock()
        answers = super().run(
            images,
            prepared,
            model_owner=model_owner,
            on_layer=lambda _index, _total, name: self.clock.mark(name),
            signing=signing,
        )
        self.clock.mark("")
        return answers


def measure_layers(model_folder: Path, folder: Path, on_step: measuring.OnStep, *, runs: int) -> Layers:
    """Evaluate a phantom `runs` times after a warm-up."""
    import torch

    torch.set_num_threads(1)
    machine = read_machine()
    image = folder / "phantom.dcm"
    write_phantom(image, seed=1)
    card = read_card(model_folder / "card.json")
    tensor = read_model_input(image, card.input).tensor
    compiled = compile_model(model_folder / "model.onnx", card)
    calibration = load_calibration_images(card.input, ())
    lowering = lower_within_budget(compiled.network, compiled.weights, calibration, arithmetic=card.arithmetic).lowering
    weights = round_weights(lowering, compiled.weights)
    data_owner = _TimedDataOwner(lowering)
    parties = InProcessParties(
        dealer=MaskedDealer(lowering, key=Seed.fresh()),
        data_owner=data_owner,
        model_owner=MaskedModelOwner(lowering, weights, version="0" * 32),
    )
    walls, answers = [], []
    for turn in range(runs + 1):
        on_step(measuring.Step(words=f"run {turn} of {runs}", done=turn, total=runs + 1, seconds_left=None))
        clock = _Clock()
        run_in_process(parties, tensor, item=ItemName(f"{turn:064x}"), on_step=clock.mark_step)
        # Its last step ends when P0 has the answer.
        clock.marks.append(data_owner.clock.marks[-1])
        if turn:
            walls.append(clock.wall_seconds())
            answers.append(data_owner.clock.cpu_seconds())
    return Layers(
        model=card.name,
        size=card.input.height,
        runs=runs,
        layers=tuple(_layer(step, walls, answers) for step in lowering.steps),
        machine=machine,
        versions=read_versions(),
    )


def _layer(step: Step, walls: Sequence[dict[str, float]], answers: Sequence[dict[str, float]]) -> LayerTime:
    return LayerTime(
        name=step.name,
        kind=type(step).__name__.removesuffix("Step"),
        elements=step.elements,
        has_round_trip=isinstance(step, ComparisonStep),
        model_owner_seconds=median(wall[step.name] for wall in walls),
        data_owner_cpu_seconds=median(answer[step.name] for answer in answers),
    )
