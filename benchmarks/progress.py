"""How far a benchmark is, on stderr, for people: bars on a terminal, elsewhere a line for each step."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from benchmarks.measuring import OnStep, Step
from plumbing.command_line import console


class _TimeLeft(ProgressColumn):
    """Counts down to the end that the last step predicted: engines differ too much for an average over steps."""

    def render(self, task: Task) -> Text:
        end = task.fields["end"]
        if end is None:
            return Text("time left: known after the warm-up")
        minutes, seconds = divmod(round(max(0.0, end - time.monotonic())), 60)
        return Text(f"time left {minutes}:{seconds:02d}")


@contextmanager
def working_folder() -> Iterator[tuple[Path, OnStep]]:
    """A temporary folder to measure in, and what tells of the progress on stderr, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, show_steps(console()) as on_step:
        yield Path(name), on_step


@contextmanager
def show_steps(console: Console) -> Iterator[OnStep]:
    """Show steps with the time left while the block runs."""
    if not console.is_terminal:
        yield _show_lines(console)
        return
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        _TimeLeft(),
        console=console,
        transient=True,
    )
    with progress:
        task = progress.add_task("starting", total=1, end=None)

        def show(step: Step) -> None:
            end = None if step.seconds_left is None else time.monotonic() + step.seconds_left
            progress.update(task, description=step.words, completed=step.done, total=step.total, end=end)

        yield show


def _show_lines(console: Console) -> OnStep:
    """Each step's words once, in a line of their own."""
    shown: list[str] = []

    def show(step: Step) -> None:
        if step.words not in shown[-1:]:
            shown.append(step.words)
            console.print(f"bench: {step.words}", markup=False, highlight=False, soft_wrap=True)

    return show
