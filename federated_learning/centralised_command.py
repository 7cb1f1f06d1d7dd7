"""`federated-learning train-centralised`: whole runs in one process."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from string import ascii_lowercase
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from plumbing.command_line import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console
    from rich.progress import Progress

    from federated_learning.data_source import DataSource, LazyImages
    from federated_learning.in_process import Chosen, Trainer
    from federated_learning.run_records import FederationRecord, RunRecord
    from federated_learning.torch_networks import Labels

Data = Annotated[Path, typer.Option(help="Folder of images.", file_okay=False, exists=True)]
Manifest = Annotated[
    Path | None, typer.Option(help="CSV: path or file, label, patient, role; class folders without.", dir_okay=False)
]
ReportedRoles = Annotated[list[str] | None, typer.Option(help="Role to report on, else test; repeat for several.")]
DescriptionOption = Annotated[
    str,
    typer.Option(
        metavar="JSON", help="What the model is: a file such as docs/samples/description.json, or pediatric-pneumonia."
    ),
]
Hospitals = dict[str, tuple["LazyImages", "Labels"]]


def train_centralised(
    *,
    data: Data,
    manifest: Manifest = None,
    output: Annotated[Path, typer.Option(help="Folder for checkpoints; the same one again resumes.", file_okay=False)],
    training_role: Annotated[
        list[str] | None, typer.Option(help="Role to train on, else train; may be repeated.")
    ] = None,
    validation_role: Annotated[str | None, typer.Option(help="Role to choose the epoch on; else validation.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON of training settings, else the shipped model's.")] = None,
    architecture: Annotated[str | None, typer.Option(help="resnet18, resnet18-normaliser-free, small-cnn.")] = None,
    pool: Annotated[str | None, typer.Option(help="average or max; a maximum costs more under encryption.")] = None,
    stages: Annotated[
        str | None, typer.Option(help="Image size x epochs, in order, such as 112x40,224x4; batches stay.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At the model's size only, instead of stages.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed on the same machine repeats the run.")] = None,
    bfloat16: Annotated[bool | None, typer.Option(help="Faster on processors with AVX-512 BF16 or AMX.")] = None,
    alone: Annotated[bool, typer.Option(help="The images are of one hospital, which trains for itself.")] = False,
    by_role: Annotated[bool, typer.Option(help="Each role is a hospital; updates are averaged.")] = False,
    description: DescriptionOption,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train in one place: on the pooled images of all roles, of one hospital, or by hospital without a network.

    What federated training is compared with. Mean and standard deviation of the pixels are those of all images.
    """
    import torch

    from federated_learning.data_source import open_source, training_roles
    from federated_learning.data_source import validation_role as role_to_validate_on
    from federated_learning.recipe import PEDIATRIC_PNEUMONIA_RECIPE, find_description, fit_to_description
    from federated_learning.run_records import RunKind, RunRecord
    from federated_learning.training_settings import read_settings, read_stages

    torch.set_num_threads(threads)
    described = find_description(description)
    if epochs is not None:
        stages = f"{described.input.height}x{epochs}"
    base = PEDIATRIC_PNEUMONIA_RECIPE if recipe is None else read_settings(recipe)
    changes = {
        "architecture": architecture,
        "pool": pool,
        "stages": None if stages is None else read_stages(stages, like=base.stages),
        "seed": seed,
        "precision": None if bfloat16 is None else ("bfloat16" if bfloat16 else "float32"),
    }
    source = open_source(data, classes=described.classes, table=manifest)
    record = RunRecord(
        settings=fit_to_description(
            base, described, **{name: value for name, value in changes.items() if value is not None}
        ),
        description=described,
        training_roles=training_roles(source, training_role),
        validation_role=role_to_validate_on(source, validation_role),
        kind=RunKind.FEDERATED if by_role else RunKind.HOSPITAL if alone else RunKind.CENTRALISED,
    )
    _train(record, source, output=output)
    say(f"publish it with: {write_publish_command(output, data=data, manifest=manifest)}")


def _train(record: RunRecord, source: DataSource, *, output: Path) -> None:
    from rich.console import Console

    from federated_learning.data_source import check_disjoint_patients, prepare
    from federated_learning.in_process import EpochResult, fit, make_trainer, read_chosen
    from federated_learning.run_records import RoundRecord, append_round, write_run

    console = Console(stderr=True)
    check_disjoint_patients(source.examples(*record.training_roles), source.examples(record.validation_role))
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar(console) as bar:
        reading = bar.add_task("reading")

        def read(done: int, everything: int) -> None:
            bar.update(reading, completed=done, total=everything)

        record, hospitals = _hospitals(record, source, cache=output, progress=read)
        held_out = prepare(source, [record.validation_role], record.description.input, cache=output, progress=read)
        console.print(f"{sum(len(found) for _, found in hospitals.values())} images to train on")
        trainer = make_trainer(record.settings, hospitals)
        task = bar.add_task("training")

        def advance(done: int, everything: int) -> None:
            bar.update(task, completed=done, total=everything)

        def report(line: EpochResult) -> None:
            kept = RoundRecord(
                round=line.epoch,
                training_loss=line.loss,
                validation_loss=line.validation_loss,
                validation_accuracy=line.accuracy,
            )
            append_round(output, kept)
            console.print(
                f"epoch {line.epoch} of {record.settings.epochs}, {line.size} px: loss {line.loss:.3f}, "
                f"{record.validation_role} accuracy {line.accuracy:.3f}"
            )

        fit(trainer, images=held_out.images, labels=held_out.labels, folder=output, report=report, progress=advance)
    # Only now: settings that a checkpoint refused must not replace those it was made with.
    chosen = read_chosen(output / "best.npz")[1]
    write_run(output, record.model_copy(update={"federation": _federation(record, trainer, chosen, hospitals)}))
    best = max(line.accuracy for line in trainer.history if line.final_size)
    console.print(f"best {record.validation_role} accuracy {best:.4f}")


def _hospitals(
    record: RunRecord, source: DataSource, *, cache: Path, progress: Callable[[int, int], None]
) -> tuple[RunRecord, Hospitals]:
    """Images and labels by hospital, normalised by the statistics of all of them, and the record with these."""
    from federated_learning.data_source import prepare
    from federated_learning.data_statistics import mean_and_deviation, pixel_sums
    from federated_learning.run_records import RunKind

    apart = record.kind is RunKind.FEDERATED
    groups = [(role,) for role in record.training_roles] if apart else [record.training_roles]
    names = [f"hospital-{letter}" for letter in ascii_lowercase[: len(groups)]] if apart else [""]
    found = [prepare(source, roles, record.description.input, cache=cache, progress=progress) for roles in groups]
    pictures = (picture for prepared in found for picture in prepared.images.in_unit_range())
    mean, deviation = mean_and_deviation(pixel_sums(pictures))
    described = record.description.with_statistics(mean, deviation)
    hospitals = {
        name: (prepared.images.with_statistics(mean, deviation), prepared.labels)
        for name, prepared in zip(names, found, strict=True)
    }
    return record.model_copy(update={"description": described}), hospitals


def _federation(
    record: RunRecord, trainer: Trainer, chosen: Chosen, hospitals: Mapping[str, tuple[LazyImages, Labels]]
) -> FederationRecord | None:
    from federated_learning.data_statistics import class_counts
    from federated_learning.run_records import FederationRecord, RunKind

    if record.kind is not RunKind.FEDERATED:
        return None
    settings = record.settings
    labels = np.concatenate([found for _, found in hospitals.values()])
    method = "FedAvg" if settings.proximal == 0 else f"FedProx (mu {settings.proximal:g})"
    return FederationRecord(
        hospitals=tuple(hospitals),
        rounds=trainer.rounds,
        chosen_round=sum(task.epoch < chosen.epoch for task in trainer.tasks),
        method=f"{method} weighted by examples, in one process",
        local_batches=settings.sync_every,
        examples=len(labels),
        class_counts=dict(zip(record.description.classes, class_counts(labels, settings.classes), strict=True)),
    )


def write_publish_command(run: Path, *, data: Path | str, manifest: Path | str | None) -> str:
    """The command that publishes a run, ready to be typed."""
    table = [] if manifest is None else ["--manifest", str(manifest)]
    model = Path(run) / "model"
    return join(
        ["federated-learning", "publish", "--run", str(run), "--data", str(data), *table, "--model", str(model)]
    )


def progress_bar(console: Console) -> Progress:
    """Bars with the time passed and left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    left = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), *left, console=console)
