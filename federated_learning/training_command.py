"""`federated-learning train-centralised`: whole runs in one process."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from contract.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console
    from rich.progress import Progress

    from federated_learning.data_source import DataSource, LazyImages
    from federated_learning.networks import Labels
    from federated_learning.records import Description, FederationRecord, RunRecord
    from federated_learning.settings import TrainingSettings
    from federated_learning.training import Chosen, Trainer

Data = Annotated[Path, typer.Option(help="Folder of images.", file_okay=False, exists=True)]
Manifest = Annotated[
    Path | None, typer.Option(help="CSV: path or file, label, patient, role; class folders without.", dir_okay=False)
]
Hospitals = dict[str, tuple["LazyImages", "Labels"]]


def train_centralised(
    *,
    data: Data,
    manifest: Manifest = None,
    output: Annotated[Path, typer.Option(help="Folder for checkpoints; the same one again resumes.", file_okay=False)],
    training_role: Annotated[list[str] | None, typer.Option(help="Role to train on; repeat for several.")] = None,
    validation_role: Annotated[str, typer.Option(help="Role to choose the epoch on.")] = "dev_val",
    recipe: Annotated[Path | None, typer.Option(help="JSON of training settings, instead of ours.")] = None,
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
    description: Annotated[Path | None, typer.Option(help="JSON for another model than pediatric pneumonia.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train in one place: on the pooled images of all roles, of one hospital, or by hospital without a network.

    What federated training is compared with. Mean and standard deviation of the pixels are those of all images.
    """
    import torch

    from federated_learning.publication import PEDIATRIC_PNEUMONIA
    from federated_learning.recipe import PEDIATRIC_PNEUMONIA_RECIPE
    from federated_learning.records import RunKind, RunRecord, read_description
    from federated_learning.settings import read_settings, read_stages

    torch.set_num_threads(threads)
    described = PEDIATRIC_PNEUMONIA if description is None else read_description(description)
    if described.input.height != described.input.width:
        raise ConfigurationError("training needs square images: give the description equal height and width")
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
    settings = _for_images(base, described, changes)
    record = RunRecord(
        settings=settings,
        description=described,
        training_roles=tuple(training_role or ("dev_train_A", "dev_train_B", "dev_train_C")),
        validation_role=validation_role,
        kind=RunKind.FEDERATED if by_role else RunKind.HOSPITAL if alone else RunKind.CENTRALISED,
    )
    _train(record, data=data, manifest=manifest, output=output)


def _for_images(settings: TrainingSettings, described: Description, changes: Mapping[str, object]) -> TrainingSettings:
    """The settings with those changes that are not None, for a network of the description's channels and classes."""
    from federated_learning.settings import changed

    given = {name: value for name, value in changes.items() if value is not None}
    settings = changed(settings, channels=described.input.channels, classes=len(described.classes), **given)
    if settings.stages[-1].size != described.input.height:
        raise ConfigurationError(
            f"the last stage must be at the model's size, {described.input.height}: change --stages or the recipe"
        )
    return settings


def _train(record: RunRecord, *, data: Path, manifest: Path | None, output: Path) -> None:
    from rich.console import Console

    from federated_learning.data_source import check_disjoint_patients, open_source, prepare
    from federated_learning.records import RoundRecord, append_round, write_run
    from federated_learning.training import EpochResult, fit, read_chosen, trainer_of

    console = Console(stderr=True)
    source = open_source(data, classes=record.description.classes, table=manifest)
    check_disjoint_patients(source.examples(*record.training_roles), source.examples(record.validation_role))
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar(console) as bar:
        reading = bar.add_task("reading")

        def read(done: int, everything: int) -> None:
            bar.update(reading, completed=done, total=everything)

        record, hospitals = _hospitals(record, source, cache=output, progress=read)
        held_out = prepare(source, [record.validation_role], record.description.input, cache=output, progress=read)
        console.print(f"{sum(len(found) for _, found in hospitals.values())} images to train on")
        trainer = trainer_of(record.settings, hospitals)
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
    console.print(f"best {record.validation_role} accuracy {best:.4f}; publish it with: federated-learning publish")


def _hospitals(
    record: RunRecord, source: DataSource, *, cache: Path, progress: Callable[[int, int], None]
) -> tuple[RunRecord, Hospitals]:
    """Images and labels by hospital, normalised by the statistics of all of them, and the record with these."""
    from federated_learning.data_source import prepare
    from federated_learning.data_statistics import mean_and_deviation, pixel_sums
    from federated_learning.records import RunKind

    apart = record.kind is RunKind.FEDERATED
    groups = [(role,) for role in record.training_roles] if apart else [record.training_roles]
    names = [f"hospital-{letter}" for letter in ascii_lowercase[: len(groups)]] if apart else [""]
    found = [prepare(source, roles, record.description.input, cache=cache, progress=progress) for roles in groups]
    pictures = (picture[np.newaxis] for prepared in found for picture in prepared.images.pixels)
    mean, deviation = mean_and_deviation(pixel_sums(pictures))
    statistics = {"mean": mean, "standard_deviation": deviation}
    described = record.description.model_copy(update={"input": record.description.input.model_copy(update=statistics)})
    hospitals = {
        name: (prepared.images.with_statistics(mean, deviation), prepared.labels)
        for name, prepared in zip(names, found, strict=True)
    }
    return record.model_copy(update={"description": described}), hospitals


def _federation(
    record: RunRecord, trainer: Trainer, chosen: Chosen, hospitals: Mapping[str, tuple[LazyImages, Labels]]
) -> FederationRecord | None:
    from federated_learning.data_statistics import class_counts
    from federated_learning.records import FederationRecord, RunKind

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


def progress_bar(console: Console) -> Progress:
    """Bars with the time passed and left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    left = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), *left, console=console)
