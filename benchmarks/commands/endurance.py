"""`scripts/bench endurance`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.giving import check_file, give
from benchmarks.commands.options import AsJson, OneModel, SaveFile
from benchmarks.configuration import find_model
from plumbing.command_line import console

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.endurance import Endurance


def endurance(
    model: OneModel = "resnet18",
    *,
    hospitals: Annotated[int, typer.Option(min=1, max=32, help="At work side by side.")] = 4,
    diagnoses: Annotated[int, typer.Option(min=1, max=100_000, help="Of all together.")] = 200,
    minutes: Annotated[float, typer.Option(min=0, help="Spread over so long; what is too much takes longer.")] = 60,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one answer may take.")] = 120,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """Hours of service in little: memory, open files and latency over many diagnoses, and servers killed at the end."""
    from benchmarks.endurance import measure_endurance
    from benchmarks.progress import shown_steps

    folder = find_model(model)
    check_file(save)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        result = measure_endurance(
            folder,
            Path(name),
            hospitals=hospitals,
            diagnoses=diagnoses,
            minutes=minutes,
            timeout_seconds=timeout,
            on_step=on_step,
        )
    give(result, None if as_json else endurance_table(result), save)


def endurance_table(result: "Endurance") -> "Table":
    """What the servers held at the beginning, in the middle and at the end, and what restarting them took."""
    from rich.table import Table

    latency, restarts = result.latency_seconds, result.restarts
    again = "; ".join(
        f"{one.party} {'killed' if one.killed else 'ended'}: {one.seconds:.2g} s to its start" for one in restarts
    )
    table = Table(
        title=f"{result.model} {result.model_version}: {result.diagnoses} diagnoses of {result.hospitals} hospitals in "
        f"{result.seconds / 60:.0f} minutes",
        caption=f"Seconds an image: p50 {latency.median:.3g}, p95 {latency.p95:.3g}; median of the first tenth "
        f"{result.first_tenth.median:.3g}, of the last {result.last_tenth.median:.3g}. {again}.",
    )
    for heading in ("diagnoses", "server", "MB resident", "open files"):
        table.add_column(heading, justify="left" if heading == "server" else "right")
    chosen = [result.samples[index] for index in sorted({0, len(result.samples) // 2, len(result.samples) - 1})]
    for sample in chosen:
        for party, held in sample.resident_bytes.items():
            table.add_row(str(sample.diagnoses), party, f"{held / 1e6:,.0f}", str(sample.open_files[party]))
    return table
