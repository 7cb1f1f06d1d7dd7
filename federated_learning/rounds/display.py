"""Progress of a run on the coordinator's screen: which round, which hospital is at what, how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from federated_learning.rounds.aggregating import FAILED, GATHERING, Event
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.run_records import RoundRecord, RoundTraffic

WORDS = {
    "SURVEY": "surveying",
    "TRAIN": "training",
    "EVALUATE": "evaluating",
    "SHARES": "sharing keys",
    "MASKED": "sending",
    "CONFIRM": "confirming",
    "UNMASK": "unmasking",
    "PLAIN": "sending in the clear",
    "FOLLOW": "checking the last sum",
    "FINISH": "ending",
}


def print_on(console: Console) -> Callable[[str], None]:
    """Prints lines as they stand, between the bars if there are any."""
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def show_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Call with what is being done, how much of it is done, and all: a bar on a terminal, one at a time."""
    left = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), *left, console=console, disable=not console.is_terminal
    )
    tasks: dict[str, TaskID] = {}

    def advance(what: str, done: int, everything: int) -> None:
        if what not in tasks:
            for old in tasks.values():
                bars.remove_task(old)
            tasks.clear()
            tasks[what] = bars.add_task(what)
        bars.update(tasks[what], completed=done, total=everything)

    with bars:
        yield advance


class Display:
    """A bar for the run and a line for each hospital on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console, hospitals: tuple[str, ...]) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), console=console,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._run = self._bar.add_task("run", total=None, words="")
        self._lines: dict[str, TaskID] = {
            name: self._bar.add_task(f"  {name}", total=1, words="") for name in hospitals
        }
        self._started = time.monotonic()
        self._work: tuple[float, float] = (0.0, 0.0)
        self._printed = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Draw what happens within a round."""
        where = f"round {event.round}" + (f", attempt {event.attempt + 1}" if event.attempt else "")
        if event.what == FAILED:
            who = f"hospital {event.hospital}: " if event.hospital else ""
            self._print(f"{where}: {who}{event.words}")
            self._line(event.hospital, "left out", 0)
        elif event.what == GATHERING:
            self._print(f"{where}: waiting for hospitals: {', '.join(event.waiting_for)}")
        elif event.hospital is None:
            words = WORDS[event.what]
            self._bar.update(self._run, description=where)
            for name in event.waiting_for:
                self._line(name, words, 0)
            if not self._console.is_terminal and event.what in ("SURVEY", "TRAIN", "EVALUATE"):
                self._print(f"{where}: {words}: {', '.join(event.waiting_for)}")
        else:
            self._line(event.hospital, f"{WORDS[event.what]}: done", 1)

    def finished(self, coordinator: Coordinator, line: RoundRecord, traffic: RoundTraffic) -> None:
        """Draw a finished round, and how long the rest takes at this pace."""
        costs = [task.batches * task.batch * task.size**2 for task in coordinator.plan()]
        self._work = (self._work[0] + costs[line.round - 1], self._work[1] + traffic.seconds)
        left = sum(costs[line.round :]) * self._work[1] / self._work[0]
        self._bar.update(self._run, total=sum(costs), completed=sum(costs[: line.round]), words=_duration(left))
        trained = f"{line.survivors} hospitals trained" if line.survivors else "no update"
        loss = trained if line.training_loss is None else f"loss {line.training_loss:.3f}"
        accuracy = "" if line.validation_accuracy is None else f", validation accuracy {line.validation_accuracy:.3f}"
        lost = f", {line.restarts} restarted" if line.restarts else ""
        self._print(
            f"round {line.round} of {len(costs)}: {loss}{accuracy}; {', '.join(traffic.survivors) or 'nobody'}{lost}; "
            f"{traffic.seconds:.1f} s, left: {_duration(left)}"
        )

    def _line(self, hospital: str | None, words: str, completed: int) -> None:
        if hospital in self._lines:
            self._bar.update(self._lines[hospital], words=words, completed=completed)

    def _print(self, text: str) -> None:
        if text != self._printed:
            print_on(self._console)(text)
            self._printed = text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
