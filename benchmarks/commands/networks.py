"""`scripts/bench networks`."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.options import ALL_ENGINES, AsJson, Engines, Model, SaveFolder, Seed, Timeout
from benchmarks.configuration import Configuration, check_save_folder, find_model, name_of, parse_names
from benchmarks.engines import NAMES
from plumbing.command_line import console, say
from secure_computation.links import LINKS

if TYPE_CHECKING:
    from benchmarks.emulated_links import Networks
    from secure_computation.links import Link

_ALL = ",".join(link.name for link in LINKS)


def networks(
    engines: Engines = ALL_ENGINES,
    model: Model = "resnet18",
    *,
    names: Annotated[
        str, typer.Option("--networks", help="Profiles, separated by commas; or 'lan;latency_ms=15,mbit=50'.")
    ] = _ALL,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs; one where an engine is slow over a link.")] = 3,
    seed: Seed = 1,
    timeout: Timeout = 900,
    save: SaveFolder = None,
    as_json: AsJson = False,
) -> None:
    """Seconds of one image over emulated links, beside what the cost model foretells from loopback."""
    from benchmarks.emulated_links import parse_networks, save_networks
    from benchmarks.predicting import TABLE_WIDTH, foretell, print_networks

    links = parse_networks(names)
    folder = find_model(model)
    configuration = Configuration(
        model=name_of(model, folder),
        model_folder=folder,
        engines=parse_names(engines, NAMES, noun="engine", option="--engines"),
        runs=runs,
        seed=seed,
        timeout_seconds=timeout,
    )
    if save is not None:
        check_save_folder(save)
    result = _measured(configuration, links)
    shown = foretell(result)
    if as_json:
        sys.stdout.write(shown.model_dump_json() + "\n")
    else:
        from rich.console import Console

        output = Console(highlight=False)
        if not output.is_terminal:
            output.width = TABLE_WIDTH  # a file or a pipe has none, and 80 would cut figures off
        print_networks(output, shown)
    if save is not None:
        say(f"every run: {save_networks(save, result)}")


def _measured(configuration: Configuration, links: "tuple[Link, ...]") -> "Networks":
    from benchmarks.case import prepare
    from benchmarks.emulated_links import measure_networks
    from benchmarks.progress import shown_steps
    from benchmarks.variants import variant

    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        folder = variant(configuration.model_folder, Path(name), model=configuration.model, side=configuration.side)
        case = prepare(folder, Path(name), seed=configuration.seed, rounds=configuration.runs + 1)
        return measure_networks(configuration, case, links, on_step)
