"""Several hospitals at once against one model owner: throughput, latency and memory, with and without stock."""

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np

from benchmarks.configuration import ROOT, THREADS
from benchmarks.load_client import Order, Report
from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step
from benchmarks.processes import last_words, peak_rss_bytes
from benchmarks.submitting import memory_of_servers
from contract.base import Strict
from contract.errors import CallerError, ComputationFailed, DeadlineExceeded
from contract.model_card import read_card
from demonstration.commands import end, hold_termination
from demonstration.deployment import Deployment, deploy
from imaging.phantom import write_phantom

FORMAT: Final = 1
MAX_SESSIONS = 32
STOCKING_WEIGHT = 0.7
"""Of one item, in units of a diagnosis that deals its own: for the time left."""


class Quantiles(Strict):
    """Of one kind of seconds over all images, interpolated between neighbours where they are few."""

    smallest: float
    median: float
    p95: float
    largest: float


class Level(Strict):
    """So many hospitals at once, each submitting its images one after the other."""

    sessions: int
    stocked: bool
    """Whether all material was prepared ahead; else each diagnosis has its own dealt."""
    images: int
    """Of all hospitals together."""
    seconds: float
    """From one starting signal to the last hospital's last result."""
    images_per_minute: float
    latency_seconds: Quantiles
    """Of one image, from its file to its result, session and waiting included."""
    online_seconds: Quantiles
    peak_rss_bytes: dict[str, int]
    """By party, so far; `data_owner` is the largest of the hospitals."""


class Stocking(Strict):
    """So many hospitals stocking at once."""

    sessions: int
    items: int
    seconds: float
    items_per_minute: float


class Scale(Strict):
    """The whole result."""

    format: Literal[1]
    taken: str
    model: str
    model_version: str
    height: int
    width: int
    images_per_session: int
    levels: tuple[Level, ...]
    stocking: tuple[Stocking, ...]
    threads: int
    machine: Machine
    versions: dict[str, str]


def parse_sessions(text: str) -> tuple[int, ...]:
    """Read `1,2,4`. Raises CallerError for anything but rising numbers of sessions."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part[:4]) <= MAX_SESSIONS for part in parts):
        raise CallerError(f"give --sessions numbers of 1 to {MAX_SESSIONS}, say 1,2,4,8")
    numbers = tuple(int(part) for part in parts)
    if list(numbers) != sorted(set(numbers)):
        raise CallerError("give --sessions in rising order, each once: memory marks only rise")
    return numbers


def measure_scale(
    model_folder: Path, folder: Path, *, sessions: Sequence[int], images: int, timeout_seconds: float, on_step: OnStep
) -> Scale:
    """Let `sessions` hospitals at once submit `images` each, first without stock, then with, level by level.

    Args:
        model_folder: holds model.onnx and card.json.
        folder: empty, for everything that is written.
        sessions: how many at once, rising.
        images: of each hospital at each level.
        timeout_seconds: for one level's answers, and for all hospitals to start.
        on_step: told which level begins.

    Raises ComputationFailed where a hospital ends, or does not use its stock, and DeadlineExceeded where one hangs.
    """
    machine = read_machine()
    card = read_card(model_folder / "card.json")
    image = folder / "phantom.dcm"
    write_phantom(image, seed=1)
    most = max(sessions)
    overrides: dict[str, dict[str, object]] = {
        # Twice as many as work: a session may still be ending where its hospital's next one begins.
        "model-owner": {"sessions_at_once": 2 * most, "stock_per_data_owner": most * images},
        "crypto-provider": {"channels_at_once": 4 * most},
    }
    steps = Steps(sessions, on_step)
    place = folder / "federation"
    place.mkdir()
    levels, stocking = [], []
    with (
        deploy(place, [model_folder], threads=THREADS, overrides=overrides) as deployment,
        hospitals_ready(deployment, image, most, timeout_seconds) as hospitals,
    ):
        for number in sessions:
            busy = Busy(deployment, hospitals[:number], images, timeout_seconds)
            steps.next(f"{number} at once, material dealt on demand", number)
            levels.append(busy.diagnose(stocked=False))
            steps.next(f"{number} at once, stocking", STOCKING_WEIGHT * number)
            stocking.append(busy.stock())
            steps.next(f"{number} at once, from stock", (1 - STOCKING_WEIGHT) * number)
            levels.append(busy.diagnose(stocked=True))
    return Scale(
        format=FORMAT,
        taken=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        model=card.name,
        model_version=card.version,
        height=card.input.height,
        width=card.input.width,
        images_per_session=images,
        levels=tuple(levels),
        stocking=tuple(stocking),
        threads=THREADS,
        machine=machine,
        versions=read_versions(),
    )


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """A running `benchmarks.load_client`: orders in, reports out."""

    process: "subprocess.Popen[bytes]"
    errors: Path

    def order(self, order: Order) -> None:
        """Send an order. Raises ComputationFailed with its last words where it has ended."""
        assert self.process.stdin is not None  # a pipe
        try:
            self.process.stdin.write(order.model_dump_json().encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def report(self, limit: float) -> Report:
        """Wait for the answer to the last order until the monotonic clock shows `limit`.

        Raises DeadlineExceeded, or ComputationFailed with its last words where it has ended.
        """
        started = time.monotonic()
        assert self.process.stdout is not None  # a pipe; it holds one line at most, so nothing hides in its buffer
        if not select.select([self.process.stdout], [], [], max(0.0, limit - started))[0]:
            raise DeadlineExceeded(peer="a hospital", step="its images", waited_seconds=time.monotonic() - started)
        line = self.process.stdout.readline()
        if not line:
            raise self._ended()
        return Report.model_validate_json(line)

    def leave(self) -> None:
        """End it, however far it is."""
        end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # an order that it never read
                    pipe.close()

    def _ended(self) -> ComputationFailed:
        return ComputationFailed(f"a hospital ended during the benchmark: {last_words(self.errors)}")


@contextmanager
def hospitals_ready(
    deployment: Deployment, image: Path, count: int, timeout_seconds: float
) -> Iterator[list[Hospital]]:
    """Start hospitals, each with a data folder of its own, and wait until each has diagnosed one image."""
    found: list[Hospital] = []
    try:
        for number in range(count):
            with hold_termination():
                found.append(_start(deployment, image, number))
        limit = time.monotonic() + timeout_seconds
        for hospital in found:
            hospital.report(limit)
        yield found
    finally:
        for hospital in found:
            hospital.leave()


def _start(deployment: Deployment, image: Path, number: int) -> Hospital:
    folder = deployment.folder / f"hospital-{number}"
    errors = deployment.folder / f"hospital-{number}.err"
    arguments = ["--config", str(deployment.data_owner_settings), "--data-folder", str(folder)]
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load_client", *arguments, "--image", str(image)],
            env=deployment.environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    return Hospital(process=process, errors=errors)


class Busy:
    """Some hospitals that work at once."""

    def __init__(
        self, deployment: Deployment, hospitals: Sequence[Hospital], images: int, timeout_seconds: float
    ) -> None:
        """Let `hospitals` work on `images` each at a time."""
        self._deployment = deployment
        self._hospitals = hospitals
        self._images = images
        self._timeout_seconds = timeout_seconds

    def diagnose(self, *, stocked: bool) -> Level:
        """Let all diagnose; with `stocked`, what they stocked before."""
        seconds, reports = self._all(Order(what="diagnose", count=self._images))
        images = self._images * len(self._hospitals)
        if sum(report.stocked for report in reports) != (images if stocked else 0):
            raise ComputationFailed(
                "not every image took its material from where it should: a disk may be full; read the model owner's "
                "log, or report this"
            )
        return Level(
            sessions=len(self._hospitals),
            stocked=stocked,
            images=images,
            seconds=seconds,
            images_per_minute=60 * images / seconds,
            latency_seconds=quantiles([one for report in reports for one in report.seconds]),
            online_seconds=quantiles([one for report in reports for one in report.online_seconds]),
            peak_rss_bytes={"data_owner": self._largest()} | memory_of_servers(self._deployment),
        )

    def stock(self) -> Stocking:
        """Let all stock what the next level takes."""
        seconds, _ = self._all(Order(what="stock", count=self._images))
        items = self._images * len(self._hospitals)
        return Stocking(
            sessions=len(self._hospitals), items=items, seconds=seconds, items_per_minute=60 * items / seconds
        )

    def _all(self, order: Order) -> tuple[float, list[Report]]:
        """Give all the same order; seconds until the last has answered."""
        started = time.monotonic()
        for hospital in self._hospitals:
            hospital.order(order)
        reports = [hospital.report(started + self._timeout_seconds) for hospital in self._hospitals]
        return time.monotonic() - started, reports

    def _largest(self) -> int:
        return max(peak_rss_bytes(hospital.process.pid) or 0 for hospital in self._hospitals)


def quantiles(values: Sequence[float]) -> Quantiles:
    """Of at least one value."""
    smallest, middle, high, largest = (float(one) for one in np.quantile(values, (0, 0.5, 0.95, 1)))
    return Quantiles(smallest=smallest, median=middle, p95=high, largest=largest)


class Steps:
    """Tells which step begins, and foresees the rest from those that are done, by the work that each brings."""

    def __init__(self, sessions: Sequence[int], on_step: OnStep, clock: Callable[[], float] = time.monotonic) -> None:
        """Tell that the parties start."""
        self._on_step = on_step
        self._clock = clock
        self._steps_total = 3 * len(sessions)
        self._weight_left = 2.0 * sum(sessions)
        self._weight_done = self._weight = 0.0
        self._done = -1
        self._started = clock()
        on_step(Step(words="starting the parties", done=0, total=self._steps_total, seconds_left=None))

    def next(self, words: str, weight: float) -> None:
        """Note that the step before has ended; the first one starts the clock."""
        now = self._clock()
        if self._done < 0:
            self._started = now
        self._weight_done += self._weight
        self._weight_left -= self._weight
        self._weight = weight
        self._done += 1
        left = (now - self._started) * self._weight_left / self._weight_done if self._weight_done else None
        self._on_step(Step(words=words, done=self._done, total=self._steps_total, seconds_left=left))
