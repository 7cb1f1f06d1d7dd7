"""What a training run leaves beside its weights, whoever ran it: run.json, history.json and rounds.json of its folder.

Nothing here tells of one hospital what only a sum may tell: counts are those of all hospitals together.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, TypeAdapter

from contract.base import Name, Strict, Version
from contract.files import replace
from contract.model_card import FederatedTraining, InputSpecification, OutputPolicy
from federated_learning.faults import read_json
from federated_learning.training_settings import TrainingSettings

RUN, HISTORY, ROUNDS = "run.json", "history.json", "rounds.json"


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
    federation: FederatedTraining | None = None


def describe_training(
    settings: TrainingSettings, *, class_counts: Mapping[str, int] | None, how: str | None, **facts: Any
) -> FederatedTraining:
    """What is known of a training by several hospitals. `how` says what their weights by examples are.

    None of both: with differential privacy nobody counts, and each patient's gradient is shortened to a norm.
    """
    average = f"FedProx (mu {settings.proximal:g})" if settings.proximal else "FedAvg"
    return FederatedTraining(
        method="DP-SGD by patient" if how is None else f"{average} weighted by examples, {how}",
        local_batches=settings.sync_every if how else 1,
        examples=None if class_counts is None else sum(class_counts.values()),
        class_counts=None if class_counts is None else dict(class_counts),
        **facts,
    )


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


class RoundTraffic(Strict):
    """One line of rounds.json: a round as the coordinator saw it."""

    round: int
    survivors: tuple[str, ...]
    """Whose updates are in the sum."""
    restarts: int
    seconds: float
    seconds_by_step: dict[str, float]
    """From a step's question to its last answer; TRAIN holds the hospitals' training."""
    bytes_sent: dict[str, int]
    """By hospital, all attempts together, without Flower's and TLS's framing."""
    bytes_received: dict[str, int]


L = TypeVar("L", bound=RoundRecord | RoundTraffic)


def read_description(path: Path) -> Description:
    """Parse a description from a JSON file. Raises ConfigurationError naming the field that is wrong."""
    return read_json(path, Description.model_validate_json)


def read_run(folder: Path) -> RunRecord:
    """The record of a run that was started in `folder`. Raises ConfigurationError."""
    return read_json(folder / RUN, RunRecord.model_validate_json)


def write_run(folder: Path, record: RunRecord) -> None:
    """Write run.json: the old one or the new one survives a crash."""
    replace(folder / RUN, f"{record.model_dump_json(indent=2)}\n".encode(), mode=None)


def read_history(folder: Path) -> tuple[RoundRecord, ...]:
    """The rounds of a run, empty if none was written. Raises ConfigurationError."""
    return _read_lines(folder / HISTORY, RoundRecord)


def read_rounds(folder: Path) -> tuple[RoundTraffic, ...]:
    """The traffic of a run's rounds, empty if none was written. Raises ConfigurationError."""
    return _read_lines(folder / ROUNDS, RoundTraffic)


def append_round(folder: Path, line: RoundRecord | RoundTraffic) -> None:
    """Add a round to history.json, or its traffic to rounds.json.

    A round that was made again after a restart replaces itself and what followed it.
    """
    path = folder / (HISTORY if isinstance(line, RoundRecord) else ROUNDS)
    kept = [old for old in _read_lines(path, type(line)) if old.round < line.round]
    text = json.dumps([one.model_dump() for one in (*kept, line)], indent=1)
    replace(path, f"{text}\n".encode(), mode=None)


def _read_lines(path: Path, kind: type[L]) -> tuple[L, ...]:
    return read_json(path, TypeAdapter(tuple[kind, ...]).validate_json) if path.exists() else ()  # type: ignore[valid-type]
