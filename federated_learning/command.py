"""`federated-learning`: train, choose, evaluate and publish models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import ConfigurationError, EncryptedInferenceError
from federated_learning.report.command import evaluate, report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from federated_learning.records import RunRecord
    from federated_learning.settings import Stage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(evaluate)
app.command()(report)

Data = Annotated[Path, typer.Option(help="Folder of images: DATA/label/file.", file_okay=False, exists=True)]
Manifest = Annotated[Path, typer.Option(help="CSV: file, label, patient, role.", dir_okay=False, exists=True)]


@app.callback()
def _callback() -> None:
    """Train models and publish them. Nothing here runs when images are diagnosed."""


@app.command()
def train_centralised(
    *,
    data: Data,
    manifest: Manifest,
    output: Annotated[Path, typer.Option(help="Folder for checkpoints; the same one again resumes.", file_okay=False)],
    training_role: Annotated[list[str] | None, typer.Option(help="Role to train on; repeat for several.")] = None,
    validation_role: Annotated[str, typer.Option(help="Role to choose the epoch on.")] = "dev_val",
    recipe: Annotated[Path | None, typer.Option(help="JSON of training settings, instead of ours.")] = None,
    architecture: Annotated[str | None, typer.Option(help="resnet18, resnet18-normaliser-free, small-cnn.")] = None,
    pool: Annotated[str | None, typer.Option(help="average or max; a maximum costs more under encryption.")] = None,
    stages: Annotated[str | None, typer.Option(help="Image size x epochs, in order, such as 112x40,224x4.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At the model's size only, instead of stages.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed on the same machine repeats the run.")] = None,
    bfloat16: Annotated[bool | None, typer.Option(help="Faster on processors with AVX-512 BF16 or AMX.")] = None,
    alone: Annotated[bool, typer.Option(help="The images are of one hospital, which trains for itself.")] = False,
    description: Annotated[Path | None, typer.Option(help="JSON for another model than pediatric pneumonia.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train on the pooled images of all roles given: what federated training is compared with."""
    import torch

    from federated_learning.publication import PEDIATRIC_PNEUMONIA
    from federated_learning.recipe import PEDIATRIC_PNEUMONIA_RECIPE
    from federated_learning.records import RunKind, RunRecord, read_description
    from federated_learning.settings import changed, read_settings

    torch.set_num_threads(threads)
    described = PEDIATRIC_PNEUMONIA if description is None else read_description(description)
    if described.input.height != described.input.width:
        raise ConfigurationError("training needs square images: give the description equal height and width")
    if epochs is not None:
        stages = f"{described.input.height}x{epochs}"
    changes = {
        "architecture": architecture,
        "pool": pool,
        "stages": None if stages is None else _stages(stages),
        "seed": seed,
        "precision": None if bfloat16 is None else ("bfloat16" if bfloat16 else "float32"),
        "channels": described.input.channels,
        "classes": len(described.classes),
    }
    settings = changed(
        PEDIATRIC_PNEUMONIA_RECIPE if recipe is None else read_settings(recipe),
        **{name: value for name, value in changes.items() if value is not None},
    )
    if settings.stages[-1].size != described.input.height:
        raise ConfigurationError(
            f"the last stage must be at the model's size, {described.input.height}: change --stages or the recipe"
        )
    record = RunRecord(
        settings=settings,
        description=described,
        training_roles=tuple(training_role or ("dev_train_A", "dev_train_B", "dev_train_C")),
        validation_role=validation_role,
        kind=RunKind.HOSPITAL if alone else RunKind.CENTRALISED,
    )
    _train(record, data=data, manifest=manifest, output=output)


def _stages(text: str) -> tuple[Stage, ...]:
    from federated_learning.settings import Stage

    try:
        sizes_and_epochs = [map(int, part.split("x")) for part in text.split(",")]
        return tuple(Stage(size=size, epochs=epochs) for size, epochs in sizes_and_epochs)
    except ValueError as error:
        raise ConfigurationError("--stages is a list such as 112x40,224x4: image size x epochs") from error


def _train(record: RunRecord, *, data: Path, manifest: Path, output: Path) -> None:
    from rich.console import Console

    from federated_learning.data_source import ManifestSource, check_disjoint_patients, labels_of, load
    from federated_learning.records import RoundRecord, append_round, write_run
    from federated_learning.training import EpochResult, Trainer, fit, with_class_weights

    console = Console(stderr=True)
    specification = record.description.input
    source = ManifestSource(manifest=manifest, folder=data, classes=record.description.classes)
    training, validation = source.examples(*record.training_roles), source.examples(record.validation_role)
    check_disjoint_patients(training, validation)
    output.mkdir(parents=True, exist_ok=True)
    console.print(f"{len(training)} images to train on, {len(validation)} to choose on")
    with _progress(console) as bar:
        reading = bar.add_task("reading", total=len(training) + len(validation))
        images = load(training, specification, cache=output / "images.npy", progress=lambda: bar.advance(reading))
        held_out = load(validation, specification, progress=lambda: bar.advance(reading))
        trainer = Trainer(
            record.settings, [with_class_weights(record.settings, images, labels_of(training))], examples=len(images)
        )
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

        truth = labels_of(validation)
        fit(trainer, images=held_out, labels=truth, folder=output, report=report, progress=advance)
    # Only now: settings that a checkpoint refused must not replace those it was made with.
    write_run(output, record)
    best = max(line.accuracy for line in trainer.history if line.final_size)
    console.print(f"best {record.validation_role} accuracy {best:.4f}; publish it with: federated-learning publish")


@app.command()
def publish(
    *,
    run: Annotated[Path, typer.Option(help="Output folder of a finished training.", file_okay=False, exists=True)],
    data: Data,
    manifest: Manifest,
    model: Annotated[Path, typer.Option(help="Folder for model.onnx, card.json and README.md.", file_okay=False)],
    test_role: Annotated[list[str] | None, typer.Option(help="Role to report on; repeat for several.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Export the chosen epoch, fit its temperature, and report it once on the test roles."""
    import torch

    from federated_learning.data_source import ManifestSource
    from federated_learning.publication import publish as publish_run
    from federated_learning.records import read_run

    torch.set_num_threads(threads)
    source = ManifestSource(manifest=manifest, folder=data, classes=read_run(run).description.classes)
    roles = tuple(test_role or ("dev_test_internal", "dev_test_official"))
    publish_run(run, model, source=source, test_roles=roles, progress=typer.echo)
    typer.echo(f"written: {model}")


@app.command()
def measure(
    *,
    model: Annotated[Path, typer.Option(help="Folder with model.onnx and card.json.", file_okay=False, exists=True)],
    data: Data,
    manifest: Manifest,
    data_set: Annotated[str, typer.Option(help="What the images are, as the card shall say it.")],
    validation_role: Annotated[str, typer.Option(help="Role to fit temperature and threshold on.")] = "dev_val",
    test_role: Annotated[list[str] | None, typer.Option(help="Role to report on; repeat for several.")] = None,
) -> None:
    """Measure a published model anew: temperature, threshold of uncertainty and figures; its card is rewritten."""
    from contract.model_card import read_card
    from federated_learning.data_source import ManifestSource
    from federated_learning.publication import measure as measure_model

    card = read_card(model / "card.json")
    measure_model(
        card,
        model,
        source=ManifestSource(manifest=manifest, folder=data, classes=card.classes),
        data_set=data_set,
        validation_role=validation_role,
        test_roles=tuple(test_role or ("dev_test_internal", "dev_test_official")),
        progress=typer.echo,
    )
    typer.echo(f"written: {model}")


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    left = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), *left, console=console)


def main() -> None:
    """Entry point: errors of ours become one line on stderr and their own exit status."""
    try:
        app()
    except EncryptedInferenceError as error:
        typer.echo(f"federated-learning: {error}", err=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
