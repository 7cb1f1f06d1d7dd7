"""`scripts/bench ariann`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.giving import check_file, give
from benchmarks.commands.options import AsJson, SaveFile
from benchmarks.configuration import parse_names
from plumbing.command_line import console

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.ariann import AriannTable, LinkCost, PublishedRow

DEFAULT_LINKS = "loopback,lan,ariann-wan"


def ariann(
    rows: Annotated[str, typer.Option(help="Rows of AriaNN's table, separated by commas; all if left out.")] = "",
    networks: Annotated[str, typer.Option(help="Kinds of link, separated by commas.")] = DEFAULT_LINKS,
    *,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Measured images of each, after a warm-up.")] = 5,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for all images of one row over one link.")] = 900,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """AriaNN's published table beside the masked engine on the same networks, with random weights."""
    from benchmarks.ariann import NETWORKS, Plan, measure_ariann
    from benchmarks.emulated_links import parse_networks
    from benchmarks.progress import shown_steps

    plan = Plan(
        rows=parse_names(rows, NETWORKS, noun="row", option="--rows") if rows else tuple(NETWORKS),
        links=parse_networks(networks),
        runs=runs,
        timeout_seconds=timeout,
    )
    check_file(save)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        result = measure_ariann(Path(name), plan, on_step)
    give(result, None if as_json else ariann_table(result), save)


def ariann_table(result: "AriannTable") -> "Table":
    """Seconds and megabytes of one image: three lines of theirs, then one of ours for each kind of link."""
    from rich.table import Table

    published = result.published
    links = ", ".join(link.words() for link in result.links)
    table = Table(
        title=f"AriaNN as published (batches), and the masked engine (one image, medians of {result.runs})",
        caption=f"AriaNN: CPU {published.cpu_machine}; GPU {published.gpu_machine}; WAN {published.wan}. Ours: "
        f"{result.machine.processor}, {result.machine.cores} core(s), {result.threads} thread(s) a party; load when it "
        f"began: {result.machine.load_average:.1f}. Links: {links}. Random weights. "
        "Batch: AriaNN's seconds for an image times its images. Error: the largest of a logit from "
        "onnxruntime's, beside the largest logit.",
    )
    table.add_column("network", no_wrap=True)
    table.add_column("system, link", no_wrap=True)
    headings = ("offline s", "online s", "(range)", "batch s", "online MB", "offline MB", "trips", "error")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in result.rows:
        for number, line in enumerate(_published_lines(row.published)):
            table.add_row((row.published.title, f"their batch: {row.published.batch}", "")[number], *line)
        for cost in row.ours:
            table.add_row("", f"ours, {cost.link}", *_own_line(cost))
        table.add_section()
    return table


def _published_lines(row: "PublishedRow") -> list[tuple[str, ...]]:
    offline = "" if row.offline_megabytes is None else f"{row.offline_megabytes:,g}"
    return [
        (
            "AriaNN, LAN, CPU",
            f"{row.preprocessing_seconds:g}",
            f"{row.lan_cpu_seconds:g}",
            "",
            f"{row.batch * row.lan_cpu_seconds:.3g}",
            f"{row.online_megabytes:g}",
            offline,
        ),
        ("AriaNN, LAN, GPU", "", f"{row.lan_gpu_seconds:g}", "", f"{row.batch * row.lan_gpu_seconds:.3g}"),
        ("AriaNN, WAN, CPU", "", f"{row.wan_cpu_seconds:g}", "", f"{row.batch * row.wan_cpu_seconds:.3g}"),
    ]


def _own_line(cost: "LinkCost") -> tuple[str, ...]:
    spread = cost.online_seconds_range
    return (
        f"{cost.offline_seconds:.3g}",
        f"{cost.online_seconds:.3g}",
        f"{spread.smallest:.3g} - {spread.largest:.3g}",
        "",
        f"{cost.online_bytes / 1e6:,.2f}",
        f"{cost.offline_bytes / 1e6:,.2f}",
        f"{cost.one_way_trips}",
        f"{cost.max_abs_error:.2g} of {cost.largest_logit:.2g}",
    )
