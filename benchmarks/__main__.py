"""`scripts/bench`: measures what is built, beside what others built."""

import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from benchmarks.configuration import MODELS, Configuration, check_save_folder, find_model, parse_engines, parse_sides
from benchmarks.engines import NAMES, openers
from benchmarks.variants import MAX_POOL, write_with_max_pool
from contract.command_line import console, new_app, run, say
from contract.model_card import read_card

if TYPE_CHECKING:
    from benchmarks.case import Case
    from benchmarks.measuring import Run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = new_app("Benchmarks. benchmarks/README.md says what is measured and how.")


@app.callback()
def _group() -> None:
    """Benchmarks. benchmarks/README.md says what is measured and how."""


@app.command()
def latency(
    engines: Annotated[str, typer.Option(help="Which to measure, in turns, separated by commas.")] = ",".join(NAMES),
    model: Annotated[str, typer.Option(help="resnet18, resnet18-maxpool, or a folder.")] = "resnet18",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each engine, after a warm-up.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the phantom radiograph that is submitted.")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")] = 600,
    save: Annotated[Path | None, typer.Option(help="Also write every run to a JSON file in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an engine, alone on stdout.")] = False,
) -> None:
    """Seconds, traffic and memory of one image from a hospital's file to its result: medians, engines in turns."""
    folder = find_model(model)
    configuration = Configuration(
        model=model if model in MODELS else read_card(folder / "card.json").name,
        model_folder=folder,
        engines=parse_engines(engines, NAMES),
        runs=runs,
        seed=seed,
        timeout_seconds=timeout,
        save_folder=save,
    )
    if save is not None:
        check_save_folder(save)
    _benchmark(configuration, as_json=as_json)


@app.command()
def agreement(
    images: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER ...", help="DICOM, PNG or JPEG.")],
    model: Annotated[str, typer.Option(help="resnet18, or a folder with model.onnx and card.json.")] = "resnet18",
    manifest: Annotated[Path | None, typer.Option(help="CSV that says which files of one folder to take.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="With --manifest: the rows to take; may be repeated.")] = None,
    *,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
) -> None:
    """How often the masked engine's label is the plain model's, over many images, and how far logits are apart."""
    from benchmarks.agreement import chosen_images, measure_agreement
    from benchmarks.progress import shown_count

    folder = find_model(model)
    chosen = chosen_images(images, folder, manifest=manifest, roles=tuple(role or ()))
    with shown_count(console(), "images") as on_image:
        result = measure_agreement(folder, chosen, on_image)
    sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    if save is not None:
        save.write_text(result.model_dump_json(indent=2) + "\n")


@app.command()
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


@app.command()
def figures() -> None:
    """Put the newest saved results on README's page."""
    from benchmarks.figures import write

    write()


def _benchmark(configuration: Configuration, *, as_json: bool) -> None:
    from rich.console import Console

    from benchmarks import reporting
    from benchmarks.machine import read_machine, read_versions

    machine, versions = read_machine(), read_versions()
    case, runs = _measure(configuration)
    results = reporting.summarise(runs, case, configuration, machine, versions)
    if as_json:
        for result in results:
            sys.stdout.write(result.model_dump_json() + "\n")
    else:
        output = Console(highlight=False)
        if not output.is_terminal:
            output.width = reporting.TABLE_WIDTH  # a file or a pipe has none, and 80 would cut figures off
        reporting.print_table(output, results)
    if configuration.save_folder is not None:
        say(f"every run: {reporting.save(configuration.save_folder, results, runs, case)}")


def _measure(configuration: Configuration) -> "tuple[Case, list[Run]]":
    from benchmarks.case import prepare
    from benchmarks.measuring import measure_in_turns
    from benchmarks.progress import shown_steps

    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        folder = configuration.model_folder
        if configuration.model == MAX_POOL:
            folder = write_with_max_pool(folder, Path(name) / MAX_POOL)
        case = prepare(folder, Path(name), seed=configuration.seed)
        every = openers()
        runs = measure_in_turns(
            case,
            {engine: every[engine] for engine in configuration.engines},
            runs=configuration.runs,
            timeout_seconds=configuration.timeout_seconds,
            on_step=on_step,
        )
    return case, runs


def _stop_once(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that every process is ended; a second signal must not interrupt that."""
    for one in STOP_SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    """Entry point of `scripts/bench`."""
    for one in STOP_SIGNALS:
        signal.signal(one, _stop_once)
    run(app, name="bench")


if __name__ == "__main__":
    main()
