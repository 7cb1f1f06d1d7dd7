"""`federated-learning train-centralised`: whole runs in one process."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from plumbing.command_line import say

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
        training_roles=training_roles(source, training_role),
        validation_role=role_to_validate_on(source, validation_role),
        kind=RunKind.FEDERATED if by_role else RunKind.HOSPITAL if alone else RunKind.CENTRALISED,
    )
    run_training(record, source, output=output)
    say(f"publish it with: {write_publish_command(output, data=data, manifest=manifest)}")


def write_publish_command(run: Path, *, data: Path | str, manifest: Path | str | None) -> str:
    """The command that publishes a run, ready to be typed."""
    table = [] if manifest is None else ["--manifest", str(manifest)]
    model = Path(run) / "model"
    return join(
        ["federated-learning", "publish", "--run", str(run), "--data", str(data), *table, "--model", str(model)]
    )
