"""Programs under watch: their memory and processor time are read from outside, and none is left behind."""

import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from contract.errors import ComputationFailed, DeadlineExceeded
from demonstration.commands import end, hold_termination

POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A program that ended well."""

    output: str = field(repr=False)
    peak_rss_bytes: int
    cpu_seconds: float
    """User and system time of the whole process, from its start to its end, and of what it started and waited for."""
    seconds: float
    """From its start to its end."""


def peak_rss_bytes(process_id: int) -> int | None:
    """Highest resident memory of a live process so far; None if it has ended.

    Read from /proc, not from getrusage: the latter would count the memory of this process, which the child shared
    before it became another program.
    """
    return read_memory(process_id, "VmHWM:")


def read_memory(process_id: int, key: str) -> int | None:
    """What the kernel tells of a live process's memory under a key; None if it has ended. VmRSS: is the memory now."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in status.splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None


def cpu_seconds(process_id: int) -> float | None:
    """User and system time so far of a live process and of all that it started; None if it has ended.

    The kernel counts in ticks, mostly of a hundredth of a second.
    """
    try:
        words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        threads = list(Path(f"/proc/{process_id}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Counted from the state, which follows the name: utime, stime, and the same of children that were waited for.
    ticks = sum(int(word) for word in words[11:15])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(child) or 0.0 for child in _children(threads))


def _children(threads: Sequence[Path]) -> list[int]:
    found: list[int] = []
    for thread in threads:
        try:
            found += [int(word) for word in (thread / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # this thread has just ended, or the kernel does not tell
    return found


def run_watched(
    command: Sequence[str], *, name: str, environment: Mapping[str, str], folder: Path, timeout_seconds: float
) -> Finished:
    """Run `command` with its output in files of `folder`.

    The mark that the kernel keeps only rises, so the last look before the end misses nothing but the last moments.

    Raises:
        ComputationFailed: it ended with another status than 0; its last words are in the message.
        DeadlineExceeded: it took longer than `timeout_seconds`; it was ended.
    """
    output, errors = folder / f"{name}.out", folder / f"{name}.err"
    begun = time.monotonic()
    with (
        output.open("wb") as out,
        errors.open("wb") as err,
        started(command, environment, stdout=out, stderr=err) as process,
    ):
        peak, spent = _watch(process, name, timeout_seconds)
    seconds = time.monotonic() - begun
    if process.returncode != 0:
        raise ComputationFailed(f"{name} ended with exit status {process.returncode}: {read_last_words(errors)}")
    return Finished(output=output.read_text(), peak_rss_bytes=peak, cpu_seconds=spent, seconds=seconds)


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until the block ends, in `folder` if given; then it is ended and its pipes are closed.

    A signal that arrives while it starts is held back until it would be ended here.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with hold_termination():
            process = subprocess.Popen(
                command, env=dict(environment), stdin=stdin, stdout=stdout, stderr=stderr, cwd=folder, bufsize=0
            )
        yield process
    finally:
        if process is not None:
            end(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def read_last_words(log: Path) -> str:
    """The last line that is not empty."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing; run it again"


def _watch(process: subprocess.Popen[bytes], name: str, timeout_seconds: float) -> tuple[int, float]:
    """Peak memory and processor time, once the process has ended."""
    limit = time.monotonic() + timeout_seconds
    peak = 0
    descriptor = os.pidfd_open(process.pid)
    try:
        while not select.select([descriptor], [], [], POLL_SECONDS)[0]:
            peak = peak_rss_bytes(process.pid) or peak
            if time.monotonic() > limit:
                raise DeadlineExceeded(peer=name, step="one run", waited_seconds=timeout_seconds)
    finally:
        os.close(descriptor)
    # Not poll(): it would throw away what the kernel tells about the time that the process took.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return peak, usage.ru_utime + usage.ru_stime
