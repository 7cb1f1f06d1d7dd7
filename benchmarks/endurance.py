"""Hours of service, shortened: several hospitals at their own pace, then every server killed and started again.

What is looked at: whether memory and open files of the servers stay level, whether answers come as quickly at the end
as at the beginning, and how long a server takes from its start to its first answer, fresh and after SIGKILL.
"""

import signal
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from benchmarks.configuration import THREADS
from benchmarks.load_client import Report, Request
from benchmarks.machine import read_machine
from benchmarks.measuring import OnStep, Step, estimate_left
from benchmarks.processes import read_memory
from benchmarks.results import Quantiles, Taken, describe_taking
from benchmarks.scale import Hospital, start_hospitals
from contract.base import Strict
from contract.errors import ComputationFailed
from contract.identity import Role
from contract.model_card import read_card
from crypto_provider import dealer
from demonstration.deployment import Deployment, deploy
from imaging.phantom import write_phantom
from model_owner import oversight

FORMAT: Final = 1
SAMPLES: Final = 20
SERVERS: Final = (Role.INFERENCE_SERVICE, Role.CRYPTO_PROVIDER, Role.MODEL_OWNER)
BOOKS: Final = {Role.CRYPTO_PROVIDER: dealer.BOOK_FILE, Role.MODEL_OWNER: oversight.BOOK_FILE}
"""The file in which a server counts what it began."""


class Sample(Strict):
    """The servers between two diagnoses, by party."""

    diagnoses: int
    """So far."""
    resident_bytes: dict[str, int]
    open_files: dict[str, int]


class Restart(Strict):
    """One server started again."""

    party: str
    killed: bool
    """By SIGKILL, right after a diagnosis; else it was asked to end."""
    seconds: float
    """From its start until it answers."""
    diagnosis_seconds: float
    """Of the first diagnosis afterwards, which was answered."""


class Endurance(Taken):
    """The whole result."""

    format: Literal[1]
    model: str
    model_version: str
    hospitals: int
    diagnoses: int
    seconds: float
    latency_seconds: Quantiles
    """Of one image, from its file to its result; its material is dealt within."""
    online_seconds: Quantiles
    first_tenth: Quantiles
    """Of the latencies, of the diagnoses that ended first."""
    last_tenth: Quantiles
    samples: tuple[Sample, ...]
    restarts: tuple[Restart, ...]
    consumed: dict[str, int]
    """Images (or items) that each party has counted at the end; a ticket is counted once, or its session refused."""


def measure_endurance(
    model_folder: Path,
    folder: Path,
    on_step: OnStep,
    *,
    hospitals: int,
    diagnoses: int,
    minutes: float,
    timeout_seconds: float,
) -> Endurance:
    """Let `hospitals` submit `diagnoses` images altogether, spread evenly over `minutes`.

    What is too much for them takes longer. `timeout_seconds` is for one answer, and for all hospitals to start.

    Raises ComputationFailed if a hospital ends, and DeadlineExceeded if one hangs.
    """
    machine, card = read_machine(), read_card(model_folder / "card.json")
    image = folder / "phantom.dcm"
    write_phantom(image, seed=1)
    place = folder / "federation"
    place.mkdir()
    on_step(Step(words="starting the parties", done=0, total=SAMPLES, seconds_left=None))
    with (
        deploy(place, [model_folder], threads=THREADS) as deployment,
        start_hospitals(deployment, image, hospitals, timeout_seconds) as ready,
    ):
        service = Service(deployment, ready, timeout_seconds=timeout_seconds, on_step=on_step)
        started = time.monotonic()
        service.run(diagnoses, seconds=60 * minutes)
        seconds = time.monotonic() - started
        restarts = [service.restart(role, killed=killed) for killed in (False, True) for role in SERVERS]
        consumed = {role.value: _counted(place / f"{role.value}-data" / book) for role, book in BOOKS.items()}
    tenth = max(1, len(service.reports) // 10)
    walls = [report.seconds[0] for report in service.reports]
    return Endurance(
        format=FORMAT,
        model=card.name,
        model_version=card.version,
        hospitals=hospitals,
        diagnoses=len(walls),
        seconds=seconds,
        latency_seconds=Quantiles.over(walls),
        online_seconds=Quantiles.over([report.online_seconds[0] for report in service.reports]),
        first_tenth=Quantiles.over(walls[:tenth]),
        last_tenth=Quantiles.over(walls[-tenth:]),
        samples=tuple(service.samples),
        restarts=tuple(restarts),
        consumed=consumed,
        **describe_taking(machine),
    )


class Service:
    """Servers and hospitals at work."""

    def __init__(
        self, deployment: Deployment, hospitals: Sequence[Hospital], *, timeout_seconds: float, on_step: OnStep
    ) -> None:
        """Work with hospitals that are ready."""
        self._deployment = deployment
        self._hospitals = hospitals
        self._timeout_seconds = timeout_seconds
        self._on_step = on_step
        self._lock = Lock()
        self.reports: list[Report] = []
        """Of diagnoses, in the order of their ends."""
        self.samples: list[Sample] = []

    def run(self, diagnoses: int, *, seconds: float) -> None:
        """Let each hospital take its turns, and look at the servers now and then."""
        started, every = time.monotonic(), max(1, diagnoses // SAMPLES)

        def work(number: int) -> None:
            for turn in range(number, diagnoses, len(self._hospitals)):
                time.sleep(max(0.0, started + seconds * turn / diagnoses - time.monotonic()))
                report = self._diagnose(self._hospitals[number])
                with self._lock:
                    self.reports.append(report)
                    if len(self.reports) % every == 0:
                        self._look(started, diagnoses)

        with ThreadPoolExecutor(len(self._hospitals)) as pool:
            for done in [pool.submit(work, number) for number in range(len(self._hospitals))]:
                done.result()

    def restart(self, role: Role, *, killed: bool) -> Restart:
        """End one server, start it again, and have one image diagnosed."""
        process = self._deployment.servers[role].process
        process.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        process.wait(timeout=self._timeout_seconds)
        seconds = self._deployment.start_again(role)
        (wall,) = self._diagnose(self._hospitals[0]).seconds
        return Restart(party=role.value, killed=killed, seconds=seconds, diagnosis_seconds=wall)

    def _diagnose(self, hospital: Hospital) -> Report:
        hospital.ask(Request(what="diagnose", count=1))
        return hospital.report(time.monotonic() + self._timeout_seconds)

    def _look(self, started: float, diagnoses: int) -> None:
        found = self._deployment.process_ids()
        self.samples.append(
            Sample(
                diagnoses=len(self.reports),
                resident_bytes={party: read_memory(number, "VmRSS:") or 0 for party, number in found.items()},
                open_files={party: _open_files(number) for party, number in found.items()},
            )
        )
        done = len(self.reports)
        left = estimate_left(started, done, diagnoses)
        words = f"{done} of {diagnoses} diagnoses"
        self._on_step(Step(words=words, done=len(self.samples), total=SAMPLES, seconds_left=left))


def _open_files(process_id: int) -> int:
    try:
        return len(list(Path(f"/proc/{process_id}/fd").iterdir()))
    except FileNotFoundError:
        raise ComputationFailed("a server ended during the benchmark; run it again") from None


def _counted(book: Path) -> int:
    with closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT coalesce(sum(amount), 0) FROM spent").fetchone()[0])
