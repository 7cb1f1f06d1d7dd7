"""What people bring, imported and served: how far the encrypted answer is from onnxruntime's, and what it costs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.case import Case, prepare
from benchmarks.engines.product import product
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step, measure_in_turns
from benchmarks.own_networks import NETWORKS, OwnNetwork, write_model
from contract.model_card import InputSpecification, Modality, Strict, Task
from contract.ticket import Engine
from model_owner.calibration import calibration_images
from secure_computation.network import Activation, Softmax


class OwnModel(Strict):
    """One network: its size, its answers and its cost, medians over the runs."""

    name: str
    ending: str
    task: Task
    outputs: int
    weights: int
    million_products: float
    engine: str
    """The faster one that takes it."""
    pictures: int
    largest_logit: float
    """Of onnxruntime's, over the pictures, by absolute value."""
    max_logit_error: float
    max_probability_error: float
    online_seconds: float
    online_bytes: int
    offline_bytes: int
    one_way_trips: int


class OwnModels(Strict):
    """Networks as people bring them, with random weights."""

    side: int
    runs: int
    models: tuple[OwnModel, ...]
    machine: Machine
    versions: dict[str, str]


def measure_own_models(
    folder: Path,
    *,
    runs: int,
    timeout_seconds: float,
    on_step: OnStep,
    side: int = 224,
    networks: Sequence[OwnNetwork] = NETWORKS,
) -> OwnModels:
    """Write, serve and ask each network in turn, on servers of its own, after a warm-up."""
    pictures = statistics_pictures(side)
    found = []
    for number, network in enumerate(networks):
        place = folder / network.name
        place.mkdir()
        case = prepare(write_model(network, place / "model", pictures), place, seed=11, rounds=runs + 1)
        found.append(_measure(network, case, runs, timeout_seconds, _told(on_step, network, number, len(networks))))
    return OwnModels(side=side, runs=runs, models=tuple(found), machine=read_machine(), versions=read_versions())


def statistics_pictures(side: int) -> torch.Tensor:
    """Phantoms bright and dark, hard and soft, and pictures that no patient gives: float32 (n, 1, side, side).

    What an import measures ranges on. Statistics of a few pictures that are all alike would make a random network
    answer to any other with values a hundred times as large, as no trained one does.
    """
    specification = InputSpecification(
        modalities=(Modality.DX,), height=side, width=side, mean=(0.5,), standard_deviation=(0.25,)
    )
    return torch.from_numpy(calibration_images(specification, ()))


def _told(on_step: OnStep, network: OwnNetwork, number: int, networks: int) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        on_step(
            Step(
                words=f"{network.name}, {step.words}",
                done=number * step.total + step.done,
                total=networks * step.total,
                seconds_left=None,
            )
        )

    return tell


def _measure(network: OwnNetwork, case: Case, runs: int, timeout_seconds: float, on_step: OnStep) -> OwnModel:
    engine = best_engine(case)
    measured = measure_in_turns(
        case, {engine.value: product(engine)}, runs=runs, timeout_seconds=timeout_seconds, on_step=on_step
    )
    kept = measured.of(engine.value)
    expected = [case.pictures(run.round).expected[0] for run in kept]
    probability_errors = [
        abs(ours - theirs)
        for run, wanted in zip(kept, expected, strict=True)
        for ours, theirs in zip(
            case.card.probabilities(run.measurement.logits).values(),
            case.card.probabilities(tuple(wanted.tolist())).values(),
            strict=True,
        )
    ]
    operations = case.network.operations
    return OwnModel(
        name=network.name,
        ending="Sigmoid" if network.ends_in_sigmoid else "logits",
        task=network.task,
        outputs=network.outputs,
        weights=sum(int(np.prod(shape)) for shape in case.network.weight_shapes().values()),
        million_products=sum(operation.multiplications() for operation in operations) / 1e6,
        engine=engine.value,
        pictures=len(kept),
        largest_logit=float(np.abs(expected).max()),
        max_logit_error=max(run.max_abs_error for run in kept),
        max_probability_error=max(probability_errors),
        online_seconds=median(run.measurement.online_seconds for run in kept),
        online_bytes=kept[0].measurement.online_bytes,
        offline_bytes=kept[0].measurement.offline_bytes,
        one_way_trips=kept[0].measurement.one_way_trips,
    )


def best_engine(case: Case) -> Engine:
    """The masked engine, unless the network has a smooth function, which CrypTen's tensors alone compute."""
    smooth = any(isinstance(operation, Activation | Softmax) for operation in case.network.operations)
    return Engine.CRYPTEN if smooth else Engine.MASKED
