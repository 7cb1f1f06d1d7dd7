"""`scripts/bench report`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import Timeout
from benchmarks.configuration import check_save_folder
from benchmarks.figures import README, RESULTS
from plumbing.command_line import say


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
    from benchmarks.document.parts import Plan, measure_parts, parse_parts
    from benchmarks.document.writing import PAGE, write

    chosen, anew = parse_parts(only, option="--only"), parse_parts(again, option="--again")
    if not write_only:
        check_save_folder(save)
        plan = Plan(model=model, runs=runs, timeout_seconds=timeout)
        measure_parts(plan, save, only=chosen, again=anew)
    target = page or PAGE
    write(save, target)
    say(f"wrote {target.name}")
    if page is None and save == RESULTS:
        figures.write()
        say(f"wrote the figures of {README.name}")
