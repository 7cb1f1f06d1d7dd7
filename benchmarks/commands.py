"""Subcommands of `scripts/bench`, one function each. They import what measures inside, so that --help is quick."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, TypeVar

import typer

from benchmarks.configuration import (
    MODELS,
    README,
    RESULTS,
    check_save_file,
    check_save_folder,
    configure,
    find_model,
    parse_names,
    parse_numbers,
    parse_sides,
)
from benchmarks.engines import ENGINES, PEERS
from benchmarks.wiring import WIRINGS, find_wiring, parse_wirings
from contract.base import Strict
from contract.errors import CallerError
from plumbing.command_line import refuse_no_number, say

if TYPE_CHECKING:
    from benchmarks.document.blocks import Shown
    from benchmarks.measuring import OnStep

R = TypeVar("R", bound=Strict)

ALL_ENGINES: Final = ",".join(ENGINES)
ALL_PEERS: Final = ",".join(PEERS)
ALL_LINKS: Final = ",".join(WIRINGS)
ARIANN_LINKS: Final = "loopback,lan,ariann-wan"

# Options that several subcommands take, with the same meaning in each.
Engines: TypeAlias = Annotated[str, typer.Option(help="Which to measure, in turns, separated by commas.")]
Model: TypeAlias = Annotated[str, typer.Option(help="resnet18, resnet18-maxpool, or a folder.")]
OneModel: TypeAlias = Annotated[str, typer.Option(help="resnet18, or a folder with model.onnx and card.json.")]
"""For what measures no variant of it."""
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Of the first phantom radiograph; each run has another.")]
Timeout: TypeAlias = Annotated[
    float, typer.Option(min=1, callback=refuse_no_number, help="Seconds that one run may take.")
]
SaveFolder: TypeAlias = Annotated[
    Path | None, typer.Option(help="Also write every run to a new JSON file in this folder.")
]
SaveFile: TypeAlias = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object, alone on stdout.")]


def _measure(measure: "Callable[[Path, OnStep], R]", save: Path | None) -> R:
    """Measure in a temporary folder, with progress on stderr; keep the result in the file `save`."""
    from benchmarks.progress import working_folder

    check_save_file(save)
    with working_folder() as (folder, on_step):
        result = measure(folder, on_step)
    if save is not None:
        save.write_text(result.model_dump_json(indent=2) + "\n")
    return result


def _print(result: Strict, shown: "Shown | None" = None, *, indent: int | None = 2) -> None:
    """Print the table for people, or without one the JSON."""
    if shown is None:
        sys.stdout.write(result.model_dump_json(indent=indent) + "\n")
    else:
        from benchmarks.document.blocks import print_shown

        print_shown(shown)


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
    chosen = parse_names(engines, ENGINES, noun="engine", option="--engines")
    cells = [
        configure(chosen, name.strip(), runs=runs, seed=seed, timeout_seconds=timeout, batch=images, side=side)
        for name in model.split(",")
        for side in (parse_numbers(size, option="--size", least=32, most=1024) if size else (None,))
        for images in parse_numbers(batch, option="--batch", least=1, most=64)
    ]
    if save is not None:
        check_save_folder(save)
    from benchmarks import latency as measuring
    from benchmarks.document.sections import show_summary

    for cell in cells:
        summary = _measure(partial(measuring.measure_latency, cell), None)
        for line in summary.rows if as_json else ():
            _print(line, indent=None)
        if not as_json:
            _print(summary, show_summary(summary))
        if save is not None:
            say(f"every run: {measuring.save(save, summary)}")


def networks(
    engines: Engines = ALL_ENGINES,
    model: Model = "resnet18",
    *,
    names: Annotated[
        str,
        typer.Option(
            "--networks",
            help="Profiles, separated by commas; or 'lan;latency_ms=15,mbit=50'. With +1gbit or +10gbit after it, a "
            "profile is the hospital's own link, and the others have links of that rate.",
        ),
    ] = ALL_LINKS,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs; one if an engine is slow over a link.")] = 3,
    seed: Seed = 1,
    timeout: Timeout = 900,
    save: SaveFolder = None,
    as_json: AsJson = False,
) -> None:
    """Seconds of one image over emulated links, beside what the cost model predicts from loopback."""
    from benchmarks.document.sections import show_links
    from benchmarks.emulated_links import add_predictions, measure_over_links, save_link_results

    wirings = parse_wirings(names)
    chosen = parse_names(engines, ENGINES, noun="engine", option="--engines")
    configuration = configure(chosen, model, runs=runs, seed=seed, timeout_seconds=timeout)
    if save is not None:
        check_save_folder(save)
    result = _measure(partial(measure_over_links, configuration, wirings), None)
    _print(add_predictions(result), None if as_json else show_links(result), indent=None)
    if save is not None:
        say(f"every run: {save_link_results(save, result)}")


def predict(
    network: Annotated[
        list[str] | None,
        typer.Option(help="As one of --networks in `networks`; may be repeated. If left out, all profiles."),
    ] = None,
    model: Annotated[str, typer.Option(help="resnet18 or resnet18-maxpool: one with a saved result.")] = "resnet18",
    *,
    results: Annotated[Path | None, typer.Option(help="Folder of saved latency results, if not the committed.")] = None,
    as_json: AsJson = False,
) -> None:
    """What one image would take over other networks: trips x latency + bytes / bandwidth + computing."""
    from benchmarks.cost_model import predict_from_saved
    from benchmarks.document.sections import show_predictions

    found = predict_from_saved(model, [find_wiring(text) for text in network or WIRINGS], results or RESULTS)
    _print(found, None if as_json else show_predictions(found), indent=None)


def peers(
    peers: Annotated[str, typer.Option(help="Which to compare, separated by commas.")] = ALL_PEERS,
    model: Model = "resnet18",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each peer, after a warm-up.")] = 3,
    seed: Seed = 1,
    timeout: Annotated[
        float, typer.Option(min=1, callback=refuse_no_number, help="Seconds that one run, or one set-up, may take.")
    ] = 900,
    install: Annotated[bool, typer.Option(help="SPU into .venv-spu, if it is missing.")] = True,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """Ours beside what a researcher would use instead: CrypTen, SPU, plaintext. Outputs compared, trust stated."""
    from benchmarks.comparison import measure_peers
    from benchmarks.document.other_systems import show_peers
    from benchmarks.engines import catalogue

    names = parse_names(peers, PEERS, noun="peer", option="--peers")
    known = catalogue(install=install)
    measure = partial(
        measure_peers,
        find_model(model),
        model=model,
        peers={name: known[name] for name in names},
        runs=runs,
        seed=seed,
        timeout_seconds=timeout,
    )
    result = _measure(measure, save)
    _print(result, None if as_json else show_peers(result), indent=None)
    result.require_agreement()


def ariann(
    rows: Annotated[str, typer.Option(help="Rows of AriaNN's table, separated by commas; all if left out.")] = "",
    networks: Annotated[str, typer.Option(help="Kinds of link, separated by commas.")] = ARIANN_LINKS,
    *,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Measured images of each, after a warm-up.")] = 5,
    timeout: Timeout = 900,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """AriaNN's published table beside the masked engine on the same networks, with random weights."""
    from benchmarks.ariann import measure_ariann
    from benchmarks.ariann_networks import NETWORKS
    from benchmarks.document.other_systems import show_ariann

    chosen = parse_names(rows, NETWORKS, noun="row", option="--rows") if rows else tuple(NETWORKS)
    wirings = parse_wirings(networks)
    result = _measure(partial(measure_ariann, chosen, wirings, runs=runs, timeout_seconds=timeout), save)
    _print(result, None if as_json else show_ariann(result))


def scale(
    sessions: Annotated[str, typer.Option(help="How many at once, rising, separated by commas.")] = "1,2,4,8",
    model: OneModel = "resnet18",
    *,
    images: Annotated[int, typer.Option(min=1, max=100, help="Of each hospital at each level.")] = 4,
    timeout: Annotated[
        float, typer.Option(min=1, callback=refuse_no_number, help="Seconds that one level may take.")
    ] = 600,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """Several hospitals at once against one model owner, with material dealt on demand and from stock."""
    from benchmarks.document.sections import show_scale
    from benchmarks.scale import measure_scale, parse_sessions

    chosen = parse_sessions(sessions)
    if model in MODELS and model != "resnet18":
        raise CallerError(f"--model {model} is not measured here: give resnet18 or a folder")
    measure = partial(measure_scale, find_model(model), sessions=chosen, images=images, timeout_seconds=timeout)
    result = _measure(measure, save)
    _print(result, None if as_json else show_scale(result))


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

    chosen = parse_sides(sides)
    measure = partial(measure_growth, find_model(model), sides=chosen, runs=runs, timeout_seconds=timeout)
    _print(_measure(measure, save))


def endurance(
    model: OneModel = "resnet18",
    *,
    hospitals: Annotated[int, typer.Option(min=1, max=32, help="At work at the same time.")] = 4,
    diagnoses: Annotated[int, typer.Option(min=1, max=100_000, help="Of all together.")] = 200,
    minutes: Annotated[
        float,
        typer.Option(min=0, callback=refuse_no_number, help="Spread over so long; what is too much takes longer."),
    ] = 60,
    timeout: Annotated[
        float, typer.Option(min=1, callback=refuse_no_number, help="Seconds that one answer may take.")
    ] = 120,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """Hours of service, shortened: memory, open files and latency over many diagnoses; servers killed at the end."""
    from benchmarks.document.sections import show_endurance
    from benchmarks.endurance import measure_endurance

    measure = partial(
        measure_endurance,
        find_model(model),
        hospitals=hospitals,
        diagnoses=diagnoses,
        minutes=minutes,
        timeout_seconds=timeout,
    )
    result = _measure(measure, save)
    _print(result, None if as_json else show_endurance(result))


def aggregation(
    hospitals: Annotated[int, typer.Option(min=3, max=64, help="Hospitals in the round.")] = 3,
    ring_bits: Annotated[int, typer.Option(help="16 or 32: the ring in which updates are summed.")] = 16,
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured rounds, after one that does not count.")] = 9,
    save: SaveFile = None,
) -> None:
    """What secure aggregation adds to a round of federated training: a ResNet-18, beside plain averaging."""
    from benchmarks.secure_aggregation import measure_aggregation

    if ring_bits not in (16, 32):
        raise CallerError("--ring-bits is 16 or 32")
    chosen: Literal[16, 32] = 16 if ring_bits == 16 else 32
    _print(_measure(partial(measure_aggregation, hospitals=hospitals, ring_bits=chosen, runs=runs), save))


def federation(
    architecture: Annotated[str, typer.Option(help="Network whose updates are added up.")] = "resnet18-normaliser-free",
    hospitals: Annotated[int, typer.Option(min=3, max=6, help="Each a process of this machine.")] = 3,
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Of either kind, after one that does not count.")] = 7,
    save: SaveFile = None,
) -> None:
    """What secure aggregation adds to a round of a real federation on loopback, beside averaging in the clear."""
    from benchmarks.federation import measure_federation

    measure = partial(measure_federation, architecture=architecture, hospitals=hospitals, rounds=rounds)
    _print(_measure(measure, save))


def agreement(
    images: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER ...", help="DICOM, PNG or JPEG.")],
    model: OneModel = "resnet18",
    manifest: Annotated[Path | None, typer.Option(help="CSV that says which files of one folder to take.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="With --manifest: the rows to take; may be repeated.")] = None,
    *,
    save: SaveFile = None,
) -> None:
    """How often the masked engine's label is the plain model's, over many images, and how far logits are apart."""
    from benchmarks.agreement import choose_images, measure_agreement

    folder = find_model(model)
    check_save_file(save)
    chosen = choose_images(images, folder, manifest=manifest, roles=tuple(role or ()))
    _print(_measure(partial(measure_agreement, folder, chosen), save))


def report(
    only: Annotated[str, typer.Option(help="Parts to measure, separated by commas; all if left out.")] = "",
    again: Annotated[str, typer.Option(help="Parts to measure although a result is kept.")] = "",
    model: Annotated[str, typer.Option(help="resnet18, or a folder; for trials.")] = "resnet18",
    *,
    runs: Annotated[int | None, typer.Option(min=1, help="In place of each part's own number; for trials.")] = None,
    timeout: Timeout = 900,
    save: Annotated[Path, typer.Option(help="Folder of kept results.")] = RESULTS,
    page: Annotated[Path | None, typer.Option(help="Write the page here; if left out, docs/benchmarks.md.")] = None,
    write_only: Annotated[bool, typer.Option("--write-only", help="Measure nothing.")] = False,
) -> None:
    """Measure everything that docs/benchmarks.md shows, part by part, and write it; README's figures too."""
    from benchmarks import figures
    from benchmarks.document.page import PAGE, write
    from benchmarks.document.parts import Plan, measure_parts, parse_parts

    chosen, due = parse_parts(only, option="--only"), parse_parts(again, option="--again")
    if not write_only:
        check_save_folder(save)
        plan = Plan(model=model, runs=runs, timeout_seconds=timeout)
        measure_parts(plan, save, only=chosen, again=due)
    target = page or PAGE
    write(save, target)
    say(f"wrote {target.name}")
    if page is None and save == RESULTS:
        figures.write()
        say(f"wrote the figures of {README.name}")


def figures() -> None:
    """Put the newest saved results on README's page."""
    from benchmarks.figures import write

    write()
