"""The model in clear: what encryption is paid for on top of."""

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
    """What a program that evaluates in clear prints."""

    logits: tuple[float, ...] = Field(max_length=1 << 20)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    cpu_seconds: float = Field(ge=0, allow_inf_nan=False)


@contextmanager
def plaintext(case: Case, timeout_seconds: float) -> Iterator["Plaintext"]:
    """The model's own file, by onnxruntime."""
    yield Plaintext("plaintext", [str(case.model_folder)], _folder(case, "plaintext"), timeout_seconds)


@contextmanager
def plaintext_torch(case: Case, timeout_seconds: float) -> Iterator["Plaintext"]:
    """The compiled network in float32, by torch."""
    files = [str(case.compiled.network), str(case.compiled.weights)]
    yield Plaintext("plaintext_torch", files, _folder(case, "plaintext-torch"), timeout_seconds)


class Plaintext:
    """A program of benchmarks/peers in a process of its own for each measurement."""

    def __init__(self, program: str, model: Sequence[str], folder: Path, timeout_seconds: float) -> None:
        """Run `program` on the model's files; its words go to files in `folder`."""
        self._program = program
        self._model = model
        self._folder = folder
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once."""
        arguments = [*self._model, str(pictures.tensor), "--threads", str(THREADS)]
        finished = run_watched(
            [sys.executable, "-m", f"benchmarks.peers.{self._program}", *arguments],
            name=self._program,
            environment=make_quiet_environment() | {"PYTHONPATH": str(ROOT)},
            folder=self._folder,
            timeout_seconds=self._timeout_seconds,
        )
        try:
            answer = Answer.model_validate_json(finished.output)
        except ValidationError as error:
            raise ComputationFailed(f"{self._program} did not print one answer: report this") from error
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


def _folder(case: Case, name: str) -> Path:
    folder = case.folder / name
    folder.mkdir()
    return folder
