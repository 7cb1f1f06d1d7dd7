"""`python -m tests.faults --faults 10000`: a campaign as long as one likes, with a result file.

Exit status 1: something failed.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import read_machine, read_versions
from tests.faults import campaign
from tests.faults.harness import Trial


def main(
    faults: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000,
    cells: Annotated[int, typer.Option(min=1, help="At once; a stalled one mostly waits.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which messages are struck.")] = 1,
    save: Annotated[Path | None, typer.Option(help="Write the summary here.", dir_okay=False)] = None,
) -> None:
    """Disturb diagnoses and say what came of it."""
    console = Console(stderr=True)
    left = (BarColumn(), MofNCompleteColumn(), TextColumn("left:"), TimeRemainingColumn())
    # Of its own console: the campaign keeps what the servers write.
    with Progress(TextColumn("faults"), *left, console=console) as bar, tempfile.TemporaryDirectory() as folder:
        task = bar.add_task("faults", total=faults)

        def on_trial(trial: Trial) -> None:
            bar.advance(task)
            for failure in trial.failures:
                console.print(f"{trial.scenario.value}; {trial.fault}: {failure}")

        result = campaign.run(Path(folder), faults=faults, cells=cells, seed=seed, on_trial=on_trial)
    for failure in result.failures:
        console.print(f"failure: {failure}")
    console.print(f"{result.struck} faults in {result.seconds:.0f} s, {len(result.failures)} failures")
    if save is not None:
        facts = {"machine": read_machine().model_dump(), "versions": read_versions()}
        save.write_text(json.dumps(result.summary() | facts, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(1 if result.failures else 0)


if __name__ == "__main__":
    typer.run(main)
