"""Parts of the report: what each measures, about how long that takes, and where its result is kept."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from benchmarks.configuration import Configuration, find_model, name_of, parse_names
from benchmarks.federation import FederationCost
from benchmarks.machine import Machine, product_version, read_machine
from benchmarks.measuring import OnStep
from benchmarks.progress import working_folder
from benchmarks.results import FORMAT, SavedFile, read_file
from benchmarks.secure_aggregation import AggregationCost
from contract.base import Strict
from contract.errors import CallerError
from contract.files import replace
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
        """What a grid's cell or a campaign over links is asked for; `runs` is the part's own number."""
        name = model or self.model
        folder = find_model(name)
        return Configuration(
            model=name_of(name, folder),
            model_folder=folder,
            engines=tuple(engines.split(",")),
            runs=self.runs or runs,
            seed=1,
            timeout_seconds=self.timeout_seconds,
            batch=batch,
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement that the page shows."""

    name: str
    minutes: float
    """About, on 2 quiet cores."""
    measure: Callable[[Plan, Path, OnStep], Strict]
    """Given an empty folder for temporary files."""


class PartFile(Strict):
    """A part's result as it is kept."""

    format: int
    part: str
    taken: str
    """When it had ended, ISO 8601."""
    wall_seconds: float
    code: str
    """`product_version()` of the code that was measured."""
    machine: Machine
    result: dict[str, Any]


class AggregationCosts(Strict):
    """What secure aggregation costs a round of federated training: computed alone, and in real processes."""

    arithmetic: AggregationCost
    federation: FederationCost


def latency(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """All engines on one image."""
    from benchmarks.latency import measure_latency

    return measure_latency(plan.configure("masked,crypten,stock-crypten,plaintext", runs=9), folder, on_step)


def latency_with_max_pool(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """The stem that most ResNets have. Without `crypten`, which takes a minute a run here."""
    from benchmarks.latency import measure_latency

    configuration = plan.configure("masked,stock-crypten,plaintext", runs=5, model="resnet18-maxpool")
    return measure_latency(configuration, folder, on_step)


def batch(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Eight images in one evaluation."""
    from benchmarks.latency import measure_latency

    return measure_latency(plan.configure("masked,crypten,plaintext", runs=3, batch=8), folder, on_step)


def layers(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Layer by layer, in one process."""
    from benchmarks.layers import measure_layers

    return measure_layers(plan.model_folder, folder, runs=plan.runs or 9, on_step=on_step)


def growth(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """By size of the picture."""
    from benchmarks.growth import measure_growth

    runs, limit = plan.runs or 3, plan.timeout_seconds
    sides = (64, 128, 224, 448)
    return measure_growth(plan.model_folder, folder, sides=sides, runs=runs, timeout_seconds=limit, on_step=on_step)


def networks(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Over emulated links. Without `crypten`, which is stock CrypTen's protocol and would take five minutes more."""
    from benchmarks.emulated_links import measure_over_links
    from model_owner.link_profiles import LINKS

    return measure_over_links(plan.configure("masked,stock-crypten", runs=3), folder, LINKS, on_step)


def peers(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """What a researcher would use instead. SPU is installed if it is missing."""
    from benchmarks.comparison import measure_peers
    from benchmarks.engines import catalogue

    return measure_peers(
        plan.model_folder,
        folder,
        peers=catalogue(install=True),
        runs=plan.runs or 3,
        seed=1,
        timeout_seconds=plan.timeout_seconds,
        on_step=on_step,
    )


def ariann(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """AriaNN's table beside ours."""
    from benchmarks import ariann as comparison
    from model_owner.link_profiles import find_link

    asked = comparison.Plan(
        rows=tuple(comparison.NETWORKS),
        links=tuple(find_link(name) for name in ("loopback", "lan", "ariann-wan")),
        runs=plan.runs or 3,
        timeout_seconds=plan.timeout_seconds,
    )
    return comparison.measure_ariann(folder, asked, on_step)


def own_models(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Networks as people bring them, each on servers of its own."""
    from benchmarks.own_models import measure_own_models

    return measure_own_models(folder, runs=plan.runs or 3, timeout_seconds=plan.timeout_seconds, on_step=on_step)


def scale(plan: Plan, folder: Path, on_step: OnStep) -> Strict:
    """Several hospitals at once."""
    from benchmarks.scale import measure_scale

    images, limit = plan.runs or 4, plan.timeout_seconds
    at_once = (1, 2, 4, 8)
    return measure_scale(
        plan.model_folder, folder, sessions=at_once, images=images, timeout_seconds=limit, on_step=on_step
    )


def aggregation(plan: Plan, _folder: Path, on_step: OnStep) -> Strict:
    """A ResNet-18's update added up by three hospitals, with and without secure aggregation."""
    from benchmarks.federation import measure_federation
    from benchmarks.secure_aggregation import measure_aggregation

    return AggregationCosts(
        arithmetic=measure_aggregation(hospitals=3, ring_bits=16, runs=plan.runs or 9, on_step=on_step),
        federation=measure_federation(
            architecture="resnet18-normaliser-free", hospitals=3, rounds=plan.runs or 7, on_step=on_step
        ),
    )


PARTS: Final = (
    Part(name="latency-resnet18", minutes=4.5, measure=latency),
    Part(name="latency-resnet18-maxpool", minutes=3.0, measure=latency_with_max_pool),
    Part(name="batch", minutes=2.0, measure=batch),
    Part(name="networks", minutes=9.0, measure=networks),
    Part(name="peers", minutes=7.0, measure=peers),
    Part(name="ariann", minutes=6.0, measure=ariann),
    Part(name="own-models", minutes=6.0, measure=own_models),
    Part(name="scale", minutes=3.5, measure=scale),
    Part(name="growth", minutes=2.0, measure=growth),
    Part(name="layers", minutes=0.5, measure=layers),
    Part(name="aggregation", minutes=3.0, measure=aggregation),
)


def path_of(name: str, folder: Path) -> Path:
    """Where a part's result is kept."""
    return folder / f"{name}.json"


def read_part(name: str, folder: Path, kind: type[SavedFile]) -> tuple[PartFile, SavedFile] | None:
    """A kept result; None if it was not measured. Raises CallerError for a file of another version."""
    path = path_of(name, folder)
    if not path.is_file():
        return None
    kept = read_file(path, PartFile)
    try:
        return kept, kind.model_validate_json(json.dumps(kept.result))
    except ValidationError as error:
        raise CallerError(
            f"{path.name} is not what this version's scripts/bench report writes: measure again"
        ) from error


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
            say(f"{part.name}: kept, {path_of(part.name, folder).name} was measured with this code on this machine")
    for number, part in enumerate(due, start=1):
        left = sum(one.minutes for one in due[number - 1 :])
        say(f"{part.name} ({number} of {len(due)}): about {part.minutes:g} minutes; {left:g} left for all")
        _measure_part(part, plan, folder)


def _measure_part(part: Part, plan: Plan, folder: Path) -> None:
    machine, code, started = read_machine(), product_version(), time.monotonic()
    with working_folder() as (temporary, on_step):
        result = part.measure(plan, temporary, on_step)
    seconds = time.monotonic() - started
    kept = PartFile(
        format=FORMAT,
        part=part.name,
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        wall_seconds=round(seconds, 1),
        code=code,
        machine=machine,
        result=result.model_dump(mode="json"),
    )
    path = path_of(part.name, folder)
    replace(path, f"{kept.model_dump_json(indent=1)}\n".encode(), mode=None)
    say(f"{part.name}: took {seconds / 60:.1f} minutes, kept in {path.name}")


def _is_kept(name: str, folder: Path, machine: Machine, code: str) -> bool:
    path = path_of(name, folder)
    try:
        kept = read_file(path, PartFile)
    except CallerError:
        return False  # missing, or of another version: measured again
    hardware = (machine.processor, machine.cores, machine.memory_bytes)
    return kept.code == code and hardware == (kept.machine.processor, kept.machine.cores, kept.machine.memory_bytes)
