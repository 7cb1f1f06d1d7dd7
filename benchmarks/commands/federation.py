"""`scripts/bench federation`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from plumbing.command_line import console


def federation(
    architecture: Annotated[str, typer.Option(help="Network whose updates are added up.")] = "resnet18-normaliser-free",
    hospitals: Annotated[int, typer.Option(min=3, max=6, help="Each a process of this machine.")] = 3,
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Of either kind, after one that does not count.")] = 7,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
) -> None:
    """What secure aggregation adds to a round of a real federation on loopback, beside averaging in the clear."""
    from benchmarks.federation import measure_federation

    with console().status("starting") as status:
        result = measure_federation(
            architecture=architecture, hospitals=hospitals, rounds=rounds, on_step=status.update
        )
    text = result.model_dump_json(indent=2) + "\n"
    sys.stdout.write(text)
    if save is not None:
        save.write_text(text)
