"""The commands of a federated training: keys, the coordinator, a hospital, and all of them on one machine."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contract.errors import CallerError
from federated_learning.loopback.arguments import ImageFolder, images_to_train_on
from plumbing.command_line import console, say

if TYPE_CHECKING:
    from federated_learning.data_source.examples import DataSource
    from federated_learning.loopback.run import LoopbackSettings

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
    from federated_learning.flower.running import run_coordinator
    from federated_learning.rounds.course import Course
    from federated_learning.rounds.display import Display, print_on
    from federated_learning.rounds.participants import read_participants
    from federated_learning.rounds.settings import CoordinatorSettings
    from plumbing.settings import load_settings

    settings = load_settings(CoordinatorSettings, config)
    participants, output = read_participants(settings.federation), console()
    for line in Course(settings, participants).describe():
        print_on(output)(line)
    with Display(output, participants.names) as display:
        run_coordinator(settings, show=display.show, finished=display.finished)
    command = write_publish_command(settings.output, data="IMAGES", manifest="TABLE.csv")
    say(f"finished: {settings.output}; whoever holds images to test on publishes it with: {command}")


def hospital(
    *,
    config: Config,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Take part in a federated training with this hospital's images, until the run is finished."""
    from federated_learning.flower.processes import end_with_parent
    from federated_learning.flower.running import run_hospital
    from federated_learning.rounds.display import print_on, show_bars
    from federated_learning.rounds.settings import HospitalSettings
    from plumbing.settings import load_settings

    if with_parent:
        end_with_parent()
    settings, output = load_settings(HospitalSettings, config), console()
    with show_bars(output) as advance:
        run_hospital(settings, say=print_on(output), progress=advance)


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
    privacy: Annotated[
        str | None,
        typer.Option(
            metavar="epsilon=3", help="Add noise at each hospital; more: delta=, clip=, sampling_rate=, each_alone=."
        ),
    ] = None,
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
    from federated_learning.rounds.display import Display, print_on

    typed = {"rounds": rounds, "training_roles": training_role, "validation_role": validation_role}
    count = hospitals or (4 if smoke else 3)
    usual = smoke_settings(count) if smoke else LoopbackSettings()
    settings = _complete_settings(config, images, typed, description=description, usual=usual)
    if privacy is not None:
        settings = _add_privacy(settings, privacy, own_training=config is not None, epochs=2 if smoke else 40)
    with tempfile.TemporaryDirectory(prefix="training-") as temporary:
        loopback = Loopback(settings, output or Path(temporary), hospitals=count, images=images)
        names, screen = loopback.participants.names, console()
        for line in loopback.describe_privacy():
            say(line)
        say(f"starting {len(names)} hospitals and their coordinator (half a minute)")
        with Display(screen, names) as display:
            loopback.run(show=display.show, finished=display.finished, say=print_on(screen))
        run = loopback.coordinator_settings.output
        if output is not None:
            typer.echo(f"written: {run}")
        if model is not None:
            _publish(run, model, loopback.source())
        elif output is not None:
            say(f"publish it with: {write_publish_command(run, data=loopback.data, manifest=loopback.manifest)}")


def _publish(run: Path, model: Path, source: "DataSource") -> None:
    from federated_learning.data_source.examples import choose_test_roles
    from federated_learning.publication import publish

    publish(run, model, source=source, test_roles=choose_test_roles(source, None), progress=typer.echo)
    typer.echo(f"written: {model}")


def write_publish_command(run: Path, *, data: Path | str, manifest: Path | str | None) -> str:
    """The command that publishes a run, ready to be typed."""
    table = [] if manifest is None else ["--manifest", str(manifest)]
    model = Path(run) / "model"
    return join(
        ["federated-learning", "publish", "--run", str(run), "--data", str(data), *table, "--model", str(model)]
    )


def _complete_settings(
    config: Path | None,
    images: ImageFolder | None,
    typed: Mapping[str, Any],
    *,
    description: str | None,
    usual: "LoopbackSettings",
) -> "LoopbackSettings":
    """What was typed, else what the file says (`usual` without one), else what belongs to the images."""
    from federated_learning.loopback.run import LoopbackSettings
    from federated_learning.recipe import find_description
    from plumbing.settings import load_settings

    settings = usual if config is None else load_settings(LoopbackSettings, config)
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items() if value}
    if description is not None:
        chosen["description"] = find_description(description)
    own: dict[str, Any] = {}
    if images is not None:
        own = {"training_roles": images.training_roles, "validation_role": images.validation_role}
        own["description"] = images.description and find_description(images.description)
    open_still = {name: value for name, value in own.items() if getattr(settings, name) is None}
    return settings.model_copy(update=open_still | chosen)


def _add_privacy(settings: "LoopbackSettings", aim: str, *, own_training: bool, epochs: int) -> "LoopbackSettings":
    """What was asked for, and training that does not void it unless a file says how to train."""
    from federated_learning.privacy.settings import read_aim
    from federated_learning.recipe import make_private_recipe

    changes: dict[str, Any] = {"privacy": read_aim(aim), "exchange_statistics": False}
    changes["aggregation"] = settings.aggregation.model_copy(update={"ring_bits": 32})
    if settings.description is not None and not (own_training and "training" in settings.model_fields_set):
        changes["training"] = make_private_recipe(settings.description, epochs=epochs)
    return settings.model_copy(update=changes)


def privacy(*, config: Config) -> None:
    """At a hospital: show what its runs have told of its patients so far, and what its limits leave."""
    from federated_learning.privacy.ledger import Ledger
    from federated_learning.privacy.words import describe_ledger
    from federated_learning.rounds.course import Course
    from federated_learning.rounds.participants import read_participants
    from federated_learning.rounds.private_work import plan_charge
    from federated_learning.rounds.settings import HospitalSettings
    from plumbing.settings import load_settings

    settings = load_settings(HospitalSettings, config)
    participants = read_participants(settings.federation)
    course = Course(settings, participants)
    if course.mechanism is None or settings.privacy_limits is None:
        raise CallerError(f"{config}: has no [privacy]: whatever its run tells of a patient has no bound")
    planned = plan_charge(settings, participants, course.mechanism, rounds=len(course.plan()))
    for line in describe_ledger(Ledger(settings.privacy_limits, state=settings.state), planned=planned):
        typer.echo(line)


COMMANDS = (make_keys, make_federation, fingerprint, coordinator, hospital, privacy, federate)
