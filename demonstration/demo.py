"""The demonstration: four processes on loopback, the real command line, and the plaintext model beside it."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from contract.base import Strict
from contract.errors import CallerError, ComputationFailed
from contract.model_card import ModelCard
from contract.ticket import Engine
from data_owner.answers import FindingsAnswer, ModelAnswer, answer_from_logits
from data_owner.calibration import Calibration
from data_owner.diagnosis import Bytes, Diagnosis, ModelName, Seconds, Warned
from demonstration.commands import end, hold_termination, make_command
from demonstration.deployment import Deployment, deploy
from demonstration.plaintext import PlaintextModel
from imaging.formats import Polarity
from imaging.phantom import write_phantom
from imaging.reading import read_model_input
from plumbing.command_line import one_line, say

MODEL_FOLDER = Path(__file__).resolve().parent.parent / "models" / "pediatric-pneumonia-resnet18"
DRAWN = "a phantom radiograph, drawn for this run"
ROUNDING = 0.02
"""Of a probability: what the masked engine's rounding of logits may come to, near a threshold."""


class Comparison(Strict):
    """One file's encrypted answer beside the plaintext model's. One line of `--json`."""

    file: str
    model: ModelName
    engine: Engine
    diagnosis: ModelAnswer
    calibration: Calibration | None
    plaintext: ModelAnswer
    max_abs_error: float | None
    """Largest difference between an encrypted and a plaintext logit; None for a model that gives its label only."""
    warnings: tuple[Warned, ...]
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    processes: Annotated[dict[str, int], Field(min_length=4)]
    """Process id of each party."""

    def require_same_answer(self) -> None:
        """Raise ComputationFailed if the two answers differ: another label, or a finding on the other side.

        A finding that in clear lies within rounding of its threshold may fall on either.
        """
        if contradicts(self.diagnosis, self.plaintext):
            difference = "" if self.max_abs_error is None else f" (logits differ by {self.max_abs_error:.4f})"
            raise ComputationFailed(
                f"{self.file}: encrypted inference says {self.diagnosis.words}, the plaintext model "
                f"{self.plaintext.words}{difference}; report this as a defect"
            )


def contradicts(found: ModelAnswer, plain: ModelAnswer) -> bool:
    """Whether an encrypted answer says something else than the plain one, by more than rounding."""
    if isinstance(found, FindingsAnswer) and isinstance(plain, FindingsAnswer):
        pairs = zip(found.findings, plain.findings, strict=True)
        return any(
            one.present != other.present and abs(other.probability - other.threshold) > ROUNDING for one, other in pairs
        )
    return isinstance(found, FindingsAnswer) or isinstance(plain, FindingsAnswer) or found.label != plain.label


def select_readable(files: Sequence[Path], card: ModelCard) -> tuple[list[Path], int]:
    """The files that can be read for a model, and the worst exit status of those that cannot, which are named."""
    good, status = [], 0
    for path in files:
        try:
            read_model_input(path, card.input)
        except CallerError as error:
            say(f"demo: {path}: {one_line(error)}")
            status = max(status, error.exit_status)
        else:
            good.append(path)
    return good, status


@contextmanager
def run_parties(
    files: Sequence[Path], model_folder: Path, on_step: Callable[[str], None]
) -> Iterator[tuple[Deployment, Sequence[Path]]]:
    """A deployment in a temporary folder, and the files to submit: a phantom radiograph if none are given."""
    with tempfile.TemporaryDirectory(prefix="encrypted-inference-demo-") as name:
        folder = Path(name)
        if not files:
            phantom = folder / "phantom.dcm"
            write_phantom(phantom)
            files = [phantom]
        with deploy(folder, [model_folder], on_step=on_step) as deployment:
            yield deployment, files


def compare(
    deployment: Deployment,
    files: Sequence[Path],
    engine: Engine,
    model_folder: Path,
    *,
    polarity: Polarity | None = None,
    heat_map: Path | None = None,
) -> Iterator[tuple[Diagnosis, Comparison]]:
    """Submit files through `data-owner diagnose --force` and compare each answer. Its errors go to stderr.

    `polarity` is what was said with --as-is or --invert; `heat_map` a new PNG, or a folder.

    Raises SystemExit with the command's status at the end if a file failed.
    """
    plaintext = PlaintextModel(model_folder)
    arguments = ["diagnose", *map(str, files), "--config", str(deployment.data_owner_settings)]
    if heat_map is not None:
        arguments += ["--heat-map", str(heat_map.resolve())]
    if polarity is not None:
        arguments.append("--invert" if polarity is Polarity.INVERTED else "--as-is")
    process: subprocess.Popen[str] | None = None
    try:
        with hold_termination():
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                make_command("data-owner", [*arguments, "--engine", engine.value, "--json", "--force"]),
                env=deployment.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        processes = deployment.process_ids() | {"data_owner": process.pid}
        assert process.stdout is not None
        for line in process.stdout:
            diagnosis = Diagnosis.model_validate_json(line)
            comparison = _make_comparison(diagnosis, plaintext, polarity, processes)
            name = name_file(diagnosis, deployment.folder)
            yield diagnosis.model_copy(update={"file": name}), comparison.model_copy(update={"file": name})
        status = process.wait()
    finally:
        if process is not None and process.stdout is not None:
            end(process)
            process.stdout.close()
    if status != 0:
        sys.exit(status)


def name_file(diagnosis: Diagnosis, folder: Path) -> str:
    """What the reader calls a file: what the demonstration drew in its own folder is gone when this is read."""
    return DRAWN if folder in diagnosis.path.parents else diagnosis.file


def show_page(deployment: Deployment, images: Sequence[Path], *, port: int) -> None:
    """Serve the clinician's page until it is ended; tell of images to drop on it."""
    arguments = ["ui", "--config", str(deployment.data_owner_settings), "--port", str(port)]
    process: subprocess.Popen[bytes] | None = None
    for path in images:
        say(f"demo: an image to drop on the page, of nobody at all: {path}")
    try:
        with hold_termination():
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                make_command("data-owner", arguments), env=deployment.environment, stdin=subprocess.DEVNULL
            )
        status = process.wait()
    finally:
        if process is not None:
            end(process)
    if status != 0:
        sys.exit(status)


def _make_comparison(
    diagnosis: Diagnosis, plaintext: PlaintextModel, polarity: Polarity | None, processes: dict[str, int]
) -> Comparison:
    expected = plaintext.logits_of_file(diagnosis.path, polarity)
    return Comparison(
        file=diagnosis.file,
        model=diagnosis.model,
        engine=diagnosis.engine,
        diagnosis=diagnosis.diagnosis,
        calibration=diagnosis.calibration,
        plaintext=answer_from_logits(plaintext.card, tuple(float(value) for value in expected)),
        max_abs_error=None
        if diagnosis.logits is None
        else float(np.abs(np.asarray(diagnosis.logits) - expected).max()),
        warnings=diagnosis.warnings,
        seconds=diagnosis.seconds,
        bytes=diagnosis.bytes,
        one_way_trips=diagnosis.one_way_trips,
        processes=processes,
    )
