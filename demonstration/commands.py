"""Runs the project's own command lines as subprocesses, in a way that leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import ConfigurationError

STOP_SECONDS = 5.0
TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROGRAMS = {
    "federation": "authority.command",
    "inference-service": "inference_service.command",
    "crypto-provider": "crypto_provider.command",
    "model-owner": "model_owner.command",
    "data-owner": "data_owner.command",
}


def make_command(program: str, arguments: Sequence[str]) -> list[str]:
    """The command line of one of our programs, under this interpreter, wherever it is installed."""
    start = f"import sys; from {PROGRAMS[program]} import main; sys.argv[0] = {program!r}; main()"
    return [sys.executable, "-c", start, *arguments]


def call(program: str, *arguments: str, environment: Mapping[str, str], timeout_seconds: float = 120.0) -> str:
    """Run one command to its end and return its stdout. Raises ConfigurationError with its words if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - our own programs, no shell
            make_command(program, arguments),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"{program} {arguments[0]} did not end within {timeout_seconds:.0f} s") from None
    if done.returncode != 0:
        raise ConfigurationError(f"{program} {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Server:
    """One running server and where its words go."""

    program: str
    process: subprocess.Popen[bytes]
    log: Path

    def words(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-2000:].strip()

    def require_running(self) -> None:
        """Raise ConfigurationError with its last words if it has ended."""
        if self.process.poll() is not None:
            raise ConfigurationError(f"{self.program} ended with exit status {self.process.returncode}: {self.words()}")


@contextmanager
def hold_termination() -> Iterator[None]:
    """Hold back signals that ask this program to end until the block ends, then deliver them.

    A program that starts a process and keeps it where its cleaning up finds it does both in such a block: a signal in
    between would leave the process behind. The process itself does not inherit this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are delivered to the main thread alone
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in TERMINATION_SIGNALS}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for one in arrived:
            signal.raise_signal(one)


def start(program: str, *arguments: str, environment: Mapping[str, str], log: Path) -> Server:
    """Start one server; its output goes to `log`. Who ends it must know it before a signal does: `termination_held`."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
            make_command(program, arguments),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Server(program=program, process=process, log=log)


def stop(servers: Sequence[Server]) -> None:
    """Ask all to end; end those that do not."""
    end(*(server.process for server in servers))


def make_quiet_environment(*, temporary: Path | None = None) -> dict[str, str]:
    """The environment without settings of the parties, which would reach into the demonstration.

    Temporary files of libraries go to `temporary`, if given, which is made.
    """
    prefixes = ("INFERENCE_SERVICE_", "CRYPTO_PROVIDER_", "MODEL_OWNER_", "DATA_OWNER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    if temporary is None:
        return kept
    temporary.mkdir(mode=0o700, exist_ok=True)
    return kept | {"TMPDIR": str(temporary)}


def end(*processes: subprocess.Popen[Any]) -> None:
    """Ask processes to end, and end those that do not."""
    for process in processes:
        process.terminate()
    limit = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(timeout=max(0.1, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
