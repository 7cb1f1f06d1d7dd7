"""`scripts/bench latency`."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.options import ALL_ENGINES, Engines, SaveFolder, Seed, Timeout
from benchmarks.configuration import (
    Configuration,
    check_save_folder,
    find_model,
    name_of,
    parse_names,
    parse_numbers,
)
from benchmarks.engines import NAMES
from plumbing.command_line import console, say

if TYPE_CHECKING:
    from benchmarks.reporting import Summary


def latency(
    engines: Engines = ALL_ENGINES,
    model: Annotated[str, typer.Option(help="resnet18, resnet18-maxpool, a folder; or several.")] = "resnet18",
    batch: Annotated[str, typer.Option(help="Images in one evaluation, separated by commas.")] = "1",
    size: Annotated[str, typer.Option(help="Sides in pixels, separated by commas; if left out, the model's.")] = "",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each engine, after a warm-up.")] = 5,
    seed: Seed = 1,
    timeout: Timeout = 600,
    save: SaveFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an engine, alone on stdout.")] = False,
) -> None:
    """Seconds, traffic and memory from a hospital's file to its result: medians, engines in turns."""
    names = [part.strip() for part in model.split(",")]
    cells = [
        Configuration(
            model=name_of(name, folder),
            model_folder=folder,
            engines=parse_names(engines, NAMES, noun="engine", option="--engines"),
            runs=runs,
            seed=seed,
            timeout_seconds=timeout,
            batch=images,
            side=side,
        )
        for name, folder in [(name, find_model(name)) for name in names]
        for side in (parse_numbers(size, option="--size", least=32, most=1024) if size else (None,))
        for images in parse_numbers(batch, option="--batch", least=1, most=64)
    ]
    if save is not None:
        check_save_folder(save)
    for cell in cells:
        summary = measure(cell)
        show(summary, as_json=as_json)
        if save is not None:
            from benchmarks.reporting import save as write

            say(f"every run: {write(save, summary)}")


def measure(configuration: Configuration) -> "Summary":
    """Measure one cell of the grid, with progress on stderr."""
    from benchmarks.case import prepare
    from benchmarks.engines import openers
    from benchmarks.machine import read_machine, read_versions
    from benchmarks.measuring import measure_in_turns
    from benchmarks.progress import shown_steps
    from benchmarks.reporting import summarise
    from benchmarks.variants import variant

    machine, versions = read_machine(), read_versions()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        folder = variant(configuration.model_folder, Path(name), model=configuration.model, side=configuration.side)
        case = prepare(
            folder, Path(name), seed=configuration.seed, rounds=configuration.runs + 1, batch=configuration.batch
        )
        every = openers()
        measured = measure_in_turns(
            case,
            {engine: every[engine] for engine in configuration.engines},
            runs=configuration.runs,
            timeout_seconds=configuration.timeout_seconds,
            on_step=on_step,
        )
        return summarise(measured, case, configuration, machine, versions)


def show(summary: "Summary", *, as_json: bool) -> None:
    """Print the figures on stdout: lines of JSON, or a table."""
    from rich.console import Console

    from benchmarks.reporting import TABLE_WIDTH, print_table

    if as_json:
        for line in (*summary.results, *summary.not_measured):
            sys.stdout.write(line.model_dump_json() + "\n")
        return
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = TABLE_WIDTH  # a file or a pipe has none, and 80 would cut figures off
    print_table(output, summary)
