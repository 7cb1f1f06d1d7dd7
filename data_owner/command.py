"""`data-owner`: submit images and read the answers.

data-owner diagnose chest.dcm --config data-owner.toml
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.command_line import console, new_app, one_line, run, say
from contract.errors import EncryptedInferenceError
from contract.settings import load_settings
from contract.ticket import Engine

if TYPE_CHECKING:
    from contract.api import ModelEntry
    from data_owner.session import Diagnoser

app = new_app("The data owner: submits radiographs that nobody else can read. Research use only, not a medical device.")


@app.callback()
def _group() -> None:
    """The data owner: submits radiographs that nobody else can read."""


@app.command()
def diagnose(
    files: Annotated[list[Path], typer.Argument(metavar="FILE ...", help="DICOM, PNG or JPEG.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    model: Annotated[str | None, typer.Option(help="Needed where several models are offered.")] = None,
    engine: Annotated[Engine, typer.Option(help="How the network is evaluated on shares.")] = Engine.MASKED,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, on stdout.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Submit images with warnings that ask to confirm.")] = False,
) -> None:
    """Submit images one after the other. A file that fails does not stop the next; the worst exit status is kept."""
    from data_owner.settings import DataOwnerSettings

    settings = load_settings(DataOwnerSettings, config)
    with console().status("starting"):
        import torch

        from data_owner.session import Diagnoser
        from inference_service.client import InferenceServiceClient
        from secure_computation.engines.choosing import warm_up

        torch.set_num_threads(settings.threads)
        warm_up(engine)  # takes seconds: before the first session, not in it
    front_end = settings.inference_service
    statuses = [0]
    with InferenceServiceClient(front_end.url, front_end.api_key, authority=front_end.authority) as client:
        diagnoser = Diagnoser(settings, client)
        entry = diagnoser.choose_model(model)
        for path in files:
            try:
                _diagnose_one(diagnoser, path, entry, engine=engine, as_json=as_json, force=force)
            except EncryptedInferenceError as error:
                say(f"data-owner: {path}: {one_line(error)}")
                statuses.append(error.exit_status)
    if max(statuses):
        sys.exit(max(statuses))


def _diagnose_one(
    diagnoser: "Diagnoser", path: Path, entry: "ModelEntry", *, engine: Engine, as_json: bool, force: bool
) -> None:
    from data_owner.presentation import print_diagnosis, shown_progress

    with shown_progress(console()) as progress:
        diagnosis = diagnoser.diagnose(path, entry, engine=engine, force=force, progress=progress)
    if as_json:
        typer.echo(diagnosis.model_dump_json())
    else:
        from rich.console import Console

        print_diagnosis(Console(highlight=False), diagnosis, entry.card)


def main() -> None:
    """Entry point of `data-owner`."""
    run(app, name="data-owner")
