"""AriaNN's table: what it published beside what the masked engine takes for the same networks on this machine."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchmarks import ariann_networks
from benchmarks.configuration import THREADS
from benchmarks.emulation import deployed_over
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step
from benchmarks.reporting import Range
from benchmarks.submitting import Submitted, submit
from contract.base import Strict
from demonstration.plaintext import PlaintextModel
from imaging.phantom import write_phantom
from secure_computation.links import Link

FORMAT: Final = 1
PUBLISHED = Path(__file__).resolve().parent / "published" / "ariann.json"
START_WEIGHT = 20.0
"""What import and start take, in units of a megabyte of AriaNN's traffic: for the time left."""

NETWORKS: Mapping[str, ariann_networks.Network] = {
    "lenet-28": ariann_networks.lenet,
    "alexnet-32": ariann_networks.alexnet_small,
    "alexnet-64": ariann_networks.alexnet,
    "vgg16-32": partial(ariann_networks.vgg16, side=32),
    "vgg16-64": partial(ariann_networks.vgg16, side=64),
    "resnet18-224": ariann_networks.resnet18,
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
    """None where it was not published."""


class PublishedTable(Strict):
    """AriaNN's figures, and what they were taken on."""

    source: str
    cpu_machine: str
    gpu_machine: str
    lan: str
    wan: str
    ring_bits: int
    rows: tuple[PublishedRow, ...]


class LinkCost(Strict):
    """What one image costs over one kind of link: medians, and the range of the runs."""

    link: str
    """Its name."""
    online_seconds: float
    online_seconds_range: Range
    offline_seconds: float
    offline_seconds_range: Range
    online_bytes: int
    offline_bytes: int
    weights_bytes: int
    """What the first image of a model version costs more: the masked weights, fetched once."""
    one_way_trips: int
    max_abs_error: float
    """Largest distance of a logit from onnxruntime's, of all runs."""
    largest_logit: float
    """Of onnxruntime's, in magnitude: what the error is small beside."""
    peak_rss_bytes: dict[str, int]


class Row(Strict):
    """One network: theirs and ours."""

    published: PublishedRow
    ours: Annotated[tuple[LinkCost, ...], Field(min_length=1)]


class AriannTable(Strict):
    """The whole comparison."""

    format: Literal[1]
    taken: str
    published: PublishedTable
    rows: tuple[Row, ...]
    links: tuple[Link, ...]
    """What lay between every two of our parties."""
    runs: int
    batch: Literal[1] = 1
    threads: int
    machine: Machine
    versions: dict[str, str]


def read_published() -> PublishedTable:
    """AriaNN's figures."""
    return PublishedTable.model_validate_json(PUBLISHED.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    rows: tuple[str, ...]
    links: tuple[Link, ...]
    runs: int
    timeout_seconds: float
    """For all images over one kind of link."""


def measure_ariann(folder: Path, plan: Plan, on_step: OnStep) -> AriannTable:
    """Measure the networks of `plan` one after the other, each over every kind of link, with files in `folder`.

    Each federation starts anew; one `data-owner diagnose` submits all images to it, and the first does not count.
    """
    machine = read_machine()
    published = read_published()
    chosen = [row for row in published.rows if row.name in plan.rows]
    image = folder / "phantom.dcm"
    write_phantom(image, seed=1)
    rows = []
    steps = _Steps(chosen, len(plan.links), on_step)
    for row in chosen:
        model_folder = _write_model(row, folder / row.name)
        expected = PlaintextModel(model_folder).logits_of_file(image)
        ours = []
        for link in steps.over(row, plan.links):
            place = folder / f"{row.name}-{link.name}"
            place.mkdir()
            with deployed_over(place, [model_folder], link) as deployment:
                submitted = submit(deployment, [image] * (plan.runs + 1), timeout_seconds=plan.timeout_seconds)
            ours.append(_cost(link.name, submitted, expected))
        rows.append(Row(published=row, ours=tuple(ours)))
    return AriannTable(
        format=FORMAT,
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        published=published,
        rows=tuple(rows),
        links=plan.links,
        runs=plan.runs,
        threads=THREADS,
        machine=machine,
        versions=read_versions(),
    )


def _write_model(row: PublishedRow, folder: Path) -> Path:
    return ariann_networks.write_network(
        folder,
        row.name,
        NETWORKS[row.name],
        channels=row.channels,
        side=row.side,
        classes=row.classes,
        title=row.title,
    )


def _cost(link: str, submitted: Submitted, expected: NDArray[np.float64]) -> LinkCost:
    first, *counted = submitted.diagnoses
    online = [one.seconds.online for one in counted]
    offline = [one.seconds.offline for one in counted]
    errors = [np.abs(np.asarray(one.logits) - expected).max() for one in counted]
    return LinkCost(
        link=link,
        online_seconds=median(online),
        online_seconds_range=Range(smallest=min(online), largest=max(online)),
        offline_seconds=median(offline),
        offline_seconds_range=Range(smallest=min(offline), largest=max(offline)),
        online_bytes=counted[0].bytes.online,
        offline_bytes=counted[0].bytes.offline,
        weights_bytes=first.bytes.offline - counted[0].bytes.offline,
        one_way_trips=counted[0].one_way_trips,
        max_abs_error=float(max(errors)),
        largest_logit=float(np.abs(expected).max()),
        peak_rss_bytes=submitted.peak_rss_bytes,
    )


class _Steps:
    """Tells what is measured over which link, and foresees the rest by AriaNN's traffic, network by network."""

    def __init__(self, rows: Sequence[PublishedRow], links_each: int, on_step: OnStep) -> None:
        self._on_step = on_step
        self._total = len(rows) * links_each
        self._weight_left = links_each * sum(map(_weight, rows))
        self._weight_done = 0.0
        self._done = 0
        self._started = time.monotonic()

    def over(self, row: PublishedRow, links: Sequence[Link]) -> Iterator[Link]:
        for link in links:
            passed = time.monotonic() - self._started
            left = passed * self._weight_left / self._weight_done if self._weight_done else None
            words = f"{row.title}: {link.name}"
            self._on_step(Step(words=words, done=self._done, total=self._total, seconds_left=left))
            yield link
            self._done += 1
            self._weight_done += _weight(row)
            self._weight_left -= _weight(row)


def _weight(row: PublishedRow) -> float:
    return START_WEIGHT + row.online_megabytes
