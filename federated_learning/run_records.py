"""What a training run leaves beside its weights, whoever ran it: run.json and history.json of its folder.

Nothing here tells of one hospital what only a sum may tell: counts are those of all hospitals together.
"""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from contract.base import Name, Strict, Version
from contract.errors import ConfigurationError
from contract.files import replace
from contract.model_card import FederationRecord, InputSpecification, OutputPolicy
from federated_learning.faults import explain_fault
from federated_learning.training_settings import TrainingSettings

T = TypeVar("T", bound=Strict)
V = TypeVar("V")

RUN, HISTORY = "run.json", "history.json"
MAX_RECORD_BYTES = 1 << 24


class Description(Strict):
    """What people write about a model; the rest of the card is computed."""

    name: Name
    version: Version
    title: str
    intended_use: str
    input: InputSpecification
    classes: tuple[str, ...]
    data_set: str
    training: str
    citations: tuple[str, ...]
    output_policy: OutputPolicy = OutputPolicy.LOGITS

    def with_statistics(self, mean: tuple[float, ...], standard_deviation: tuple[float, ...]) -> Self:
        """With the pixels' mean and standard deviation, one for each channel, that a network was trained with."""
        changed = self.input.model_dump() | {"mean": mean, "standard_deviation": standard_deviation}
        return self.model_copy(update={"input": InputSpecification.model_validate(changed)})


class RunKind(StrEnum):
    """Who saw what while a model was trained."""

    CENTRALISED = "centralised"
    """One place held the images of all hospitals."""
    HOSPITAL = "hospital"
    """One hospital, with its own images alone."""
    FEDERATED = "federated"
    """Images stayed where they were; updates were averaged in the clear."""
    FEDERATED_SECURE = "federated-secure"
    """Images stayed where they were; the coordinator saw sums of masked updates."""


class RunRecord(Strict):
    """run.json: what `publish` and `evaluate` need besides the weights."""

    settings: TrainingSettings
    description: Description
    training_roles: tuple[str, ...]
    validation_role: str
    kind: RunKind = RunKind.CENTRALISED
    federation: FederationRecord | None = None


class RoundRecord(Strict):
    """One line of history.json: a round of a federated training, or an epoch of a run in one place."""

    round: int = Field(ge=1)
    training_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    seconds: float | None = Field(default=None, ge=0)
    aggregation_seconds: float | None = Field(default=None, ge=0)
    """Of `seconds`, what secure aggregation took beyond averaging in the clear."""
    bytes_sent_per_hospital: int | None = Field(default=None, ge=0)
    """Mean over the hospitals, all messages of the round."""
    bytes_in_the_clear: int | None = Field(default=None, ge=0)
    """What a float32 update of all weights takes."""
    survivors: int | None = Field(default=None, ge=0)
    restarts: int = Field(default=0, ge=0)


_HISTORY = TypeAdapter(tuple[RoundRecord, ...])


def read_description(path: Path) -> Description:
    """Parse a description from a JSON file. Raises ConfigurationError naming the field that is wrong."""
    return _parse(Description, path)


def read_run(folder: Path) -> RunRecord:
    """The record of a run that was started in `folder`. Raises ConfigurationError."""
    return _parse(RunRecord, folder / RUN)


def write_run(folder: Path, record: RunRecord) -> None:
    """Write run.json: the old one or the new one survives a crash."""
    _replace(folder / RUN, record.model_dump_json(indent=2))


def read_history(folder: Path) -> tuple[RoundRecord, ...]:
    """The rounds of a run, empty where none was written. Raises ConfigurationError."""
    path = folder / HISTORY
    return _validated(path, _HISTORY.validate_json) if path.exists() else ()


def append_round(folder: Path, line: RoundRecord) -> None:
    """Add a round to history.json; a round that was made again after a restart replaces itself and what followed it."""
    kept = [old.model_dump() for old in read_history(folder) if old.round < line.round]
    _replace(folder / HISTORY, json.dumps([*kept, line.model_dump()], indent=1))


def _replace(path: Path, text: str) -> None:
    replace(path, f"{text}\n".encode(), mode=None)


def _parse(kind: type[T], path: Path) -> T:
    return _validated(path, kind.model_validate_json)


def _validated(path: Path, validate: Callable[[bytes], V]) -> V:
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise ConfigurationError(f"{path}: larger than {MAX_RECORD_BYTES} bytes; it is no record of a run")
        return validate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); give another path") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {explain_fault(error)}; correct the file") from error
