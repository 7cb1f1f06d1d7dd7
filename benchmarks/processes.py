"""Runs a program to its end while watching its memory from outside, and leaves nothing behind."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract.errors import ComputationFailed, DeadlineExceeded
from demonstration.commands import end, termination_held

POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A program that ended well."""

    output: str = field(repr=False)
    peak_rss_bytes: int


def peak_rss_bytes(process_id: int) -> int | None:
    """Highest resident memory of a live process so far; None where it has ended.

    Read from /proc, not from getrusage: the latter would count the memory of this process, which the child shared
    before it became another program.
    """
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


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
    process: subprocess.Popen[bytes] | None = None
    try:
        with termination_held(), output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        peak = _watch(process, name, timeout_seconds)
    finally:
        if process is not None:
            end(process)
    if process.returncode != 0:
        raise ComputationFailed(f"{name} ended with exit status {process.returncode}: {last_words(errors)}")
    return Finished(output=output.read_text(), peak_rss_bytes=peak)


def last_words(log: Path) -> str:
    """The last line that is not empty."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing; run it again"


def _watch(process: subprocess.Popen[bytes], name: str, timeout_seconds: float) -> int:
    started = time.monotonic()
    peak = 0
    while process.poll() is None:
        peak = peak_rss_bytes(process.pid) or peak
        if time.monotonic() - started > timeout_seconds:
            raise DeadlineExceeded(peer=name, step="one run", waited_seconds=timeout_seconds)
        time.sleep(POLL_SECONDS)
    return peak
