"""How a diagnosis looks on a terminal: progress while it runs, and the answer. For people, on stderr and stdout."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from contract.model_card import ModelCard
from data_owner.diagnosis import Diagnosis
from data_owner.progress import Progress

BAR_WIDTH = 30
FRAME = 8
"""Columns that a panel adds to its title."""


@contextmanager
def shown_progress(console: Console) -> Iterator[Progress]:
    """Show stages and layers with the time left while the block runs; nothing where stderr is not a terminal."""
    bars = Bars(
        TextColumn("{task.description}"),
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
            bars.update(task, completed=index, total=total, description=f"computing on shares: {name}")

        def stage(words: str) -> None:
            bars.reset(task, description=words, total=None)

        yield Progress(stage=stage, layer=layer)


def print_diagnosis(console: Console, diagnosis: Diagnosis, card: ModelCard) -> None:
    """Print the answer, what it rests on, and what left this machine."""
    finding, model = diagnosis.diagnosis, f"{diagnosis.model.name} {diagnosis.model.version}"
    if finding.probabilities is None:
        content: Table | Text = Text(finding.label, style="bold")
        subtitle = f"{model}, which gives its label only"
    else:
        content, subtitle = _bars(finding.label, finding.probabilities), f"{model}, calibrated probabilities"
    answer = f"uncertain, most like {finding.label}" if finding.uncertain else finding.label
    title = Text(f"{diagnosis.file}: {answer}", style="bold")
    width = min(console.width, max(len(title), len(subtitle), BAR_WIDTH + 24) + FRAME)
    console.print(Panel(content, title=title, subtitle=Text(subtitle), width=width))
    for warning in diagnosis.warnings:
        console.print(f"Warning: {warning.text}", markup=False)
    if diagnosis.heat_map_file is not None:
        console.print(f"Heat map of {finding.label}: {diagnosis.heat_map_file}", markup=False, soft_wrap=True)
    console.print(f"Intended use: {card.intended_use}", markup=False)
    _print_account(console, diagnosis)


def _bars(label: str, probabilities: dict[str, float]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, probability in sorted(probabilities.items(), key=lambda pair: -pair[1]):
        style = "bold" if name == label else ""
        bar = "█" * max(1, round(probability * BAR_WIDTH))
        table.add_row(Text(name, style=style), Text(f"{probability:6.1%}", style=style), Text(bar, style="cyan"))
    return table


def _print_account(console: Console, diagnosis: Diagnosis) -> None:
    sent, seconds = diagnosis.bytes, diagnosis.seconds
    prepared = "to fetch stocked material" if diagnosis.stocked else "of preparation that needs no image"
    together = diagnosis.batch.images
    lines = (
        *((f"All figures are those of {together} images that were evaluated together.",) if together > 1 else ()),
        f"Left this machine: {sent.data_owner_sent / 1e6:,.1f} MB to the model owner and the crypto provider, all of",
        "it masked. The image, the result and the keys stayed here.",
        f"Took {seconds.offline:.1f} s {prepared}, and {seconds.online:.1f} s online",
        f"({diagnosis.one_way_trips} one-way trips, {sent.online / 1e6:,.1f} MB both ways).",
    )
    console.print("\n".join(lines), markup=False, soft_wrap=True)
