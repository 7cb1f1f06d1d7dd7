"""`federated-learning`: train, choose, evaluate and publish models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federated_learning.federated_commands import COMMANDS, write_publish_command
from federated_learning.report import PAGE, RESULTS
from plumbing.command_line import new_program, run, say

if TYPE_CHECKING:
    from federated_learning.data_source.examples import DataSource

app = new_program("Train models and publish them. Nothing here runs when images are diagnosed.")

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
Results = Annotated[Path, typer.Option(help="Folder of result files.", file_okay=False)]
Threads = Annotated[int, typer.Option(min=1, max=256)]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="The same seed on the same machine repeats the run.")
]


@app.command()
def evaluate(
    *,
    run: Annotated[
        Path | None, typer.Option(help="Output folder of a finished training.", file_okay=False, exists=True)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="In its place: folder of a published model.", file_okay=False, exists=True)
    ] = None,
    name: Annotated[str, typer.Option(help="What the report calls it, say federated-secure.")],
    data: Data,
    manifest: Manifest = None,
    validation_role: Annotated[
        str | None, typer.Option(help="With --model: the role that it was chosen on; else validation.")
    ] = None,
    test_role: ReportedRoles = None,
    results: Results = RESULTS,
    threads: Threads = 2,
) -> None:
    """Write what a run, or a published model, predicts for each example of validation and test roles."""
    import torch
    from pydantic import TypeAdapter, ValidationError

    from contract.base import Name
    from contract.errors import CallerError
    from contract.model_card import read_card
    from federated_learning.report import evaluating
    from federated_learning.report.results import write_result
    from federated_learning.run_records import read_run

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise CallerError("--name takes lower case letters, digits and hyphens: it names the result file") from error
    torch.set_num_threads(threads)
    if run is not None and model is None:
        source, roles = _open(data, read_run(run).description.classes, manifest, test_role)
        result = evaluating.evaluate(run, name=name, source=source, test_roles=roles, progress=typer.echo)
    elif model is not None and run is None:
        source, roles = _open(data, read_card(model / "card.json").classes, manifest, test_role)
        result = evaluating.evaluate_published(
            model, name=name, source=source, validation_role=validation_role, test_roles=roles, progress=typer.echo
        )
    else:
        raise CallerError("give either --run, a training's folder, or --model, a published model's")
    typer.echo(f"written: {write_result(result, results)}")


@app.command()
def report(
    *,
    results: Annotated[Path, typer.Option(help="Folder of result files.", file_okay=False, exists=True)] = RESULTS,
    page: Annotated[Path, typer.Option(help="Where the page is written; plots go beside it.", dir_okay=False)] = PAGE,
) -> None:
    """Compare all evaluated runs: a page with tables and plots, made from their result files alone."""
    from federated_learning.report.page import write

    write(results, page)
    typer.echo(f"written: {page}")


@app.command()
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
    seed: Seed = None,
    bfloat16: Annotated[bool | None, typer.Option(help="Faster on processors with AVX-512 BF16 or AMX.")] = None,
    alone: Annotated[bool, typer.Option(help="The images are of one hospital, which trains for itself.")] = False,
    by_role: Annotated[bool, typer.Option(help="Each role is a hospital; updates are averaged.")] = False,
    description: DescriptionOption,
    threads: Threads = 2,
) -> None:
    """Train in one place: on the pooled images of all roles, of one hospital, or by hospital without a network.

    What federated training is compared with. Mean and standard deviation of the pixels are those of all images.
    """
    import torch

    from federated_learning.data_source.examples import choose_training_roles, choose_validation_role
    from federated_learning.data_source.preparing import open_source
    from federated_learning.in_process import run_training
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
        training_roles=choose_training_roles(source, training_role),
        validation_role=choose_validation_role(source, validation_role),
        kind=RunKind.FEDERATED if by_role else RunKind.HOSPITAL if alone else RunKind.CENTRALISED,
    )
    run_training(record, source, output=output)
    say(f"publish it with: {write_publish_command(output, data=data, manifest=manifest)}")


for command in COMMANDS:
    app.command()(command)


@app.command()
def publish(
    *,
    run: Annotated[Path, typer.Option(help="Output folder of a finished training.", file_okay=False, exists=True)],
    data: Data,
    manifest: Manifest = None,
    model: Annotated[Path, typer.Option(help="Folder for model.onnx, card.json and README.md.", file_okay=False)],
    test_role: ReportedRoles = None,
    threads: Threads = 2,
) -> None:
    """Export the chosen epoch, fit its temperature, and report it once on the test roles."""
    import torch

    from federated_learning import publication
    from federated_learning.run_records import read_run

    torch.set_num_threads(threads)
    source, roles = _open(data, read_run(run).description.classes, manifest, test_role)
    publication.publish(run, model, source=source, test_roles=roles, progress=typer.echo)
    typer.echo(f"written: {model}")


@app.command()
def measure(
    *,
    model: Annotated[Path, typer.Option(help="Folder with model.onnx and card.json.", file_okay=False, exists=True)],
    data: Data,
    manifest: Manifest = None,
    data_set: Annotated[str, typer.Option(help="What the images are, as the card shall say it.")],
    validation_role: Annotated[
        str | None, typer.Option(help="Role to fit temperature and threshold on; else validation.")
    ] = None,
    test_role: ReportedRoles = None,
) -> None:
    """Measure a published model again: temperature, threshold of uncertainty and figures; its card is rewritten."""
    from contract.model_card import read_card
    from federated_learning import publication
    from federated_learning.data_source.examples import choose_validation_role

    card = read_card(model / "card.json")
    source, roles = _open(data, card.classes, manifest, test_role)
    role = choose_validation_role(source, validation_role)
    publication.measure(
        card, model, source=source, data_set=data_set, validation_role=role, test_roles=roles, progress=typer.echo
    )
    typer.echo(f"written: {model}")


def _open(
    data: Path, classes: Sequence[str], manifest: Path | None, test_role: list[str] | None
) -> tuple[DataSource, tuple[str, ...]]:
    """The images, and the roles to report on."""
    from federated_learning.data_source.examples import choose_test_roles
    from federated_learning.data_source.preparing import open_source

    source = open_source(data, classes=classes, table=manifest)
    return source, choose_test_roles(source, test_role)


def main() -> None:
    """Entry point: errors of ours become one line on stderr and their own exit status."""
    run(app, name="federated-learning")


if __name__ == "__main__":
    main()
