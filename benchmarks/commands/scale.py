"""`scripts/bench scale`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.giving import check_file, give
from benchmarks.commands.options import AsJson, OneModel, SaveFile
from benchmarks.configuration import MODELS, find_model
from contract.errors import CallerError
from plumbing.command_line import console

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.scale import Scale


def scale(
    sessions: Annotated[str, typer.Option(help="How many at once, rising, separated by commas.")] = "1,2,4,8",
    model: OneModel = "resnet18",
    *,
    images: Annotated[int, typer.Option(min=1, max=100, help="Of each hospital at each level.")] = 4,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one level may take.")] = 600,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """Several hospitals at once against one model owner, with material dealt on demand and from stock."""
    from benchmarks.progress import shown_steps
    from benchmarks.scale import measure_scale, parse_sessions

    chosen = parse_sessions(sessions)
    if model in MODELS and model != "resnet18":
        raise CallerError(f"--model {model} is not measured here: give resnet18 or a folder")
    folder = find_model(model)
    check_file(save)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        result = measure_scale(
            folder, Path(name), sessions=chosen, images=images, timeout_seconds=timeout, on_step=on_step
        )
    give(result, None if as_json else scale_table(result), save)


def scale_table(result: "Scale") -> "Table":
    """Throughput, latency and memory by how many work at once."""
    from rich.table import Table

    stocking = "; ".join(f"{one.items_per_minute:.3g} at {one.sessions}" for one in result.stocking)
    table = Table(
        title=f"{result.model} {result.model_version}, {result.height} x {result.width}, {result.images_per_session} "
        "image(s) a hospital",
        caption=f"Items stocked a minute, by hospitals at once: {stocking}. {result.machine.processor}, "
        f"{result.machine.cores} core(s), {result.threads} thread(s) a party; load when it began: "
        f"{result.machine.load_average:.1f}",
    )
    for heading in ("at once", "material", "images a minute", "seconds an image, p50", "p95", "online s, p50", "p95"):
        table.add_column(heading, justify="left" if heading == "material" else "right")
    table.add_column("peak memory so far, MB")
    for level in result.levels:
        table.add_row(
            f"{level.sessions}",
            "from stock" if level.stocked else "on demand",
            f"{level.images_per_minute:.3g}",
            f"{level.latency_seconds.median:.3g}",
            f"{level.latency_seconds.p95:.3g}",
            f"{level.online_seconds.median:.3g}",
            f"{level.online_seconds.p95:.3g}",
            "\n".join(f"{party} {size / 1e6:,.0f}" for party, size in level.peak_rss_bytes.items()),
        )
    return table
