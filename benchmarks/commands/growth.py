"""`scripts/bench growth`."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.giving import check_file, give
from benchmarks.commands.options import OneModel, SaveFile, Timeout
from benchmarks.configuration import find_model, parse_sides
from plumbing.command_line import console


def growth(
    sides: Annotated[
        str, typer.Option(help="Sides of square pictures in pixels, separated by commas.")
    ] = "64,128,224,448",
    model: OneModel = "resnet18",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each size, after a warm-up.")] = 3,
    timeout: Timeout = 600,
    save: SaveFile = None,
) -> None:
    """How the masked engine's cost grows with the picture."""
    from benchmarks.growth import measure_growth
    from benchmarks.progress import shown_steps

    chosen = parse_sides(sides)
    folder = find_model(model)
    check_file(save)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        result = measure_growth(
            folder,
            Path(name),
            sides=chosen,
            runs=runs,
            timeout_seconds=timeout,
            on_step=on_step,
        )
    give(result, None, save)
