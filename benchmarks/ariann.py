"""AriaNN's table: what it published beside what the masked engine takes for the same networks on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchmarks import onnx_networks
from benchmarks.emulation import deployed_over
from benchmarks.engines.product import submit
from benchmarks.machine import read_machine
from benchmarks.measuring import Measurement, OnStep, Run, WorkSteps
from benchmarks.results import Figures, Taken, describe_taking, figures_over
from contract.base import Strict
from contract.ticket import Engine
from demonstration.plaintext import PlaintextModel
from imaging.phantom import write_phantom
from model_owner.link_profiles import LinkProfile

FORMAT: Final = 1
PUBLISHED = Path(__file__).resolve().parent / "published" / "ariann.json"
START_WEIGHT = 20.0
"""What import and start take, in units of a megabyte of AriaNN's traffic: for the time left."""

NETWORKS: Mapping[str, onnx_networks.Build] = {
    "lenet-28": onnx_networks.lenet,
    "alexnet-32": onnx_networks.alexnet_small,
    "alexnet-64": onnx_networks.alexnet,
    "vgg16-32": partial(onnx_networks.vgg16, side=32),
    "vgg16-64": partial(onnx_networks.vgg16, side=64),
    "resnet18-224": onnx_networks.resnet18,
}


class PublishedRow(Strict):
    """One network of AriaNN's table. Seconds and megabytes are for one image of a batch."""

    name: str
    title: str
    side: int
    channels: Literal[1, 3]
    classes: int
    batch: int
    """Images that were evaluated at once; the figures are the batch's, divided by it."""
    preprocessing_seconds: float
    lan_cpu_seconds: float
    lan_gpu_seconds: float
    wan_cpu_seconds: float
    online_megabytes: float
    offline_megabytes: float | None
    """None if it was not published."""


class PublishedTable(Strict):
    """AriaNN's figures, and what they were taken on."""

    source: str
    cpu_machine: str
    gpu_machine: str
    lan: str
    wan: str
    ring_bits: int
    rows: tuple[PublishedRow, ...]


class LinkCost(Figures):
    """What one image costs over one kind of link."""

    link: str
    """Its name."""
    weights_bytes: int
    """What the first image of a model version costs more: the masked weights, fetched once."""
    largest_logit: float
    """Of onnxruntime's, in magnitude: what the error is small beside."""
    peak_rss_bytes: dict[str, int]


class Row(Strict):
    """One network: theirs and ours."""

    published: PublishedRow
    ours: Annotated[tuple[LinkCost, ...], Field(min_length=1)]


class AriannTable(Taken):
    """The whole comparison."""

    format: Literal[1]
    published: PublishedTable
    rows: tuple[Row, ...]
    links: tuple[LinkProfile, ...]
    """What lay between every two of our parties."""
    runs: int
    batch: Literal[1] = 1


def read_published() -> PublishedTable:
    """AriaNN's figures."""
    return PublishedTable.model_validate_json(PUBLISHED.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    rows: tuple[str, ...]
    links: tuple[LinkProfile, ...]
    runs: int
    timeout_seconds: float
    """For all images over one kind of link."""


def measure_ariann(folder: Path, plan: Plan, on_step: OnStep) -> AriannTable:
    """Measure the networks of `plan` one after the other, each over every kind of link, with files in `folder`.

    Servers start anew for each; one `data-owner diagnose` submits all images to them, and the first does not count.
    """
    machine = read_machine()
    published = read_published()
    chosen = [row for row in published.rows if row.name in plan.rows]
    image = folder / "phantom.dcm"
    write_phantom(image, seed=1)
    rows = []
    links = len(plan.links)
    # The time left goes by AriaNN's traffic.
    steps = WorkSteps(on_step, total=len(chosen) * links, weight=links * sum(map(_weight, chosen)))
    for row in chosen:
        model_folder = _write_model(row, folder / row.name)
        expected = PlaintextModel(model_folder).logits_of_file(image)
        ours = []
        for link in plan.links:
            steps.next(f"{row.title}: {link.name}", _weight(row))
            place = folder / f"{row.name}-{link.name}"
            place.mkdir()
            images = [image] * (plan.runs + 1)
            with deployed_over(place, [model_folder], link) as deployment:
                found = submit(deployment, images, engine=Engine.MASKED, timeout_seconds=plan.timeout_seconds)
            ours.append(_cost(link.name, found, expected))
        rows.append(Row(published=row, ours=tuple(ours)))
    return AriannTable(
        format=FORMAT,
        published=published,
        rows=tuple(rows),
        links=plan.links,
        runs=plan.runs,
        **describe_taking(machine),
    )


def _weight(row: PublishedRow) -> float:
    return START_WEIGHT + row.online_megabytes


def _write_model(row: PublishedRow, folder: Path) -> Path:
    return onnx_networks.write_network(
        folder,
        row.name,
        NETWORKS[row.name],
        channels=row.channels,
        side=row.side,
        classes=row.classes,
        title=row.title,
    )


def _cost(link: str, found: tuple[Measurement, ...], expected: NDArray[np.float64]) -> LinkCost:
    first = found[0]
    counted = [
        Run(
            engine=Engine.MASKED.value,
            round=number,
            measurement=one,
            max_abs_error=float(np.abs(np.asarray(one.logits) - expected).max()),
        )
        for number, one in enumerate(found[1:], start=1)
    ]
    figures = figures_over(counted)
    return LinkCost(
        link=link,
        weights_bytes=first.offline_bytes - figures["offline_bytes"],
        largest_logit=float(np.abs(expected).max()),
        peak_rss_bytes=dict(first.peak_rss_bytes),
        **figures,
    )
