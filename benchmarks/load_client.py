"""A hospital that does on demand what `data-owner diagnose` and `data-owner prepare` do, as often as it is asked to.

    python -m benchmarks.load_client --config data-owner.toml --data-folder FOLDER --image FILE

It diagnoses the image once, so that weights are fetched and everything is warm, and prints a report. Then it answers
each request, a line of JSON on stdin, with a report, a line of JSON on stdout, and ends when stdin does. Many of them
wait for one starting signal this way, which command lines that start and end cannot.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from contract.base import Strict
from contract.errors import EncryptedInferenceError
from contract.ticket import Engine
from plumbing.command_line import one_line, say
from plumbing.settings import load_settings

if TYPE_CHECKING:
    from contract.api import ModelEntry
    from data_owner.session import Diagnoser


class Request(Strict):
    """What to do, and how often, one after the other."""

    what: Literal["diagnose", "stock"]
    count: Annotated[int, Field(ge=1, le=1000)]


class Report(Strict):
    """What each repetition took."""

    seconds: tuple[float, ...]
    """From the file to the result, or from asking for an item to its being stocked."""
    online_seconds: tuple[float, ...]
    """Of diagnoses; empty for stocking."""
    stocked: int
    """How many diagnoses took their material from stock."""


def main() -> None:
    """Serve requests until stdin ends."""
    parser = argparse.ArgumentParser(prog="hospital", description="Diagnose one image as often as stdin asks.")
    parser.add_argument("--config", type=Path, required=True, help="of data-owner")
    parser.add_argument("--data-folder", type=Path, required=True, help="replaces the configured one")
    parser.add_argument("--image", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        _serve(arguments.config, arguments.data_folder, arguments.image)
    except EncryptedInferenceError as error:
        say(f"hospital: {one_line(error)}")
        sys.exit(error.exit_status)


def _serve(config: Path, data_folder: Path, image: Path) -> None:
    import torch

    from data_owner.session import Diagnoser
    from data_owner.settings import DataOwnerSettings
    from inference_service.client import InferenceServiceClient
    from secure_computation.engines.choosing import warm_up

    settings = load_settings(DataOwnerSettings, config).model_copy(update={"data_folder": data_folder})
    torch.set_num_threads(settings.threads)
    warm_up(Engine.MASKED)
    with InferenceServiceClient.of(settings.inference_service) as client:
        diagnoser = Diagnoser(settings, client)
        entry = diagnoser.choose_model(None)
        _reply(_repeat(diagnoser, entry, image, Request(what="diagnose", count=1)))
        for line in sys.stdin:
            _reply(_repeat(diagnoser, entry, image, Request.model_validate_json(line)))


def _repeat(diagnoser: "Diagnoser", entry: "ModelEntry", image: Path, request: Request) -> Report:
    from data_owner.progress import Progress

    silent = Progress(stage=lambda _words: None, layer=lambda _index, _total, _name: None)
    walls, found = [], []
    for _ in range(request.count):
        started = time.perf_counter()
        if request.what == "stock":
            diagnoser.stock(entry, engine=Engine.MASKED, progress=silent)
        else:
            found.append(diagnoser.diagnose(image, entry, engine=Engine.MASKED, force=True, progress=silent))
        walls.append(time.perf_counter() - started)
    return Report(
        seconds=tuple(walls),
        online_seconds=tuple(one.seconds.online for one in found),
        stocked=sum(one.stocked for one in found),
    )


def _reply(report: Report) -> None:
    sys.stdout.write(report.model_dump_json() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
