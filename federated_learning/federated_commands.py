"""The commands of a federated training: keys, the coordinator, a hospital, and all of them on one machine."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federated_learning.centralised_command import write_publish_command
from federated_learning.loopback.arguments import ImageFolder, images_to_train_on
from plumbing.command_line import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from federated_learning.loopback.run import Loopback, LoopbackSettings

Config = Annotated[Path, typer.Option(help="TOML file of settings.", dir_okay=False, exists=True)]


def make_keys(
    *,
    name: Annotated[str, typer.Option(help="The hospital: lower-case letters, digits and hyphens.")],
    folder: Annotated[Path, typer.Option(help="Where its keys are written.", file_okay=False)] = Path("keys"),
) -> None:
    """At a hospital: make its two keys. The file NAME.json is for the coordinator; the others stay here."""
    from federated_learning.rounds.participants import make_hospital_keys

    typer.echo(f"written: {make_hospital_keys(name, folder)}; hand it to the coordinator")


def make_federation(
    *,
    host: Annotated[str, typer.Option(help="Name or address under which hospitals reach the coordinator.")],
    hospital: Annotated[list[Path], typer.Option(help="A hospital's public file; repeat for each.", exists=True)],
    revoke: Annotated[
        list[Path] | None,
        typer.Option(help="Public file of keys that others may know: they are refused from now on.", exists=True),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9092,
    folder: Annotated[Path, typer.Option(help="The coordinator's folder.", file_okay=False)] = Path("coordinator"),
) -> None:
    """At the coordinator: make its certificate, and federation.json for every hospital.

    Keys that a hospital replaces are refused from then on, as those of --revoke are.
    """
    from federated_learning.rounds.participants import make_participants as make
    from federated_learning.rounds.participants import read_participants

    path = make(hospital, folder, host=host, port=port, revoked=revoke or ())
    typer.echo(f"written: {path}; hand it to every hospital")
    typer.echo(f"fingerprint: {read_participants(path).fingerprint}")


def fingerprint(participants: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Print the fingerprint of a federation.json, to compare by telephone."""
    from federated_learning.rounds.participants import read_participants

    read = read_participants(participants)
    typer.echo(f"{', '.join(read.names)}; coordinator {read.coordinator}")
    typer.echo(f"fingerprint: {read.fingerprint}")


def coordinator(*, config: Config) -> None:
    """Run a federated training, or go on with one that was interrupted."""
    from rich.console import Console

    from federated_learning.flower.running import run_coordinator
    from federated_learning.rounds.course import Course
    from federated_learning.rounds.display import Display
    from federated_learning.rounds.participants import read_participants
    from federated_learning.rounds.settings import CoordinatorSettings
    from plumbing.settings import load_settings

    settings = load_settings(CoordinatorSettings, config)
    participants, console = read_participants(settings.federation), Console(stderr=True)
    for line in Course(settings, participants).words():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with Display(console, participants.names) as display:
        run_coordinator(settings, show=display.show, finished=display.finished)
    command = write_publish_command(settings.output, data="IMAGES", manifest="TABLE.csv")
    say(f"finished: {settings.output}; whoever holds images to test on publishes it with: {command}")


def hospital(
    *,
    config: Config,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Take part in a federated training with this hospital's images, until the run is finished."""
    from rich.console import Console

    from federated_learning.flower.processes import end_with_parent
    from federated_learning.flower.running import run_hospital
    from federated_learning.rounds.settings import HospitalSettings
    from plumbing.settings import load_settings

    if with_parent:
        end_with_parent()
    settings, console = load_settings(HospitalSettings, config), Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with _progress(console) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, everything: int) -> None:
            if what not in tasks:
                for old in tasks.values():
                    bar.remove_task(old)
                tasks.clear()
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=everything)

        run_hospital(settings, say=say, progress=advance)


def federate(
    *,
    output: Annotated[
        Path | None, typer.Option(help="Folder for everything; the same one again goes on.", file_okay=False)
    ] = None,
    hospitals: Annotated[int | None, typer.Option(min=3, help="3, or 4 in a smoke run.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.", dir_okay=False, exists=True)] = None,
    description: Annotated[
        str | None, typer.Option(metavar="JSON", help="What the model is: docs/samples/description.json is one.")
    ] = None,
    training_role: Annotated[
        list[str] | None, typer.Option(help="Role to train on, else train, divided by patient; repeat for several.")
    ] = None,
    validation_role: Annotated[str | None, typer.Option(help="Role to choose the round on; else validation.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Small, four hospitals, one falls out: does it all work?")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Folder of images: DATA/label/file.", exists=True)] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV: file, label, patient, role.", exists=True)] = None,
    model: Annotated[Path | None, typer.Option(help="Publish to this folder afterwards.", file_okay=False)] = None,
) -> None:
    """Run a whole federated training on this machine: a process for each hospital, and this one as the coordinator.

    Images are those of --data and --manifest, else of the folder that MEDICAL_DATA names; a smoke run draws pictures
    if there is neither, and without --output it leaves nothing behind.
    """
    described = config is not None or description is not None
    images = images_to_train_on(data, manifest, output=output, smoke=smoke, described=described)
    from federated_learning.loopback.run import Loopback, LoopbackSettings, smoke_settings

    said = {"rounds": rounds, "training_roles": training_role, "validation_role": validation_role}
    count = hospitals or (4 if smoke else 3)
    small = smoke_settings(count) if smoke else LoopbackSettings()
    settings = _loopback_settings(config, images, said, description=description, otherwise=small)
    with tempfile.TemporaryDirectory(prefix="training-") as temporary:
        loopback = Loopback(settings, output or Path(temporary), hospitals=count, images=images)
        _run(loopback)
        if output is not None:
            typer.echo(f"written: {loopback.coordinator_settings.output}")
        if model is not None:
            _publish(loopback, model)
        elif output is not None:
            run = loopback.coordinator_settings.output
            say(f"publish it with: {write_publish_command(run, data=loopback.data, manifest=loopback.manifest)}")


def _run(loopback: "Loopback") -> None:
    from rich.console import Console

    from federated_learning.rounds.display import Display

    console = Console(stderr=True)
    say(f"starting {len(loopback.participants.names)} hospitals and their coordinator (half a minute)")
    with Display(console, loopback.participants.names) as display:
        loopback.run(
            show=display.show,
            finished=display.finished,
            say=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),  # between the bars
        )


def _progress(console: "Console") -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _publish(loopback: "Loopback", model: Path) -> None:
    from federated_learning.data_source import test_roles
    from federated_learning.publication import publish

    source = loopback.source()
    roles = test_roles(source, None)
    publish(loopback.coordinator_settings.output, model, source=source, test_roles=roles, progress=typer.echo)
    typer.echo(f"written: {model}")


def _loopback_settings(
    config: Path | None,
    images: ImageFolder | None,
    said: Mapping[str, Any],
    *,
    description: str | None,
    otherwise: "LoopbackSettings",
) -> "LoopbackSettings":
    """What the file says, or `otherwise`; before it goes what was typed, after it what belongs to the images."""
    from federated_learning.loopback.run import LoopbackSettings
    from federated_learning.recipe import find_description
    from plumbing.settings import load_settings

    settings = otherwise if config is None else load_settings(LoopbackSettings, config)
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items() if value}
    if description is not None:
        typed["description"] = find_description(description)
    own: dict[str, Any] = {}
    if images is not None:
        own = {"training_roles": images.training_roles, "validation_role": images.validation_role}
        own["description"] = images.description and find_description(images.description)
    unsaid = {name: value for name, value in own.items() if getattr(settings, name) is None}
    return settings.model_copy(update=unsaid | typed)


COMMANDS = (make_keys, make_federation, fingerprint, coordinator, hospital, federate)
