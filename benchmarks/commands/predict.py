"""`scripts/bench predict`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.options import AsJson
from secure_computation.links import LINKS


def predict(
    network: Annotated[
        list[str] | None,
        typer.Option(help="A profile's name, or latency_ms=15,mbit=50 (one way); may be repeated. All profiles else."),
    ] = None,
    model: Annotated[str, typer.Option(help="resnet18 or resnet18-maxpool: one with a saved result.")] = "resnet18",
    *,
    results: Annotated[Path | None, typer.Option(help="Folder of saved latency results, if not the committed.")] = None,
    as_json: AsJson = False,
) -> None:
    """What one image would take over other networks: trips x latency + bytes / bandwidth + computing."""
    from benchmarks.cost_model import predict_from_saved
    from benchmarks.figures import RESULTS
    from secure_computation.links import find_link

    links = [find_link(text) for text in network] if network else list(LINKS)
    found = predict_from_saved(model, links, results or RESULTS)
    if as_json:
        sys.stdout.write(found.model_dump_json() + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found.model}, one image, predicted", caption=f"from {found.source}, measured on loopback")
    table.add_column("network")
    table.add_column("engine")
    for heading in ("online s", "offline s"):
        table.add_column(heading, justify="right")
    for one in found.predictions:
        table.add_row(one.link.words(), one.engine, f"{one.online_seconds:.3g}", f"{one.offline_seconds:.3g}")
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = 100
    output.print(table)
