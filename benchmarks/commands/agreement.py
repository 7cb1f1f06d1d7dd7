"""`scripts/bench agreement`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.giving import check_file, give
from benchmarks.commands.options import OneModel, SaveFile
from benchmarks.configuration import find_model
from plumbing.command_line import console


def agreement(
    images: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER ...", help="DICOM, PNG or JPEG.")],
    model: OneModel = "resnet18",
    manifest: Annotated[Path | None, typer.Option(help="CSV that says which files of one folder to take.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="With --manifest: the rows to take; may be repeated.")] = None,
    *,
    save: SaveFile = None,
) -> None:
    """How often the masked engine's label is the plain model's, over many images, and how far logits are apart."""
    from benchmarks.agreement import chosen_images, measure_agreement
    from benchmarks.progress import shown_count

    folder = find_model(model)
    check_file(save)
    chosen = chosen_images(images, folder, manifest=manifest, roles=tuple(role or ()))
    with shown_count(console(), "images") as on_image:
        result = measure_agreement(folder, chosen, on_image)
    give(result, None, save)
