"""Progress of a run on the coordinator's screen: which round, which hospital is at what, how long it will take."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from federated_learning.rounds.aggregating import FAILED, GATHERING, Event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from federated_learning.rounds.coordinator import Coordinator, RoundReport

WORDS = {
    "SURVEY": "counting",
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


class Display:
    """A bar for the run and a line for each hospital on a terminal; plain lines elsewhere."""

    def __init__(self, console: "Console", hospitals: tuple[str, ...]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

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
        self._said = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def finished(self, coordinator: "Coordinator", report: "RoundReport") -> None:
        """Draw a finished round, and how long the rest takes at this pace."""
        costs = [task.batches * task.batch * task.size**2 for task in coordinator.tasks()]
        done, everything, seconds = costs[report.round - 1], sum(costs), report.seconds
        self._work = (self._work[0] + done, self._work[1] + seconds)
        left = sum(costs[report.round :]) * self._work[1] / self._work[0]
        self._bar.update(self._run, total=everything, completed=sum(costs[: report.round]), words=_duration(left))
        trained = f"{len(report.survivors)} hospitals trained" if report.survivors else "no update"
        loss = trained if report.training_loss is None else f"loss {report.training_loss:.3f}"
        judged = "" if report.evaluation is None else f", validation accuracy {report.evaluation.accuracy:.3f}"
        lost = f", {report.restarts} restarted" if report.restarts else ""
        self._print(
            f"round {report.round} of {report.rounds}: {loss}{judged}; {', '.join(report.survivors) or 'nobody'}"
            f"{lost}; {report.seconds:.1f} s, left: {_duration(left)}"
        )

    def _line(self, hospital: str | None, words: str, completed: int) -> None:
        if hospital in self._lines:
            self._bar.update(self._lines[hospital], words=words, completed=completed)

    def _print(self, text: str) -> None:
        if text != self._said:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._said = text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
