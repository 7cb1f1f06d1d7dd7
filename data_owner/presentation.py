"""How a diagnosis looks on a terminal: progress while it runs, and the answer. For people, on stderr and stdout."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from contract.model_card import ModelCard
from data_owner.diagnosis import Diagnosis
from data_owner.progress import Progress, Stage
from data_owner.wording import Line, explain, list_lines, say_repeats
from plumbing.output import printable

BAR_WIDTH = 30
BESIDE_VERDICTS = 14
LEAST_WITH_BARS = 80
"""Columns of a terminal; a narrower one has the numbers alone."""
FRAME = 8
"""Columns that a panel adds to its title."""

STAGES = {
    Stage.READING: "reading the image",
    Stage.OPENING: "opening a session",
    Stage.FROM_STOCK: "taking material from stock",
    Stage.PREPARING: "preparing offline material",
    Stage.COMPUTING: "computing on shares",
}


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Show stages and layers with the time left while the block runs; nothing if stderr is not a terminal."""
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} layers"),
        TimeElapsedColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bars:
        task = bars.add_task("starting", total=None)

        def layer(index: int, total: int, name: str) -> None:
            bars.update(task, completed=index, total=total, description=f"{STAGES[Stage.COMPUTING]}: {name}")

        def stage(begins: Stage) -> None:
            bars.reset(task, description=STAGES[begins], total=None)

        yield Progress(stage=stage, layer=layer)


def print_diagnosis(console: Console, diagnosis: Diagnosis, card: ModelCard) -> None:
    """Print the answer, what it rests on, and what left this machine."""
    answer, lines = diagnosis.diagnosis, list_lines(diagnosis.diagnosis)
    block = "" if console.width < LEAST_WITH_BARS else "#" if console.options.ascii_only else "█"
    content: Table | Text = _make_bars(lines, block) if lines else Text(printable(answer.words), style="bold")
    # A line of its own, which a terminal wraps: in a frame a long path would cut the answer off.
    console.print(Text(printable(f"{diagnosis.file}: {answer.words}"), style="bold"), soft_wrap=True)
    title = Text(f"{diagnosis.model.name} {diagnosis.model.version}")
    needed = max(len(title), console.measure(content).maximum) + FRAME
    console.print(Panel(content, title=title, width=min(console.width, needed)))
    console.print(printable(explain(answer, diagnosis.calibration)), markup=False)
    for warning in diagnosis.warnings:
        console.print(f"Warning: {printable(warning.words)}", markup=False)
    if diagnosis.heat_map_file is not None:
        text = printable(f"Heat map of {', '.join(answer.mapped)}: {diagnosis.heat_map_file}")
        console.print(text, markup=False, soft_wrap=True)
    console.print(f"Intended use: {printable(card.intended_use)}", markup=False)
    _print_account(console, diagnosis)


def _make_bars(lines: Sequence[Line], block: str) -> Table:
    with_verdicts = lines[0].threshold is not None
    table, width = Table.grid(padding=(0, 2)), BESIDE_VERDICTS if with_verdicts else BAR_WIDTH
    table.add_column(overflow="fold", min_width=8)  # on a narrow terminal over several rows, but whole
    table.add_column(no_wrap=True)
    for line in lines:
        style = "bold" if line.stands else ""
        bar = block * max(1, round(line.share * width))
        cells = [Text(printable(line.name), style=style), Text(line.percent, style=style, justify="right")]
        cells += [Text(line.verdict, style=style)] if with_verdicts else []
        table.add_row(*cells, Text(bar, style="cyan"))
    return table


def _print_account(console: Console, diagnosis: Diagnosis) -> None:
    sent, seconds = diagnosis.bytes, diagnosis.seconds
    prepared = "to fetch stocked material" if diagnosis.stocked else "of preparation that needs no image"
    together = diagnosis.batch.images
    lines: tuple[str, ...] = (
        *((f"All figures are those of {together} images that were evaluated together.",) if together > 1 else ()),
        f"Left this machine: {sent.data_owner_sent / 1e6:,.1f} MB to the model owner and the crypto provider, all of",
        "it masked. The image, the result and the keys stayed here.",
        f"Took {seconds.offline:.1f} s {prepared}, and {seconds.online:.1f} s online",
        f"({diagnosis.one_way_trips} one-way trips, {sent.online / 1e6:,.1f} MB both ways).",
    )
    if diagnosis.repeats:
        lines += (f"{say_repeats(diagnosis.repeats)} All figures are those of {diagnosis.repeats + 1} sessions.",)
    console.print("\n".join(lines), markup=False, soft_wrap=True)
