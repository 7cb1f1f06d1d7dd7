"""Parts of the report: what each measures, about how long that takes, what people read of it, and where it is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.ariann import AriannTable, measure_ariann
from benchmarks.ariann_networks import NETWORKS
from benchmarks.comparison import Peers, measure_peers
from benchmarks.configuration import Configuration, configure, find_model, parse_names
from benchmarks.document import sections as ours
from benchmarks.document.blocks import Shown
from benchmarks.document.other_systems import show_ariann, show_peers
from benchmarks.emulated_links import LinkResults, measure_over_links
from benchmarks.engines import ENGINES, PEERS, catalogue
from benchmarks.federation import AggregationCosts, measure_federation
from benchmarks.growth import Growth, measure_growth
from benchmarks.latency import Summary, measure_latency
from benchmarks.layers import Layers, measure_layers
from benchmarks.machine import Machine, product_version, read_machine
from benchmarks.measuring import OnStep
from benchmarks.own_models import OwnModels, measure_own_models
from benchmarks.progress import working_folder
from benchmarks.results import FORMAT, PartFile, locate_part, read_file
from benchmarks.scale import Scale, measure_scale
from benchmarks.secure_aggregation import measure_aggregation
from benchmarks.wiring import find_wiring
from contract.base import Strict
from contract.errors import CallerError
from contract.files import replace
from model_owner.link_profiles import LINKS
from plumbing.command_line import say


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every part is asked for."""

    model: str = "resnet18"
    """A name of benchmarks/configuration.py, or a folder."""
    runs: int | None = None
    """Of each part, in place of its own number; for trials."""
    timeout_seconds: float = 900.0

    @property
    def model_folder(self) -> Path:
        """Raises CallerError if there is no such model."""
        return find_model(self.model)

    def configure(self, engines: str, *, runs: int, model: str | None = None, batch: int = 1) -> Configuration:
        """What engines are asked for; `runs` is the part's own number."""
        name, limit = model or self.model, self.timeout_seconds
        return configure(engines.split(","), name, runs=self.runs or runs, timeout_seconds=limit, batch=batch)


Measure = Callable[[Plan, Path, OnStep], Strict]
"""Given an empty folder for temporary files."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement that the page shows."""

    name: str
    minutes: float
    """About, on 2 quiet cores."""
    measure: Measure
    kind: type[Strict]
    show: Callable[[Any], Shown]


def measure_all_engines(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """One image by all engines, ours also from stock."""
    return measure_latency(plan.configure(",".join(ENGINES), runs=9), folder, on_step)


def measure_with_max_pool(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """The stem that most ResNets have. Without `crypten`, which takes a minute a run here."""
    configuration = plan.configure("masked,stock-crypten,plaintext", runs=5, model="resnet18-maxpool")
    return measure_latency(configuration, folder, on_step)


def measure_batch(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Eight images in one evaluation."""
    return measure_latency(plan.configure("masked,crypten,plaintext", runs=9, batch=8), folder, on_step)


def measure_networks(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Over emulated links. Without `crypten`, which is stock CrypTen's protocol and would take five minutes more."""
    wirings = [find_wiring(link.name) for link in LINKS]
    return measure_over_links(plan.configure("masked,stock-crypten", runs=3), wirings, folder, on_step)


def measure_hospital(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """What a clinician waits over a hospital's uplink: with all links as slow, and with the hospital's alone."""
    wirings = [find_wiring(name) for name in ("hospital", "hospital+1gbit", "hospital+10gbit")]
    return measure_over_links(plan.configure("masked,masked-stocked", runs=9), wirings, folder, on_step)


def measure_other_systems(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """What a researcher would use instead. SPU is installed if it is missing."""
    known, runs, limit = catalogue(install=True), plan.runs or 3, plan.timeout_seconds
    peers = {name: known[name] for name in PEERS}
    return measure_peers(plan.model_folder, folder, on_step, peers=peers, runs=runs, seed=1, timeout_seconds=limit)


def measure_published(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """AriaNN's table beside ours."""
    wirings = [find_wiring(name) for name in ("loopback", "lan", "ariann-wan")]
    runs, limit = plan.runs or 3, plan.timeout_seconds
    return measure_ariann(tuple(NETWORKS), wirings, folder, on_step, runs=runs, timeout_seconds=limit)


def measure_others_models(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Networks as people bring them, each on servers of its own."""
    return measure_own_models(folder, on_step, runs=plan.runs or 3, timeout_seconds=plan.timeout_seconds)


def measure_hospitals(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Several at once."""
    images, limit = plan.runs or 4, plan.timeout_seconds
    return measure_scale(
        plan.model_folder, folder, on_step, sessions=(1, 2, 4, 8), images=images, timeout_seconds=limit
    )


def measure_sizes(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """By size of the picture."""
    sides, runs, limit = (64, 128, 224, 448), plan.runs or 3, plan.timeout_seconds
    return measure_growth(plan.model_folder, folder, on_step, sides=sides, runs=runs, timeout_seconds=limit)


def measure_each_layer(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Layer by layer, in one process."""
    return measure_layers(plan.model_folder, folder, on_step, runs=plan.runs or 9)


def measure_training_round(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """A ResNet-18's update added up by three hospitals, with and without secure aggregation."""
    alone, real = plan.runs or 9, plan.runs or 7
    architecture = "resnet18-normaliser-free"
    return AggregationCosts(
        arithmetic=measure_aggregation(folder, on_step, hospitals=3, ring_bits=16, runs=alone),
        federation=measure_federation(folder, on_step, architecture=architecture, hospitals=3, rounds=real),
    )


def _part(name: str, minutes: float, measure: Measure, kind: type[Strict], show: Callable[[Any], Shown]) -> Part:
    return Part(name=name, minutes=minutes, measure=measure, kind=kind, show=show)


PARTS: Final = (
    _part("latency-resnet18", 5.5, measure_all_engines, Summary, ours.show_summary),
    _part("latency-resnet18-maxpool", 3.0, measure_with_max_pool, Summary, ours.show_summary),
    _part("batch", 2.0, measure_batch, Summary, ours.show_batch),
    _part("networks", 9.0, measure_networks, LinkResults, ours.show_links),
    _part("hospital", 6.0, measure_hospital, LinkResults, ours.show_hospital),
    _part("peers", 7.0, measure_other_systems, Peers, show_peers),
    _part("ariann", 9.0, measure_published, AriannTable, show_ariann),
    _part("own-models", 6.0, measure_others_models, OwnModels, ours.show_own_models),
    _part("scale", 3.5, measure_hospitals, Scale, ours.show_scale),
    _part("growth", 2.0, measure_sizes, Growth, ours.show_growth),
    _part("layers", 0.5, measure_each_layer, Layers, ours.show_layers),
    _part("aggregation", 3.0, measure_training_round, AggregationCosts, ours.show_aggregation),
)


def parse_parts(text: str, *, option: str) -> tuple[str, ...]:
    """Read `layers,growth`; none for nothing. Raises CallerError for a part that there is not."""
    return parse_names(text, [part.name for part in PARTS], noun="part", option=option) if text.strip() else ()


def measure_parts(plan: Plan, folder: Path, *, only: Sequence[str], again: Sequence[str]) -> None:
    """Measure what is not kept already, part by part; what was interrupted is measured again the next time.

    A part is kept if its file was written by this version of the product on a machine like this one, unless it is
    named in `again`. `only`: these parts; all if it is empty.
    """
    chosen = [part for part in PARTS if not only or part.name in only]
    machine, code = read_machine(), product_version()
    due = [part for part in chosen if part.name in again or not _is_kept(part.name, folder, machine, code)]
    for part in chosen:
        if part not in due:
            say(f"{part.name}: kept, {locate_part(part.name, folder).name} was measured with this code on this machine")
    for number, part in enumerate(due, start=1):
        left = sum(one.minutes for one in due[number - 1 :])
        say(f"{part.name} ({number} of {len(due)}): about {part.minutes:g} minutes; {left:g} left for all")
        _measure_part(part, plan, folder)


def _measure_part(part: Part, plan: Plan, folder: Path) -> None:
    machine, code, started = read_machine(), product_version(), time.monotonic()
    with working_folder() as (temporary, on_step):
        result = part.measure(plan, temporary, on_step)
    seconds = time.monotonic() - started
    kept = PartFile[Any](
        format=FORMAT,
        part=part.name,
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        wall_seconds=round(seconds, 1),
        code=code,
        machine=machine,
        result=result.model_dump(mode="json"),
    )
    path = locate_part(part.name, folder)
    replace(path, f"{kept.model_dump_json(indent=1)}\n".encode(), mode=None)
    say(f"{part.name}: took {seconds / 60:.1f} minutes, kept in {path.name}")


def _is_kept(name: str, folder: Path, machine: Machine, code: str) -> bool:
    try:
        kept = read_file(locate_part(name, folder), PartFile[Any])
    except CallerError:
        return False  # missing, or of another version: measured again
    hardware = (machine.processor, machine.cores, machine.memory_bytes)
    return kept.code == code and hardware == (kept.machine.processor, kept.machine.cores, kept.machine.memory_bytes)
