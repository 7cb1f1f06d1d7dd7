"""CrypTen as published, on the same weights and the same tensor: three processes for each measurement."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from benchmarks.case import Case, CompiledFiles, Pictures
from benchmarks.configuration import ROOT
from benchmarks.measuring import LinkTraffic, Measurement, Opener
from benchmarks.peers.relayed_gloo import rendezvous_url
from benchmarks.processes import POLL_SECONDS, read_last_words, started
from benchmarks.relay import Relay, start_relay
from benchmarks.wiring import HOME, Wiring
from contract.base import Strict
from contract.errors import ComputationFailed, DeadlineExceeded

PARTIES = ("data_owner", "model_owner", "third_party")


class Report(Strict):
    """What one process counted of itself (benchmarks/peers/stock_crypten.py)."""

    logits: tuple[float, ...] = Field(default=(), max_length=1 << 20)
    """The data owner's alone."""
    seconds: float = 0.0
    """From both parties ready, image and weights shared, to the logits in the data owner's hands."""
    cpu_seconds: float
    """While that clock ran; of the third party, from its first request on."""
    bytes: int
    """Sent and received; the third party's are what it dealt."""
    rounds: int = 0
    """Exchanges between the two parties; each is one message in both directions at once."""
    requests: int = 0
    """Questions to the third party, each with an answer."""
    peak_rss_bytes: int


def stock(wiring: Wiring = HOME) -> Opener:
    """Opener of CrypTen as published, with such links between its processes, which are new in every run."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[StockCrypTen]:
        _ = case.compiled
        with ExitStack() as stack:
            relay = None if wiring == HOME else stack.enter_context(start_relay(wiring))
            yield StockCrypTen(case.compiled, timeout_seconds, relay)

    return opened


class StockCrypTen:
    """Three new processes for each measurement; they are gone when it returns or raises."""

    def __init__(self, files: CompiledFiles, timeout_seconds: float, relay: Relay | None = None) -> None:
        """Measure on the files of a compiled model. With `relay`, every two processes are connected through it."""
        self._files = files
        self._timeout_seconds = timeout_seconds
        self._relay = relay

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once. Its third party deals while the image waits, so everything here is online."""
        return self.evaluate(pictures.tensor)

    def evaluate(self, images: Path) -> Measurement:
        """Evaluate images, float32 of shape (batch, *input shape) in an .npy file.

        Raises DeadlineExceeded if it takes too long, and ComputationFailed with the last words of the process that
        failed.
        """
        with tempfile.TemporaryDirectory(prefix="stock-crypten-") as name:
            folder = Path(name)
            self._run(folder, images)
            try:
                reports = [Report.model_validate_json((folder / f"{party}.json").read_bytes()) for party in PARTIES]
            except (OSError, ValidationError) as error:
                raise ComputationFailed(
                    "stock CrypTen: a process left a report that cannot be read: report this"
                ) from error
        return _combine(*reports)

    def _run(self, folder: Path, images: Path) -> None:
        """Let the three processes report to `folder`."""
        meeting = str(folder / "rendezvous")
        environment = {
            **os.environ,
            "DISTRIBUTED_BACKEND": "gloo",
            "RENDEZVOUS": f"file://{meeting}" if self._relay is None else rendezvous_url(meeting, self._relay),
            "WORLD_SIZE": "2",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        paths = [str(path.resolve()) for path in (self._files.network, self._files.weights, images)]
        with ExitStack() as stack:
            processes = []
            for rank, party in enumerate(PARTIES):
                command = [sys.executable, "-m", "benchmarks.peers.stock_crypten", *paths, "--rank", str(rank)]
                command += ["--report", str(folder / f"{party}.json"), "--timeout", str(self._timeout_seconds)]
                log = stack.enter_context((folder / f"{party}.log").open("wb"))
                own = {**environment, "RANK": str(rank)}
                processes.append(stack.enter_context(started(command, own, stdout=log, stderr=log, folder=folder)))
            self._wait(processes, folder)

    def _wait(self, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
        limit = time.monotonic() + self._timeout_seconds
        while None in (states := [process.poll() for process in processes]) or any(states):
            for state, party in zip(states, PARTIES, strict=True):
                if state:
                    raise ComputationFailed(f"stock CrypTen, {party}: {read_last_words(folder / f'{party}.log')}")
            if time.monotonic() > limit:
                raise DeadlineExceeded(
                    peer="stock CrypTen", step="evaluate one image", waited_seconds=self._timeout_seconds
                )
            time.sleep(POLL_SECONDS)


def _combine(owner: Report, model: Report, third: Report) -> Measurement:
    # The model owner talks to the data owner only, so its count is everything between the two. An opening is an
    # exchange of equal messages: half of the bytes go each way, except the few of the answer.
    half = model.bytes // 2
    links = {
        ("data_owner", "model_owner"): model.bytes - half,
        ("model_owner", "data_owner"): half,
        # Its questions are counted in: some hundred bytes each.
        ("third_party", "data_owner"): third.bytes,
    }
    parties = dict(zip(PARTIES, (owner, model, third), strict=True))
    return Measurement(
        online_seconds=owner.seconds,
        offline_seconds=0.0,
        online_bytes=model.bytes + third.bytes,
        offline_bytes=0,
        # Exchanges between the parties are one trip, a question to the third party and its answer are two, and
        # each waits for the one before (benchmarks/README.md).
        one_way_trips=model.rounds + 2 * third.requests,
        peak_rss_bytes={party: report.peak_rss_bytes for party, report in parties.items()},
        logits=owner.logits,
        links=tuple(
            LinkTraffic(sender=sender, receiver=receiver, offline_bytes=0, online_bytes=count)
            for (sender, receiver), count in links.items()
        ),
        cpu_seconds={party: report.cpu_seconds for party, report in parties.items()},
        details={
            "rounds": model.rounds,
            "third_party_requests": third.requests,
            "third_party_bytes": third.bytes,
        },
    )
