"""What people bring, imported and served: how far the encrypted answer is from onnxruntime's, and what it costs."""

import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.case import Case, prepare
from benchmarks.engines.product import product
from benchmarks.engines.stock_crypten import stock
from benchmarks.latency import NotMeasured
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import Campaign, Cell, OnStep, Run
from benchmarks.results import summarise_phases
from benchmarks.torch_networks import NETWORKS, TorchNetwork, write_model
from contract.base import Strict
from contract.errors import ComputationFailed
from contract.model_card import InputSpecification, Modality, Task
from contract.ticket import Engine
from demonstration.plaintext import PlaintextModel
from model_owner.agreement import Agreement
from model_owner.calibration_images import load_calibration_images

NOISE: Final = 0.001
"""Of a picture's own spread: what shows how much a network itself makes of small differences."""


class OwnModel(Strict):
    """One network: its size, its answers and its cost, medians over the runs."""

    name: str
    side: int
    ending: str
    task: Task
    outputs: int
    weights: int
    million_products: float
    engine: str
    pictures: int
    answers_agree: int
    """Pictures on which both say the same class, or the same side of every threshold."""
    largest_logit: float
    """Of onnxruntime's, over the pictures, by absolute value."""
    max_logit_error: float
    noise_moves_logits: float
    """Largest change of one of onnxruntime's logits when noise of 0.1 % of its spread is added to the picture."""
    max_probability_error: float
    online_seconds: float | None
    """None if other programs kept the machine busy."""
    online_bytes: int
    offline_bytes: int
    one_way_trips: int


class OwnModels(Strict):
    """Networks as people bring them, with drawn weights."""

    runs: int
    models: tuple[OwnModel, ...]
    not_measured: tuple[NotMeasured, ...] = ()
    """What stock CrypTen cannot run."""
    machine: Machine
    versions: dict[str, str]


def measure_own_models(
    folder: Path,
    on_step: OnStep,
    *,
    runs: int,
    timeout_seconds: float,
    networks: Sequence[TorchNetwork] = NETWORKS,
) -> OwnModels:
    """Write, serve and ask each network in turn, on servers of its own, beside stock CrypTen, after a warm-up.

    Raises ComputationFailed if the masked engine cannot run one.
    """
    quiet = is_machine_quiet()

    @cache
    def prepare_network(network: TorchNetwork) -> Case:
        place = folder / network.name
        place.mkdir()
        model = write_model(network, place / "model", draw_statistics_pictures(network.side))
        return prepare(model, place, seed=11, rounds=runs + 1)

    cells = {
        network: [
            Cell(
                engine=engine,
                words=f"{network.name}, {engine}",
                prepare=partial(prepare_network, network),
                opener=opener,
                turns=range(runs + 1),
            )
            for engine, opener in ((Engine.MASKED.value, product(Engine.MASKED)), ("stock-crypten", stock()))
        ]
        for network in networks
    }
    every = [cell for group in cells.values() for cell in group]
    campaign = Campaign(every, timeout_seconds=timeout_seconds, on_step=on_step, goes_on_after_failures=True)
    found, left_out = [], []
    for network, group in cells.items():
        campaign.measure(group)
        for cell in group:
            if cell.failure is None:
                found.append(_summarise(network, cell, timed=quiet))
            elif cell.engine == Engine.MASKED.value:
                raise ComputationFailed(f"{network.name}: {cell.failure}")
            else:
                names = {"model": network.name, "engine": cell.engine, "not_measured": cell.failure}
                left_out.append(NotMeasured(size=network.side, batch=1, **names))
    return OwnModels(
        runs=runs,
        models=tuple(found),
        not_measured=tuple(left_out),
        machine=read_machine(),
        versions=read_versions(),
    )


def is_machine_quiet() -> bool:
    """Whether at most as many programs compute as there are cores, so that seconds mean something."""
    return os.getloadavg()[0] <= (os.cpu_count() or 1)


def draw_statistics_pictures(side: int) -> torch.Tensor:
    """Phantoms bright and dark, hard and soft, and pictures that no patient gives: float32 (n, 1, side, side).

    What an import measures ranges on. Statistics of a few pictures that are all alike would make a random network
    answer to any other with values a hundred times as large, as no trained one does.
    """
    specification = InputSpecification(
        modalities=(Modality.DX,), height=side, width=side, mean=(0.5,), standard_deviation=(0.25,)
    )
    return torch.from_numpy(load_calibration_images(specification, ()))


def _summarise(network: TorchNetwork, cell: Cell, *, timed: bool) -> OwnModel:
    case, counted = cell.case, cell.counted
    expected = [case.pictures(run.round).expected[0] for run in counted]
    agreement = Agreement.of(case.card, np.array([run.measurement.logits for run in counted]), np.stack(expected))
    phases = summarise_phases(counted)
    return OwnModel(
        name=network.name,
        side=case.size,
        ending="Sigmoid" if network.ends_in_sigmoid else "logits",
        task=network.task,
        outputs=network.outputs,
        weights=sum(int(np.prod(shape)) for shape in case.network.weight_shapes().values()),
        million_products=sum(operation.multiplications() for operation in case.network.operations) / 1e6,
        engine=cell.engine,
        pictures=len(counted),
        answers_agree=agreement.labels_agree,
        largest_logit=agreement.largest_logit,
        max_logit_error=agreement.max_abs_error,
        noise_moves_logits=_moved_by_noise(case, counted),
        max_probability_error=agreement.max_probability_error,
        online_seconds=phases["online_seconds"] if timed else None,
        online_bytes=phases["online_bytes"],
        offline_bytes=phases["offline_bytes"],
        one_way_trips=phases["one_way_trips"],
    )


def _moved_by_noise(case: Case, counted: Sequence[Run]) -> float:
    """How sensitive the network itself is: see OwnModel."""
    plain, random = PlaintextModel(case.model_folder), np.random.default_rng(1)
    largest = 0.0
    for run in counted:
        pictures = case.pictures(run.round)
        tensor = np.load(pictures.tensor, allow_pickle=False)[0]
        noise = random.normal(0, NOISE * tensor.std(), tensor.shape).astype(tensor.dtype)
        largest = max(largest, float(np.abs(plain.logits(tensor + noise) - pictures.expected[0]).max()))
    return largest
