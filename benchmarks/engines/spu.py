"""SPU as published, on the same weights and the same tensor: two processes, linked over TCP on loopback."""

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from benchmarks.case import Case, Pictures
from benchmarks.configuration import THREADS
from benchmarks.measuring import LinkTraffic, Measurement, NotServed, Opener
from benchmarks.peers import spu_environment
from benchmarks.peers.stock_crypten import read_network
from benchmarks.processes import POLL_SECONDS, read_last_words, run_watched, started
from contract.base import Strict
from contract.errors import ComputationFailed, DeadlineExceeded

PROGRAM = spu_environment.REQUIREMENTS.with_name("spu_party.py")
PARTIES = ("data_owner", "model_owner")
MAX_REPORT_BYTES = 1 << 20
MAX_LOG_BYTES = 16 << 20
T = TypeVar("T", bound=Strict)
_LINK = re.compile(
    r"Link details: total send bytes (\d{1,18}), recv bytes (\d{1,18}), "
    r"send actions (\d{1,18}), recv actions \d{1,18}"
)


class SetUp(Strict):
    """What a party reports when the weights are shared."""

    seconds: float = Field(ge=0, allow_inf_nan=False)


class Evaluation(Strict):
    """What a party reports after an evaluation."""

    logits: tuple[float, ...] = Field(max_length=1 << 16)
    """The data owner's alone."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    cpu_seconds: float = Field(ge=0, allow_inf_nan=False)
    peak_rss_bytes: int = Field(ge=0)


def spu(protocol: str, *, folder: Path = spu_environment.FOLDER) -> Opener:
    """Opener of SPU with one of its protocols, from the virtual environment in `folder`, which must be there."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[SpuEngine | NotServed]:
        if case.batch > 1:
            yield NotServed("its program takes one image")
            return
        python = spu_environment.require(folder, install=False)
        # -I: neither this project's packages nor the user's reach into it.
        with open_with([str(python), "-I", str(PROGRAM)], protocol, case, timeout_seconds) as engine:
            yield engine

    return opened


@contextmanager
def open_with(program: Sequence[str], protocol: str, case: Case, timeout_seconds: float) -> Iterator["SpuEngine"]:
    """Compile the network and start both parties by `program`; they are gone afterwards."""
    folder = case.folder / f"spu-{protocol.lower()}"
    folder.mkdir()
    files = case.compiled
    shapes, code = folder / "shapes.json", folder / "code"
    shapes.write_text(json.dumps(read_network(files.network).weight_shapes()))
    inputs = [str(files.network), "--shapes", str(shapes), "--code", str(code)]
    run_watched(
        [*program, "compile", *inputs],
        name="compile",
        environment=spu_environment.environment(),
        folder=folder,
        timeout_seconds=timeout_seconds,
    )
    common = [*program, "evaluate", *inputs, "--protocol", protocol]
    common += ["--report", str(folder), "--addresses", ",".join(_free_addresses()), "--threads", str(THREADS)]
    common += ["--timeout", str(timeout_seconds)]
    with ExitStack() as stack:
        processes = []
        for rank in range(len(PARTIES)):
            # A party evaluates for every line on its stdin, and ends with it even if this program was killed.
            private = ["--weights", str(files.weights)] if rank else []
            log = stack.enter_context(_log(folder, rank).open("wb"))
            party = started(
                [*common, "--rank", str(rank), *private],
                spu_environment.environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                folder=folder,
            )
            processes.append(stack.enter_context(party))
        engine = SpuEngine(processes, folder, timeout_seconds)
        engine.wait_until_ready()
        yield engine


class SpuEngine:
    """Two linked parties that hold their shares of the weights. They stay between evaluations, as a service would."""

    def __init__(self, processes: Sequence["subprocess.Popen[bytes]"], folder: Path, timeout_seconds: float) -> None:
        """Measure on processes that run, data owner first, and report to `folder`."""
        self._processes = processes
        self._folder = folder
        self._timeout_seconds = timeout_seconds
        self._evaluations = 0

    def wait_until_ready(self) -> None:
        """Return when the weights are shared."""
        for report in self._reports(0, "share the weights"):
            _parse(SetUp, report)

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the picture once. SPU prepares nothing ahead, so all of it is online."""
        self._evaluations += 1
        for process, party in zip(self._processes, PARTIES, strict=True):
            assert process.stdin is not None
            try:
                process.stdin.write(f"{pictures.tensor.resolve()}\n".encode())
            except BrokenPipeError as error:
                raise self._describe_end(party) from error
        reports = [_parse(Evaluation, report) for report in self._reports(self._evaluations, "evaluate one image")]
        sent, received, messages = _read_traffic(_log(self._folder, 0), self._evaluations)
        return Measurement(
            online_seconds=reports[0].seconds,
            offline_seconds=0.0,
            online_bytes=sent + received,
            offline_bytes=0,
            one_way_trips=0,  # SPU counts messages, not how they wait for each other
            peak_rss_bytes={party: one.peak_rss_bytes for party, one in zip(PARTIES, reports, strict=True)},
            logits=reports[0].logits,
            links=(
                LinkTraffic(sender="data_owner", receiver="model_owner", offline_bytes=0, online_bytes=sent),
                LinkTraffic(sender="model_owner", receiver="data_owner", offline_bytes=0, online_bytes=received),
            ),
            cpu_seconds={party: one.cpu_seconds for party, one in zip(PARTIES, reports, strict=True)},
            details={"messages_each_way": messages},
        )

    def _reports(self, number: int, step: str) -> list[bytes]:
        """Both parties' reports, unparsed, once both are there."""
        paths = [self._folder / f"{rank}-{number}.json" for rank in range(len(PARTIES))]
        started = time.monotonic()
        while not all(path.exists() for path in paths):
            for process, path, party in zip(self._processes, paths, PARTIES, strict=True):
                if process.poll() is not None and not path.exists():
                    raise self._describe_end(party)
            if time.monotonic() - started > self._timeout_seconds:
                raise DeadlineExceeded(peer="SPU", step=step, waited_seconds=self._timeout_seconds)
            time.sleep(POLL_SECONDS)
        return [_read_bounded(path, MAX_REPORT_BYTES) for path in paths]

    def _describe_end(self, party: str) -> ComputationFailed:
        return ComputationFailed(
            f"SPU, {party}: ended early: {read_last_words(_log(self._folder, PARTIES.index(party)))}"
        )


def _free_addresses() -> list[str]:
    """Two ports of loopback that nobody had a moment ago: SPU takes numbers, not sockets."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, other)]


def _log(folder: Path, rank: int) -> Path:
    return folder / f"{PARTIES[rank]}.log"


def _read_bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ComputationFailed(f"SPU wrote more than {limit} bytes to {path.name}: report this")
    return content


def _parse(kind: type[T], report: bytes) -> T:
    try:
        return kind.model_validate_json(report)
    except ValidationError as error:
        raise ComputationFailed("SPU: a party's report cannot be read: report this") from error


def _read_traffic(log: Path, evaluations: int) -> tuple[int, int, int]:
    """What SPU logged for the newest of so many evaluations: bytes sent and received, messages sent."""
    found = _LINK.findall(_read_bounded(log, MAX_LOG_BYTES).decode(errors="replace"))
    if len(found) != evaluations:
        raise ComputationFailed(f"SPU logged the traffic of {len(found)} evaluations, not {evaluations}: report this")
    sent, received, messages = (int(number) for number in found[-1])
    return sent, received, messages
