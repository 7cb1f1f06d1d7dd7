"""`scripts/bench aggregation`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from contract.errors import CallerError
from plumbing.command_line import console


def aggregation(
    hospitals: Annotated[int, typer.Option(min=3, max=64, help="Hospitals in the round.")] = 3,
    ring_bits: Annotated[int, typer.Option(help="16 or 32: the ring in which updates are summed.")] = 16,
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured rounds, after one that does not count.")] = 9,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
) -> None:
    """What secure aggregation adds to a round of federated training: a ResNet-18, beside plain averaging."""
    from benchmarks.secure_aggregation import measure_aggregation

    if ring_bits not in (16, 32):
        raise CallerError("--ring-bits is 16 or 32")
    chosen: Literal[16, 32] = 16 if ring_bits == 16 else 32
    with console().status("starting") as status:
        result = measure_aggregation(
            hospitals=hospitals,
            ring_bits=chosen,
            runs=runs,
            on_run=lambda run: status.update(f"round {run} of {runs}"),
        )
    sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    if save is not None:
        save.write_text(result.model_dump_json(indent=2) + "\n")
