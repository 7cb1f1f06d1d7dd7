"""The comparison for people."""

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import PeerRow, Peers, Status
from contract.errors import ComputationFailed

WIDTH = 150
"""Columns of text that the table needs at most."""


def print_peers(result: Peers) -> None:
    """Print a table for each size, and whom each peer trusts, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH  # a file or a pipe has none, and 80 would cut figures off
    for size in dict.fromkeys(row.size for row in result.rows):
        rows = [row for row in result.rows if row.size == size]
        table = Table(
            title=f"{result.model} {result.model_version}, {size} x {size}, batch 1, medians after a warm-up",
            caption=f"{result.machine.processor}, {result.machine.cores} core(s), {result.threads} thread(s) a party; "
            f"load when it began: {result.machine.load_average:.1f}",
        )
        table.add_column("peer")
        for heading in ("runs", "online s", "(range)", "offline s", "online MB", "offline MB", "trips", "max error"):
            table.add_column(heading, justify="right")
        table.add_column("label")
        table.add_column("peak memory, MB")
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)
    for row in {row.peer: row for row in result.rows}.values():
        console.print(f"{row.peer}: {row.system}. {row.trust}", markup=False)
    for row in (row for row in result.rows if row.status is not Status.MEASURED):
        console.print(f"{row.peer}, {row.size} x {row.size}: {row.status.value}: {row.reason}", markup=False)


def tell_doubtful(result: Peers) -> None:
    """Raise ComputationFailed where a peer failed or its outputs differ: the exit status must not hide it."""
    doubtful = ", ".join(f"{row.peer} at {row.size} ({row.status.value})" for row in result.doubtful)
    if doubtful:
        raise ComputationFailed(f"not every peer answered as onnxruntime does: {doubtful}; the rows say more")


def _cells(row: PeerRow) -> list[str]:
    if row.online_seconds is None:
        return [row.peer, "0", row.status.value]
    online = row.online_seconds
    memory = "\n".join(f"{party} {size / 1e6:,.0f}" for party, size in row.peak_rss_bytes.items())
    return [
        row.peer,
        str(row.runs),
        f"{online.median:.3g}",
        f"{online.smallest:.3g} - {online.largest:.3g}",
        _figure(row.offline_seconds.median if row.offline_seconds else None),
        _megabytes(row.online_bytes),
        _megabytes(row.offline_bytes),
        "-" if row.one_way_trips is None else str(row.one_way_trips),
        _figure(row.max_logit_error),
        "same" if row.label_equal else "DIFFERENT",
        memory,
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.1f}"
