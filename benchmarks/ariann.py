"""AriaNN's table: what it published beside what the masked engine takes for the same networks on this machine."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import torch
from pydantic import Field

from benchmarks.ariann_networks import draw_network
from benchmarks.case import Case, prepare
from benchmarks.engines.product import product
from benchmarks.machine import read_machine
from benchmarks.measuring import Campaign, Cell, OnStep
from benchmarks.results import Figures, Taken, combine_by_party, describe_taking, summarise_figures
from benchmarks.variants import write_random_model
from benchmarks.wiring import Wiring
from contract.base import Strict
from contract.ticket import Engine
from federated_learning.export import trace

FORMAT: Final = 1
PUBLISHED = Path(__file__).resolve().parent / "published" / "ariann.json"


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
    links: tuple[Wiring, ...]
    """What lay between every two of our parties."""
    runs: int
    batch: Literal[1] = 1


def read_published() -> PublishedTable:
    """AriaNN's figures."""
    return PublishedTable.model_validate_json(PUBLISHED.read_bytes())


def measure_ariann(
    rows: Sequence[str], wirings: Sequence[Wiring], folder: Path, on_step: OnStep, *, runs: int, timeout_seconds: float
) -> AriannTable:
    """Measure the networks of these rows one after the other, each over every kind of link, with files in `folder`.

    Servers are started for each; the first image does not count. `timeout_seconds` is for one image.
    """
    machine, published = read_machine(), read_published()
    chosen = [row for row in published.rows if row.name in rows]

    @cache
    def prepare_row(row: PublishedRow) -> Case:
        place = folder / row.name
        place.mkdir()
        return prepare(write_model(row, place / "model"), place, seed=1)

    cells = {
        (row.name, wiring.name): Cell(
            engine=Engine.MASKED.value,
            words=f"{row.title}, {wiring.name}",
            prepare=partial(prepare_row, row),
            opener=product(Engine.MASKED, wiring),
            turns=range(runs + 1),
        )
        for row in chosen
        for wiring in wirings
    }
    campaign = Campaign(list(cells.values()), timeout_seconds=timeout_seconds, on_step=on_step)
    for cell in cells.values():
        campaign.measure([cell])
    return AriannTable(
        format=FORMAT,
        published=published,
        rows=tuple(
            Row(published=row, ours=tuple(_cost(cells[row.name, wiring.name], wiring) for wiring in wirings))
            for row in chosen
        ),
        links=tuple(wirings),
        runs=runs,
        **describe_taking(machine),
    )


def write_model(row: PublishedRow, folder: Path) -> Path:
    """Write model.onnx and card.json of a row's network into a new `folder`; return it."""
    pictures = torch.zeros(2, row.channels, row.side, row.side)
    content = trace(draw_network(row.name, row.classes), pictures).SerializeToString()
    shape = (row.channels, row.side, row.side)
    classes = [f"class-{number}" for number in range(row.classes)]
    return write_random_model(folder, content, name=row.name, title=row.title, shape=shape, classes=classes)


def _cost(cell: Cell, wiring: Wiring) -> LinkCost:
    figures = summarise_figures(cell.counted)
    measured = [run.measurement for run in cell.runs]
    return LinkCost(
        link=wiring.name,
        weights_bytes=measured[0].offline_bytes - figures["offline_bytes"],
        largest_logit=float(np.abs(cell.case.pictures(0).expected).max()),
        peak_rss_bytes=combine_by_party(measured, lambda one: one.peak_rss_bytes, max),
        **figures,
    )
