"""`data-owner`: submit images and read the answers.

data-owner diagnose chest.dcm --config data-owner.toml
data-owner diagnose chest.dcm --heat-map chest.png --config data-owner.toml
data-owner diagnose *.dcm --batch 8 --config data-owner.toml
data-owner verify pneumonia --references pictures --config data-owner.toml
data-owner prepare --count 8 --config data-owner.toml
data-owner stock --config data-owner.toml
data-owner inspect chest.dcm --card card.json --preview seen.png
data-owner diagnose chest.png --as-is --config data-owner.toml
data-owner doctor --config data-owner.toml
data-owner ui --config data-owner.toml
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.errors import CallerError, EncryptedInferenceError, ReferenceMismatch
from contract.ticket import BATCHED_ENGINES, MAX_IMAGES, STOCKED_ENGINES, Engine
from data_owner.heat_map_places import choose_places, require_one_polarity
from imaging.isolation.processes import SHARED
from plumbing.command_line import console, new_program, one_line, run, say
from plumbing.output import json_line, write_out
from plumbing.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from contract.api import ModelEntry
    from data_owner.delivery import Delivery
    from data_owner.references import Reader
    from data_owner.session import Diagnoser
    from data_owner.submission import Submission
    from imaging.formats import Polarity

AsIs = Annotated[bool, typer.Option("--as-is", help="You have looked: bright and dark are right as they are.")]
Invert = Annotated[
    bool, typer.Option("--invert", help="You have looked: it is a negative, so bright and dark are to be exchanged.")
]

app = new_program(
    "The data owner: submits radiographs that nobody else can read. Research use only, not a medical device."
)


@app.command()
def diagnose(
    files: Annotated[list[Path], typer.Argument(metavar="FILE ...", help="DICOM, NIfTI, PNG, JPEG or TIFF.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    model: Annotated[str | None, typer.Option(help="Needed if several models are offered.")] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="How the network is evaluated on shares; if left out, the model's first.")
    ] = None,
    *,
    batch: Annotated[
        int,
        typer.Option(min=1, max=MAX_IMAGES, help="Images to evaluate together in one session; masked engine only."),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, on stdout.")] = False,
    as_is: AsIs = False,
    invert: Invert = False,
    force: Annotated[
        bool, typer.Option("--force", help="Submit images with warnings that ask to confirm, as they are.")
    ] = False,
    heat_map: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="New picture of what speaks for the answer; for several FILEs, a folder."),
    ] = None,
) -> None:
    """Submit images, one after the other or in batches. What fails does not stop the next; the worst status is kept."""
    from data_owner.settings import DataOwnerSettings

    SHARED.start()  # decoders load beside what this command loads
    polarity = read_polarity(as_is=as_is, invert=invert)
    settings = load_settings(DataOwnerSettings, config)
    with console().status("starting"):
        from data_owner.delivery import Delivery
        from data_owner.references import ReferenceMixer
        from data_owner.session import Diagnoser
        from data_owner.submission import require_heat_map
        from inference_service.client import InferenceServiceClient
    delivery = Delivery(settings.data_folder, as_json=as_json)
    with InferenceServiceClient.of(settings.inference_service) as client:
        diagnoser = Diagnoser(settings, client)
        entry = diagnoser.choose_model(model)
        chosen = engine or entry.engines[0]
        places: Sequence[Path | None] = [None] * len(files)
        if heat_map is not None:
            require_heat_map(entry.card, chosen)
            places = choose_places(files, heat_map)
        if batch > 1 and chosen not in BATCHED_ENGINES:
            raise CallerError(
                f"the engine '{chosen.value}' evaluates one image a session; use --engine masked or --batch 1"
            )
        with console().status("starting"):
            diagnoser.warm_up(chosen, stocked_for=entry)  # takes seconds: before the first session, not in it
        mixer = ReferenceMixer.of(settings, entry, chosen, tell=lambda words: say(f"data-owner: {words}"))
        readers = [
            (path, partial(diagnoser.read, path, entry, force=force, polarity=polarity, heat_map=place))
            for path, place in zip(files, places, strict=True)
        ]
        queue = mixer.mix(readers, entry, diagnoser.catalog)
        submit = partial(_submit, diagnoser, entry=entry, engine=chosen, delivery=delivery)
        status = max(_read_and_submit(queue, submit, batch=batch), default=0)
    if status:
        sys.exit(status)


def _read_and_submit(
    queue: "Sequence[Reader]", submit: "Callable[[Sequence[Submission]], list[int]]", *, batch: int
) -> Iterator[int]:
    """Exit statuses of what failed; images are read as they are needed."""
    waiting: list[Submission] = []
    for number, (path, read) in enumerate(queue, start=1):
        try:
            waiting.append(read())
        except EncryptedInferenceError as error:
            yield _print_error(path, error)
        if len(waiting) == batch or (waiting and number == len(queue)):
            yield from submit(waiting)
            waiting.clear()


def _submit(
    diagnoser: "Diagnoser",
    submissions: "Sequence[Submission]",
    *,
    entry: "ModelEntry",
    engine: Engine,
    delivery: "Delivery",
) -> list[int]:
    """Run one session and show its results; the exit statuses of what failed."""
    from data_owner.presentation import show_progress

    try:
        with show_progress(console()) as progress:
            results = diagnoser.submit(submissions, entry, engine=engine, progress=progress)
    except EncryptedInferenceError as error:
        return [_print_error(submission.path, error) for submission in submissions]
    return [
        _print_error(submission.path, result)
        if isinstance(result, EncryptedInferenceError)
        else delivery.deliver(result, entry.card)
        for submission, result in zip(submissions, results, strict=True)
        if submission.reference is None or isinstance(result, EncryptedInferenceError)
    ]


def read_polarity(*, as_is: bool, invert: bool) -> "Polarity | None":
    """What the user says about bright and dark in all FILEs of the call; None: nothing. Raises CallerError for both."""
    require_one_polarity(as_is=as_is, invert=invert)
    if not (as_is or invert):
        return None
    from imaging.formats import Polarity

    return Polarity.INVERTED if invert else Polarity.AS_READ


def _print_error(path: Path, error: EncryptedInferenceError) -> int:
    say(f"data-owner: {path}: {one_line(error)}")
    return error.exit_status


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="Needed if several models are offered.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    references: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Its owner's reference pictures; if left out, the settings' `references`."),
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many; one for each picture if left out.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a session, on stdout.")] = False,
) -> None:
    """Send a model its owner's reference pictures and compare the answers. Exit status 3: one differs."""
    from data_owner.settings import DataOwnerSettings

    SHARED.start()  # decoders load beside what this command loads
    settings = load_settings(DataOwnerSettings, config)
    folder = references or settings.references
    if folder is None:
        raise CallerError("give the folder of the model's reference pictures with --references, or in the settings")
    with console().status("starting"):
        from data_owner.presentation import show_progress
        from data_owner.references import find_references
        from data_owner.session import Diagnoser
        from data_owner.verifying import choose_sessions, describe_match, summarise, verify_one
        from inference_service.client import InferenceServiceClient
    with InferenceServiceClient.of(settings.inference_service) as client:
        diagnoser = Diagnoser(settings, client)
        entry = diagnoser.choose_model(model)
        found = find_references(entry, folder)
        with console().status("starting"):
            diagnoser.warm_up(Engine.MASKED, stocked_for=entry)
        done = []
        for one in choose_sessions(found, sessions):
            with show_progress(console()) as progress:
                done.append(verify_one(diagnoser, one, entry, progress))
            if as_json:
                write_out(json_line(done[-1]))
            elif done[-1].matches:
                write_out(describe_match(done[-1], entry))
            else:
                say(f"data-owner: {done[-1].reason}")
    if not as_json:
        for line in summarise(done, entry):
            write_out(line)
    if not all(one.matches for one in done):
        sys.exit(ReferenceMismatch.exit_status)


@app.command()
def prepare(
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many items; one is spent by each diagnosis.")] = 1,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    model: Annotated[str | None, typer.Option(help="Needed if several models are offered.")] = None,
    engine: Annotated[Engine, typer.Option(help="Only the masked engine's material can be stocked.")] = Engine.MASKED,
) -> None:
    """Stock material for later diagnoses, which then need no crypto provider and no preparation. Needs no image."""
    from data_owner.settings import DataOwnerSettings

    if engine not in STOCKED_ENGINES:
        raise CallerError(f"material of the engine '{engine.value}' cannot be prepared ahead; use --engine masked")
    settings = load_settings(DataOwnerSettings, config)
    with console().status("starting"):
        from data_owner.presentation import show_progress
        from data_owner.session import Diagnoser
        from inference_service.client import InferenceServiceClient

    front_end = settings.inference_service
    with InferenceServiceClient.of(front_end) as client:
        diagnoser = Diagnoser(settings, client)
        entry = diagnoser.choose_model(model)
        with console().status("starting"):
            diagnoser.warm_up(engine)
        for number in range(1, count + 1):
            with show_progress(console()) as progress:
                stocked = diagnoser.stock(entry, engine=engine, progress=progress)
            for warning in stocked.warnings:
                say(f"data-owner: {warning.text}")
            megabytes = stocked.bytes.offline / 1e6
            say(
                f"stocked {number} of {count} for {entry.card.name} {entry.version}: {stocked.seconds:.1f} s, "
                f"{megabytes:,.1f} MB"
            )


@app.command()
def stock(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, on stdout.")] = False,
) -> None:
    """List what is stocked: how many items for which model version, and how old."""
    from data_owner.settings import DataOwnerSettings
    from data_owner.stock import open_stock

    settings = load_settings(DataOwnerSettings, config)
    kept = open_stock(settings)
    lines = kept.summarise()
    for warning in kept.warnings():
        say(f"data-owner: {warning}")
    for line in lines:
        if as_json:
            write_out(json_line(line))
            continue
        write_out(
            f"{line.model} {line.version}: {line.items} for {line.model_owner} and {line.crypto_provider}, "
            f"the oldest {_format_age(line.oldest_seconds)} old, kept for {settings.stock_days:g} days"
        )
    if not lines and not as_json:
        write_out("nothing is stocked; see data-owner prepare")


def _format_age(seconds: float) -> str:
    """An age in words: 40 minutes, 5.2 hours, 3.0 days."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="DICOM, NIfTI, PNG, JPEG or TIFF.")],
    card: Annotated[Path | None, typer.Option(help="A model's card.json, to see what it would be given.")] = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG",
            help="New picture: with --card as the model sees it, else whole; both ways if it asks which is right.",
        ),
    ] = None,
    *,
    as_is: AsIs = False,
    invert: Invert = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what a file is and what would be submitted, without any network. Exit status 1: refused, with the reason."""
    SHARED.start()  # decoders load beside what this command loads
    from contract.model_card import read_card
    from data_owner.inspection import format_inspection, inspect_file

    polarity = read_polarity(as_is=as_is, invert=invert)
    inspection = inspect_file(file, None if card is None else read_card(card), preview, polarity)
    if as_json:
        write_out(json_line(inspection))
    elif inspection.readable:
        write_out(format_inspection(inspection, preview))
    if not inspection.readable:
        say(f"data-owner: {file}: {inspection.reason}")
        sys.exit(1)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a check, on stdout.")] = False,
) -> None:
    """Check whether this machine can take part, and say what to tell the IT department. Exit status 1: it cannot."""
    from data_owner.checks import Verdict
    from data_owner.doctor import examine_all, format_check

    failed = False
    for check in examine_all(config):
        write_out(json_line(check) if as_json else format_check(check))
        failed = failed or check.verdict is Verdict.BAD
    if failed:
        sys.exit(1)


@app.command()
def ui(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any free one.")] = 0,
    *,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Serve the clinician's page on this machine: drop images, read answers. Prints its address on stdout."""
    from data_owner.settings import DataOwnerSettings
    from data_owner.ui.server import serve_page

    serve_page(load_settings(DataOwnerSettings, config), port=port, browser=browser)


def main() -> None:
    """Entry point of `data-owner`."""
    run(app, name="data-owner")
