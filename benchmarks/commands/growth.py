"""`scripts/bench growth`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.configuration import find_model, parse_sides
from contract.command_line import console


def growth(
    sides: Annotated[
        str, typer.Option(help="Sides of square pictures in pixels, separated by commas.")
    ] = "64,128,224,448",
    model: Annotated[str, typer.Option(help="resnet18, or a folder with model.onnx and card.json.")] = "resnet18",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each size, after a warm-up.")] = 3,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")] = 600,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
) -> None:
    """How the masked engine's cost grows with the picture."""
    from benchmarks.growth import measure_growth

    chosen = parse_sides(sides)
    folder = find_model(model)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, console().status("starting") as status:
        result = measure_growth(
            folder,
            Path(name),
            sides=chosen,
            runs=runs,
            timeout_seconds=timeout,
            on_side=lambda side: status.update(f"{side} x {side} pixels, of {sides}"),
        )
    sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    if save is not None:
        save.write_text(result.model_dump_json(indent=2) + "\n")
