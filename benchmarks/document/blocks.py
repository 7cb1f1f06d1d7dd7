"""A result as people read it: a title, then sentences, tables and plots. Markdown on the page, plain on a terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias, TypeVar

from rich.console import Console
from rich.table import Table as TerminalTable

from benchmarks.machine import Machine
from federated_learning.report.writing import Section, picture, table

Item = TypeVar("Item")
PLOTS = "plots"
"""The folder beside the page that holds its plots."""
TABLE_WIDTH = 150
"""Columns of text that a table needs at most."""


@dataclass(frozen=True)
class Table:
    """Cells are text already."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    @classmethod
    def over(cls, items: Iterable[Item], columns: Mapping[str, Callable[[Item], str]]) -> Self:
        """A row for each item, a cell in it for each column."""
        return cls(tuple(columns), [tuple(show(item) for show in columns.values()) for item in items])


@dataclass(frozen=True)
class Plot:
    """Shown on the page alone."""

    name: str
    words: str
    draw: Callable[[], bytes]


Block: TypeAlias = str | Table | Plot


@dataclass(frozen=True)
class Shown:
    """One result. On the page, where it is kept stands between title and blocks."""

    title: str
    blocks: Sequence[Block]
    machine: Machine | None
    """What it was taken on."""
    details: Sequence[Block] = ()
    """On a terminal alone."""


def to_section(blocks: Sequence[Block]) -> Section:
    """Blocks as a section of the page; those that are empty are left out."""
    plots = {block.name: block.draw() for block in blocks if isinstance(block, Plot)}
    return Section("\n\n".join(_to_markdown(block) for block in blocks if block), plots)


def _to_markdown(block: Block) -> str:
    match block:
        case str():
            return block
        case Table():
            return table(block.headings, block.rows)
        case Plot():
            return picture(PLOTS, block.name, block.words)


def print_shown(shown: Shown) -> None:
    """Print title, tables and sentences on stdout, and the machine."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH  # a file or a pipe has none, and 80 would cut figures off
    for block in (
        shown.title,
        *shown.blocks,
        *shown.details,
        f"Machine: {describe_machine(shown.machine)}." if shown.machine else "",
    ):
        if isinstance(block, Table):
            printed = TerminalTable(*block.headings)
            for row in block.rows:
                printed.add_row(*row)
            console.print(printed)
        elif isinstance(block, str) and block:
            console.print(block.replace("**", ""), markup=False)


def seconds(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def spread(median: float, smallest: float, largest: float) -> str:
    """A median and what it is a median of."""
    return f"{seconds(median)} ({seconds(smallest)} - {seconds(largest)})"


def megabytes(count: float) -> str:
    """Bytes as megabytes of a million."""
    return f"{count / 1e6:,.1f}" if count < 1e8 else f"{count / 1e6:,.0f}"


def describe_machine(machine: Machine) -> str:
    """One line."""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB, {', '.join(machine.flags)}; "
        f"{machine.kernel}; load when it began {machine.load_average:.1f}"
    )
