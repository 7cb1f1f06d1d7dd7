"""The result file of a run: what it predicted for each example. Every figure of the page is computed from these files.

Holds no image and no name of a file or patient.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from contract.base import Name, Strict
from contract.errors import CallerError
from contract.files import replace
from contract.model_card import FederatedTraining
from federated_learning.data_source.examples import Example
from federated_learning.faults import explain_fault
from federated_learning.run_records import RoundRecord, RunKind
from federated_learning.temperature import softmax

FORMAT: Final = 1
MAX_RESULT_BYTES: Final = 1 << 26
DECIMALS: Final = 4
"""Of logits: finer than the float16 weights that they come from."""


class SplitResult(Strict):
    """Predictions for the examples of one role."""

    split: str
    examples_sha256: str
    """Of their files' names, labels and patients: runs with the same one saw the same examples in the same order."""
    patients: tuple[int, ...] = Field(min_length=1)
    """One number for each patient, in the order of their names."""
    labels: tuple[int, ...]
    logits: tuple[tuple[float, ...], ...]
    """Of the exported model, in the order of the classes."""

    @model_validator(mode="after")
    def _as_many_of_each(self) -> Self:
        if not len(self.patients) == len(self.labels) == len(self.logits):
            raise ValueError("patients, labels and logits must be as many")
        return self

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """Class indices, shape (examples,)."""
        return np.asarray(self.labels, dtype=np.int64)

    @cached_property
    def patient_names(self) -> tuple[str, ...]:
        """As the bootstrap takes them; sorted as the numbers are."""
        return tuple(f"{number:09d}" for number in self.patients)

    def probabilities(self, temperature: float) -> NDArray[np.float64]:
        """Calibrated softmax, shape (examples, classes)."""
        return softmax(np.asarray(self.logits), temperature=temperature)


class RunResult(Strict):
    """A run, and what it predicted."""

    format: int
    name: Name
    kind: RunKind
    taken: str
    """When it was evaluated, ISO 8601."""
    data_set: str
    classes: tuple[str, ...]
    size: int
    """Height and width of the model's input."""
    settings: dict[str, Any]
    """Of the training, as they were written."""
    training_roles: tuple[str, ...]
    validation_role: str
    chosen_round: int
    """Whose weights were kept: a round of a federated training, or an epoch in one place."""
    temperature: float = Field(gt=0)
    """Fitted on the validation role."""
    model_sha256: str
    """Of the exported model.onnx."""
    federation: FederatedTraining | None
    history: tuple[RoundRecord, ...]
    software: dict[str, str]
    splits: tuple[SplitResult, ...]

    @model_validator(mode="after")
    def _one_logit_for_each_class(self) -> Self:
        rows = (row for split in self.splits for row in split.logits)
        labels = (label for split in self.splits for label in split.labels)
        if any(len(row) != len(self.classes) for row in rows):
            raise ValueError("logits need one number for each class")
        if any(not 0 <= label < len(self.classes) for label in labels):
            raise ValueError("labels must be indices of the classes")
        return self

    @property
    def epochs(self) -> int:
        """Of all stages; 0 if they are not known."""
        return sum(stage["epochs"] for stage in self.settings.get("stages", ()))

    def split(self, name: str) -> SplitResult | None:
        """The predictions for a role; None if it was not evaluated."""
        return next((one for one in self.splits if one.split == name), None)


def make_split(split: str, examples: Sequence[Example], logits: NDArray[np.float32]) -> SplitResult:
    """What is kept of predictions: numbers for names."""
    names = sorted({example.patient for example in examples})
    number = {name: index for index, name in enumerate(names)}
    listed = [[example.path.name, example.label, example.patient] for example in examples]
    return SplitResult(
        split=split,
        examples_sha256=hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        patients=tuple(number[example.patient] for example in examples),
        labels=tuple(example.label for example in examples),
        logits=tuple(tuple(round(float(value), DECIMALS) for value in row) for row in logits),
    )


def write_result(result: RunResult, folder: Path) -> Path:
    """Write NAME.json, rows of numbers on one line each."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    text = json.dumps(result.model_dump(mode="json"), indent=1)
    flat = re.sub(r"\[[-\d.,e\s]+\]", lambda found: re.sub(r"\s+", " ", found.group()), text)
    replace(path, f"{flat}\n".encode(), mode=None)
    return path


def read_results(folder: Path) -> tuple[RunResult, ...]:
    """All results in a folder: the longest training first, then by kind and name.

    Raises CallerError for a file that is none, or of another version.
    """
    results = [_read(path) for path in sorted(folder.glob("*.json"))]
    order = list(RunKind)
    return tuple(sorted(results, key=lambda result: (-result.epochs, order.index(result.kind), result.name)))


def _read(path: Path) -> RunResult:
    if path.stat().st_size > MAX_RESULT_BYTES:
        raise CallerError(f"{path.name} is larger than {MAX_RESULT_BYTES} bytes: it is no result of a run")
    try:
        result = RunResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CallerError(
            f"{path.name} is not what federated-learning evaluate writes ({explain_fault(error)}): evaluate it again"
        ) from error
    if result.format != FORMAT or f"{result.name}.json" != path.name:
        raise CallerError(f"{path.name} is of another version, or has another run's name: evaluate the run again")
    return result


def check_comparable(results: Sequence[RunResult]) -> None:
    """Raises CallerError if runs were evaluated on different examples, or have different classes."""
    first: dict[str, tuple[str, str]] = {}
    for result in results:
        if result.classes != results[0].classes:
            raise CallerError(f"{result.name} has other classes than {results[0].name}: compare runs of one task")
        for split in result.splits:
            seen, digest = first.setdefault(split.split, (result.name, split.examples_sha256))
            if digest != split.examples_sha256:
                raise CallerError(
                    f"{result.name} and {seen} were evaluated on different examples of {split.split}: evaluate both on "
                    "the same data"
                )
