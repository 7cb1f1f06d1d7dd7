"""Parts of the report: what each measures, about how long that takes, and where its result is kept."""

import json
import tempfile
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
from benchmarks.reporting import FORMAT, SavedFile, read_file
from benchmarks.secure_aggregation import AggregationCost
from contract.base import Strict
from contract.errors import CallerError
from contract.files import replace
from plumbing.command_line import console, say


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every part is told."""

    model: str = "resnet18"
    """A name of benchmarks/configuration.py, or a folder."""
    runs: int | None = None
    """Of each part, in place of its own number; for trials."""
    timeout_seconds: float = 900.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement that the page shows."""

    name: str
    minutes: float
    """About, on 2 quiet cores."""
    measure: Callable[[Plan, Path], Strict]
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


def latency(plan: Plan, _folder: Path) -> Strict:
    """All engines on one image."""
    return _latency(plan, plan.model, "masked,crypten,stock-crypten,plaintext", runs=9)


def latency_with_max_pool(plan: Plan, _folder: Path) -> Strict:
    """The stem that most ResNets have. Without `crypten`, which takes a minute a run here."""
    return _latency(plan, "resnet18-maxpool", "masked,stock-crypten,plaintext")


def batch(plan: Plan, _folder: Path) -> Strict:
    """Eight images in one evaluation."""
    return _latency(plan, plan.model, "masked,crypten,plaintext", batch=8, runs=3)


def layers(plan: Plan, folder: Path) -> Strict:
    """Layer by layer, in one process."""
    from benchmarks.layers import measure_layers
    from benchmarks.progress import shown_count

    runs = plan.runs or 9
    with shown_count(console(), "runs") as on_run:
        return measure_layers(find_model(plan.model), folder, runs=runs, on_run=lambda turn: on_run(turn, runs + 1))


def growth(plan: Plan, folder: Path) -> Strict:
    """By size of the picture."""
    from benchmarks.growth import measure_growth
    from benchmarks.progress import shown_steps

    with shown_steps(console()) as on_step:
        return measure_growth(
            find_model(plan.model),
            folder,
            sides=(64, 128, 224, 448),
            runs=plan.runs or 3,
            timeout_seconds=plan.timeout_seconds,
            on_step=on_step,
        )


def networks(plan: Plan, folder: Path) -> Strict:
    """Over emulated links. Without `crypten`, which is stock CrypTen's protocol and would take five minutes more."""
    from benchmarks.case import prepare
    from benchmarks.emulated_links import measure_networks
    from benchmarks.progress import shown_steps
    from secure_computation.links import LINKS

    runs, model_folder = plan.runs or 3, find_model(plan.model)
    configuration = Configuration(
        model=name_of(plan.model, model_folder),
        model_folder=model_folder,
        engines=("masked", "stock-crypten"),
        runs=runs,
        seed=1,
        timeout_seconds=plan.timeout_seconds,
    )
    case = prepare(model_folder, folder, seed=1, rounds=runs + 1)
    with shown_steps(console()) as on_step:
        return measure_networks(configuration, case, LINKS, on_step)


def peers(plan: Plan, folder: Path) -> Strict:
    """What a researcher would use instead. SPU is installed where it is missing."""
    from benchmarks.comparison import measure_peers
    from benchmarks.peers import catalogue
    from benchmarks.progress import shown_steps

    with shown_steps(console()) as on_step:
        return measure_peers(
            find_model(plan.model),
            folder,
            peers=catalogue(install=True),
            runs=plan.runs or 3,
            seed=1,
            timeout_seconds=plan.timeout_seconds,
            on_step=on_step,
        )


def ariann(plan: Plan, folder: Path) -> Strict:
    """AriaNN's table beside ours."""
    from benchmarks import ariann as comparison
    from benchmarks.progress import shown_steps
    from secure_computation.links import find_link

    asked = comparison.Plan(
        rows=tuple(comparison.NETWORKS),
        links=tuple(find_link(name) for name in ("loopback", "lan", "ariann-wan")),
        runs=plan.runs or 3,
        timeout_seconds=plan.timeout_seconds,
    )
    with shown_steps(console()) as on_step:
        return comparison.measure_ariann(folder, asked, on_step)


def own_models(plan: Plan, folder: Path) -> Strict:
    """Networks as people bring them, each on servers of its own."""
    from benchmarks.own_models import measure_own_models
    from benchmarks.progress import shown_steps

    with shown_steps(console()) as on_step:
        return measure_own_models(folder, runs=plan.runs or 3, timeout_seconds=plan.timeout_seconds, on_step=on_step)


def scale(plan: Plan, folder: Path) -> Strict:
    """Several hospitals at once."""
    from benchmarks.progress import shown_steps
    from benchmarks.scale import measure_scale

    with shown_steps(console()) as on_step:
        return measure_scale(
            find_model(plan.model),
            folder,
            sessions=(1, 2, 4, 8),
            images=plan.runs or 4,
            timeout_seconds=plan.timeout_seconds,
            on_step=on_step,
        )


def aggregation(plan: Plan, _folder: Path) -> Strict:
    """A ResNet-18's update added up by three hospitals, with and without secure aggregation."""
    from benchmarks.federation import measure_federation
    from benchmarks.secure_aggregation import measure_aggregation

    with console().status("secure aggregation") as status:
        arithmetic = measure_aggregation(
            hospitals=3, ring_bits=16, runs=plan.runs or 9, on_run=lambda run: status.update(f"arithmetic, round {run}")
        )
        federation = measure_federation(
            architecture="resnet18-normaliser-free", hospitals=3, rounds=plan.runs or 7, on_step=status.update
        )
    return AggregationCosts(arithmetic=arithmetic, federation=federation)


def _latency(plan: Plan, model: str, engines: str, *, batch: int = 1, runs: int = 5) -> Strict:
    from benchmarks.commands.latency import measure

    folder = find_model(model)
    return measure(
        Configuration(
            model=name_of(model, folder),
            model_folder=folder,
            engines=tuple(engines.split(",")),
            runs=plan.runs or runs,
            seed=1,
            timeout_seconds=plan.timeout_seconds,
            batch=batch,
        )
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
    """A kept result; None where it was not measured. Raises CallerError for a file of another version."""
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

    A part is kept where its file was written by this version of the product on a machine like this one, unless it is
    named in `again`. `only`: these parts; all where it is empty.
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
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        result = part.measure(plan, Path(temporary))
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
        return False  # missing, or of another version: measured anew
    hardware = (machine.processor, machine.cores, machine.memory_bytes)
    return kept.code == code and hardware == (kept.machine.processor, kept.machine.cores, kept.machine.memory_bytes)
