"""The model in clear: what encryption costs is on top of this."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from benchmarks.case import Case, Pictures
from benchmarks.configuration import ROOT, THREADS
from benchmarks.measuring import Measurement
from benchmarks.processes import run_watched
from contract.base import Strict
from contract.errors import ComputationFailed
from demonstration.commands import make_quiet_environment


class Answer(Strict):
    """What benchmarks/peers/plaintext.py prints."""

    logits: tuple[float, ...] = Field(max_length=1 << 20)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    cpu_seconds: float = Field(ge=0, allow_inf_nan=False)


@contextmanager
def plaintext(case: Case, timeout_seconds: float) -> Iterator["Plaintext"]:
    """The model's own file, by onnxruntime."""
    yield Plaintext("onnxruntime", [case.model_folder], case.folder, timeout_seconds)


@contextmanager
def plaintext_torch(case: Case, timeout_seconds: float) -> Iterator["Plaintext"]:
    """The compiled network in float32, by torch."""
    yield Plaintext("torch", [case.compiled.network, case.compiled.weights], case.folder, timeout_seconds)


class Plaintext:
    """A library in a process of its own for each measurement."""

    def __init__(self, library: str, model: Sequence[Path], folder: Path, timeout_seconds: float) -> None:
        """Evaluate the model's files; what the process prints goes to files in `folder`."""
        self._library = library
        self._model = model
        self._folder = folder
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once."""
        arguments = [self._library, *map(str, self._model), str(pictures.tensor), "--threads", str(THREADS)]
        finished = run_watched(
            [sys.executable, "-m", "benchmarks.peers.plaintext", *arguments],
            name=f"plaintext-{self._library}",
            environment=make_quiet_environment() | {"PYTHONPATH": str(ROOT)},
            folder=self._folder,
            timeout_seconds=self._timeout_seconds,
        )
        try:
            answer = Answer.model_validate_json(finished.output)
        except ValidationError as error:
            raise ComputationFailed(f"plaintext {self._library} did not print one answer: report this") from error
        return Measurement(
            online_seconds=answer.seconds,
            offline_seconds=0.0,
            online_bytes=0,
            offline_bytes=0,
            one_way_trips=0,
            peak_rss_bytes={"plaintext": finished.peak_rss_bytes},
            logits=answer.logits,
            cpu_seconds={"plaintext": answer.cpu_seconds},
        )
