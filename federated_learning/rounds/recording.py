"""What a federated run leaves for people and for publication: run.json, history.json, rounds.json."""

import json
from importlib.metadata import version
from pathlib import Path

from contract.base import Strict
from contract.files import replace
from contract.model_card import FederationRecord
from federated_learning.rounds.coordinator import Coordinator, RoundReport
from federated_learning.rounds.letters import Step
from federated_learning.rounds.participants import Participants
from federated_learning.rounds.settings import CoordinatorSettings
from federated_learning.run_records import RoundRecord, RunKind, RunRecord, append_round, write_run

ROUNDS = "rounds.json"
AGGREGATION = (Step.SHARES.name, Step.MASKED.name, Step.CONFIRM.name, Step.UNMASK.name, "opening", Step.PLAIN.name)
"""What comes after training: the sending of updates, which averaging in the clear needs too, among it."""
PACKAGES = ("flwr", "torch", "cryptography", "numpy")


class RoundTraffic(Strict):
    """One round, as the coordinator saw it."""

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


def record_round(settings: CoordinatorSettings, report: RoundReport) -> None:
    """Add a finished round to history.json and rounds.json."""
    costs = report.costs
    sent = list(costs.sent.values())
    line = RoundRecord(
        round=report.round,
        training_loss=report.training_loss,
        validation_loss=None if report.evaluation is None else report.evaluation.loss,
        validation_accuracy=None if report.evaluation is None else report.evaluation.accuracy,
        seconds=report.seconds,
        aggregation_seconds=sum(costs.seconds.get(step, 0.0) for step in AGGREGATION),
        bytes_sent_per_hospital=sum(sent) // len(sent) if sent else None,
        bytes_in_the_clear=report.clear_bytes,
        survivors=len(report.survivors),
        restarts=report.restarts,
    )
    append_round(settings.output, line)
    detail = RoundTraffic(
        round=report.round,
        survivors=report.survivors,
        restarts=report.restarts,
        seconds=report.seconds,
        seconds_by_step=costs.seconds,
        bytes_sent=costs.sent,
        bytes_received=costs.received,
    )
    kept = [old for old in read_rounds(settings.output) if old.round < detail.round]
    lines = json.dumps([one.model_dump() for one in [*kept, detail]], indent=1)
    replace(settings.output / ROUNDS, f"{lines}\n".encode(), mode=None)


def read_rounds(folder: Path) -> tuple[RoundTraffic, ...]:
    """What `record_round` wrote, empty if nothing was."""
    path = folder / ROUNDS
    if not path.exists():
        return ()
    return tuple(RoundTraffic.model_validate_json(json.dumps(one)) for one in json.loads(path.read_text()))


def record_run(settings: CoordinatorSettings, participants: Participants, coordinator: Coordinator) -> None:
    """Write run.json, from which `federated-learning publish` makes the model's card."""
    standing, survey = coordinator.course.standing, coordinator.course.standing.survey
    if survey is None or not standing.rounds:
        return
    chosen, training, aggregation = coordinator.chosen(), settings.training, settings.aggregation
    classes = settings.description.classes
    parameters: dict[str, str | int | float] | None = None
    if aggregation.secure:
        parameters = {
            "threshold": coordinator.course.threshold,
            "ring bits": aggregation.ring_bits,
            "masks": "AES-CTR, 256-bit seeds from X25519",
        }
    record = FederationRecord(
        hospitals=participants.names,
        rounds=standing.rounds,
        chosen_round=standing.rounds if chosen is None else chosen.round,
        restarted_rounds=coordinator.progress.restarts,
        method=_method(training.proximal),
        local_batches=training.sync_every,
        examples=survey.examples,
        class_counts=dict(zip(classes, survey.class_counts, strict=True)),
        secure_aggregation=parameters,
        software={name: version(name) for name in PACKAGES},
    )
    run = RunRecord(
        settings=training,
        description=settings.description.with_statistics(survey.mean, survey.standard_deviation),
        training_roles=settings.training_roles,
        validation_role=settings.validation_role,
        kind=RunKind.FEDERATED_SECURE if aggregation.secure else RunKind.FEDERATED,
        federation=record,
    )
    write_run(settings.output, run)


def _method(proximal: float) -> str:
    weighted = "weighted by examples, each hospital's rounded to a power of two"
    return f"FedProx (mu {proximal:g}) {weighted}" if proximal else f"FedAvg {weighted}"
