"""Several hospitals at once against one model owner: throughput, latency and memory, with and without stock."""

import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.configuration import ROOT, THREADS, parse_numbers
from benchmarks.engines.product import measure_servers_memory
from benchmarks.load_client import Report, Request
from benchmarks.machine import read_machine
from benchmarks.measuring import OnStep, Step, estimate_left
from benchmarks.processes import peak_rss_bytes, read_last_words, started
from benchmarks.results import Quantiles, Taken, describe_taking
from contract.base import Strict
from contract.errors import CallerError, ComputationFailed, DeadlineExceeded
from contract.model_card import read_card
from demonstration.deployment import Deployment, deploy
from imaging.phantom import write_phantom

FORMAT: Final = 1
MAX_SESSIONS = 32
STOCKING_WEIGHT = 0.7
"""Of one item, in units of a diagnosis that deals its own: for the time left."""


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


class Scale(Taken):
    """The whole result."""

    format: Literal[1]
    model: str
    model_version: str
    height: int
    width: int
    images_per_session: int
    levels: tuple[Level, ...]
    stocking: tuple[Stocking, ...]


def parse_sessions(text: str) -> tuple[int, ...]:
    """Read `1,2,4`. Raises CallerError for anything but rising numbers of sessions."""
    numbers = parse_numbers(text, option="--sessions", least=1, most=MAX_SESSIONS)
    if list(numbers) != sorted(numbers):
        raise CallerError("give --sessions in rising order, each once: memory marks only rise")
    return numbers


def measure_scale(
    model_folder: Path, folder: Path, on_step: OnStep, *, sessions: Sequence[int], images: int, timeout_seconds: float
) -> Scale:
    """Let `sessions` hospitals at once submit `images` each, first without stock, then with, level by level.

    `timeout_seconds` is for one level's answers, and for all hospitals to start. `folder` is empty.

    Raises ComputationFailed if a hospital ends, or does not use its stock, and DeadlineExceeded if one hangs.
    """
    machine = read_machine()
    card = read_card(model_folder / "card.json")
    image = folder / "phantom.dcm"
    write_phantom(image, seed=1)
    most = max(sessions)
    overrides: dict[str, dict[str, object]] = {
        # Twice as many as work: a session may still be ending when its hospital's next one begins.
        "model-owner": {
            "sessions_at_once": 2 * most,
            "sessions_per_data_owner": 2 * most,
            "stock_per_data_owner": most * images,
        },
        "crypto-provider": {"channels_at_once": 4 * most, "channels_per_data_owner": 4 * most},
    }
    on_step(Step(words="starting the parties", done=0, total=3 * len(sessions), seconds_left=None))
    working = folder / "federation"
    working.mkdir()
    levels: list[Level] = []
    stocking: list[Stocking] = []
    with (
        deploy(working, [model_folder], threads=THREADS, overrides=overrides) as deployment,
        start_hospitals(deployment, image, most, timeout_seconds) as hospitals,
    ):
        started = time.monotonic()

        def tell(words: str, done: float) -> None:
            left = estimate_left(started, done, 2.0 * sum(sessions))
            step = len(levels) + len(stocking)
            on_step(Step(words=words, done=step, total=3 * len(sessions), seconds_left=left))

        for place, number in enumerate(sessions):
            before = 2.0 * sum(sessions[:place])
            busy = Busy(deployment, hospitals[:number], images, timeout_seconds)
            tell(f"{number} at once, material dealt on demand", before)
            levels.append(busy.diagnose(stocked=False))
            tell(f"{number} at once, stocking", before + number)
            stocking.append(busy.stock())
            tell(f"{number} at once, from stock", before + (1 + STOCKING_WEIGHT) * number)
            levels.append(busy.diagnose(stocked=True))
    return Scale(
        format=FORMAT,
        model=card.name,
        model_version=card.version,
        height=card.input.height,
        width=card.input.width,
        images_per_session=images,
        levels=tuple(levels),
        stocking=tuple(stocking),
        **describe_taking(machine),
    )


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """A running `benchmarks.load_client`: requests in, reports out."""

    process: "subprocess.Popen[bytes]"
    errors: Path

    def ask(self, request: Request) -> None:
        """Send a request. Raises ComputationFailed with its last words if it has ended."""
        assert self.process.stdin is not None  # a pipe
        try:
            self.process.stdin.write(request.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            raise self._describe_end() from None

    def report(self, limit: float) -> Report:
        """Wait for the answer to the last request until the monotonic clock shows `limit`.

        Raises DeadlineExceeded, or ComputationFailed with its last words if it has ended.
        """
        begun = time.monotonic()
        assert self.process.stdout is not None  # a pipe without a buffer here
        if not select.select([self.process.stdout], [], [], max(0.0, limit - begun))[0]:
            raise DeadlineExceeded(peer="a hospital", step="its images", waited_seconds=time.monotonic() - begun)
        line = self.process.stdout.readline()
        if not line:
            raise self._describe_end()
        return Report.model_validate_json(line)

    def _describe_end(self) -> ComputationFailed:
        return ComputationFailed(f"a hospital ended during the benchmark: {read_last_words(self.errors)}")


@contextmanager
def start_hospitals(
    deployment: Deployment, image: Path, count: int, timeout_seconds: float
) -> Iterator[list[Hospital]]:
    """Start hospitals, each with a data folder of its own, and wait until each has diagnosed one image."""
    environment = deployment.environment | {"PYTHONPATH": str(ROOT)}
    config = ["--config", str(deployment.data_owner_settings)]
    with ExitStack() as stack:
        found = []
        for number in range(count):
            folder, errors = (deployment.folder / f"hospital-{number}{end}" for end in ("", ".err"))
            command = [sys.executable, "-m", "benchmarks.load_client", *config, "--data-folder", str(folder)]
            command += ["--image", str(image)]
            log = stack.enter_context(errors.open("wb"))
            piped = started(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            process = stack.enter_context(piped)
            found.append(Hospital(process=process, errors=errors))
        limit = time.monotonic() + timeout_seconds
        for hospital in found:
            hospital.report(limit)
        yield found


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
        seconds, reports = self._ask_all(Request(what="diagnose", count=self._images))
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
            latency_seconds=Quantiles.over([one for report in reports for one in report.seconds]),
            online_seconds=Quantiles.over([one for report in reports for one in report.online_seconds]),
            peak_rss_bytes={"data_owner": self._largest()} | measure_servers_memory(self._deployment),
        )

    def stock(self) -> Stocking:
        """Let all stock what the next level takes."""
        seconds, _ = self._ask_all(Request(what="stock", count=self._images))
        items = self._images * len(self._hospitals)
        return Stocking(
            sessions=len(self._hospitals), items=items, seconds=seconds, items_per_minute=60 * items / seconds
        )

    def _ask_all(self, request: Request) -> tuple[float, list[Report]]:
        """Ask all for the same; seconds until the last has answered."""
        begun = time.monotonic()
        for hospital in self._hospitals:
            hospital.ask(request)
        reports = [hospital.report(begun + self._timeout_seconds) for hospital in self._hospitals]
        return time.monotonic() - begun, reports

    def _largest(self) -> int:
        return max(peak_rss_bytes(hospital.process.pid) or 0 for hospital in self._hospitals)
