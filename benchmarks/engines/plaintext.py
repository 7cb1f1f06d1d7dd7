"""The model in clear: what encryption is paid for on top of."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.case import Case, Pictures
from benchmarks.configuration import ROOT, THREADS
from benchmarks.measuring import Measurement
from benchmarks.processes import run_watched
from demonstration.commands import quiet_environment


@contextmanager
def plaintext(case: Case, timeout_seconds: float) -> Iterator["Plaintext"]:
    """Nothing to set up but a folder."""
    folder = case.folder / "plaintext"
    folder.mkdir()
    yield Plaintext(case, folder, timeout_seconds)


class Plaintext:
    """onnxruntime in a process of its own for each measurement."""

    def __init__(self, case: Case, folder: Path, timeout_seconds: float) -> None:
        """Measure on the files of `case`."""
        self._case = case
        self._folder = folder
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once."""
        arguments = [str(self._case.model_folder), str(pictures.tensor), "--threads", str(THREADS)]
        finished = run_watched(
            [sys.executable, "-m", "benchmarks.peers.plaintext", *arguments],
            name="plaintext",
            environment=quiet_environment() | {"PYTHONPATH": str(ROOT)},
            folder=self._folder,
            timeout_seconds=self._timeout_seconds,
        )
        result = json.loads(finished.output)
        return Measurement(
            online_seconds=result["seconds"],
            offline_seconds=0.0,
            online_bytes=0,
            offline_bytes=0,
            one_way_trips=0,
            peak_rss_bytes={"plaintext": finished.peak_rss_bytes},
            logits=tuple(result["logits"]),
            cpu_seconds={"plaintext": result["cpu_seconds"]},
        )
