"""`python -m tests.faults --faults 10000`: a campaign as long as one likes, in parts, with a result file.

The file is written after each part; the same command goes on after the parts that it holds. Exit status 1: something
failed.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import read_machine, read_versions
from tests.faults import campaign
from tests.faults.campaign import Summary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PART = 250
"""Faults of one federation: it grows slower with what its databases hold, and a part is what an interruption loses."""


@app.command()
def main(
    save: Annotated[Path, typer.Option(help="Write the summary here, and go on from it.", dir_okay=False)],
    faults: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000,
    processes: Annotated[int, typer.Option(min=1, help="Parts at once, each with a federation of its own.")] = 2,
    cells: Annotated[int, typer.Option(min=1, help="At once in each; a stalled one mostly waits.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which messages are struck.")] = 1,
) -> None:
    """Disturb diagnoses and say what came of it."""
    kept = json.loads(save.read_text(encoding="utf-8")) if save.exists() else {}
    total = Summary.model_validate({name: kept[name] for name in Summary.model_fields}) if kept else None
    if total is not None and total.seed != seed:
        raise typer.BadParameter(f"{save} is of seed {total.seed}; give --seed {total.seed} or another file")
    starts = range(total.tried if total else 0, faults, PART)
    parts = [(min(PART, faults - start), cells, seed, start) for start in starts]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(campaign.run_part, *zip(*parts, strict=True)):  # in order
            total = total + part if total else part
            facts = {"machine": read_machine().model_dump(), "versions": read_versions()}
            save.write_text(json.dumps(total.model_dump(mode="json") | facts, indent=2) + "\n", encoding="utf-8")
            typer.echo(f"{total.tried} of {faults} tried, {total.faults} struck, {len(total.failures)} failures")
            for failure in part.failures:
                typer.echo(f"failure: {failure}")
    raise typer.Exit(1 if total is not None and total.failures else 0)


if __name__ == "__main__":
    app()
