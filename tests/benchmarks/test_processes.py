"""Programs under watch: memory is theirs alone, and they are gone afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import Finished, cpu_seconds, peak_rss_bytes, run_watched
from contract.errors import ComputationFailed, DeadlineExceeded


def run_python(source: str, folder: Path, *, timeout_seconds: float = 60) -> Finished:
    return run_watched(
        [sys.executable, "-c", source],
        name="program",
        environment=os.environ,
        folder=folder,
        timeout_seconds=timeout_seconds,
    )


def test_output_and_peak_memory(tmp_path: Path) -> None:
    # 200 MB are taken and given back; this process, larger or smaller, does not count.
    grow = (
        "import time; held = bytearray(b'x' * 200_000_000); time.sleep(0.3); del held; time.sleep(0.3); print('done')"
    )
    grown = run_python(grow, tmp_path)
    assert grown.output == "done\n"
    assert 200_000_000 < grown.peak_rss_bytes < 500_000_000
    small = run_python("import time; time.sleep(0.3)", tmp_path)
    assert 1_000_000 < small.peak_rss_bytes < 100_000_000


def busy(seconds: float) -> str:
    return f"import time\nwhile time.process_time() < {seconds}: pass\n"


def test_processor_time_includes_what_the_program_started(tmp_path: Path) -> None:
    alone = run_python(busy(0.3), tmp_path)
    assert alone.cpu_seconds >= 0.3
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy(0.3)!r}], check=True)"
    assert run_python(child, tmp_path).cpu_seconds >= 0.3
    assert run_python("import time; time.sleep(0.5)", tmp_path).cpu_seconds < 0.5


def test_processor_time_of_a_running_process_and_its_child() -> None:
    # Longer than what is waited for: the kernel tells whole ticks, user and system time each rounded down.
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy(0.4) + 'input()'!r}])"
    process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE)
    try:
        limit = time.monotonic() + 60
        while (cpu_seconds(process.pid) or 0.0) < 0.3:
            assert time.monotonic() < limit
            time.sleep(0.05)
    finally:
        process.communicate(b"\n")
    assert cpu_seconds(process.pid) is None


def test_failure_is_told_in_the_programs_last_words(tmp_path: Path) -> None:
    with pytest.raises(ComputationFailed, match="exit status 3: why it failed"):
        run_python("import sys; print('more\\nwhy it failed', file=sys.stderr); sys.exit(3)", tmp_path)


def test_a_program_that_hangs_is_ended_even_if_it_will_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demonstration.commands.STOP_SECONDS", 0.2)
    note = tmp_path / "process"
    stubborn = f"""
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(note)!r}).write_text(str(os.getpid()))
time.sleep(60)
"""
    with pytest.raises(DeadlineExceeded, match="program"):
        run_python(stubborn, tmp_path, timeout_seconds=5)  # so that it can begin
    assert not Path(f"/proc/{note.read_text()}").exists()


def test_a_process_that_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    limit = time.monotonic() + 10
    while peak_rss_bytes(process.pid) is not None and time.monotonic() < limit:
        time.sleep(0.02)
    assert peak_rss_bytes(process.pid) is None  # a zombie
    process.wait()
    assert peak_rss_bytes(process.pid) is None  # nobody
