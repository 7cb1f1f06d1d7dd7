"""What secure aggregation adds to a round of a real federation: Flower, TLS, a process for each hospital, on loopback.

Counted is what follows training: from the moment when every hospital has trained until the coordinator has the sum. The
same rounds are run with secure aggregation and in the clear. All processes share this machine's cores, and links are
loopback: on machines of their own hospitals work at the same time, and links take what their bytes need.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.machine import Machine, read_machine, read_versions
from benchmarks.measuring import OnStep, Step
from benchmarks.secure_aggregation import AggregationCost
from contract.base import Strict
from federated_learning.augmentation import NONE
from federated_learning.loopback.run import Loopback, LoopbackSettings, smoke_settings
from federated_learning.rounds.coordinator import AGGREGATION
from federated_learning.rounds.settings import Aggregation
from federated_learning.run_records import RoundTraffic, read_history, read_rounds
from federated_learning.training_settings import Stage, TrainingSettings

SIDE = 32


class RoundCost(Strict):
    """Medians over the rounds."""

    seconds: float
    """After training, until the sum is there."""
    seconds_range: tuple[float, float]
    seconds_by_step: dict[str, float]
    bytes_sent_by_a_hospital: int


class FederationCost(Strict):
    """`extra_seconds`: of a round with secure aggregation beyond the same round in the clear."""

    architecture: str
    parameters: int
    hospitals: int
    rounds: int
    secure: RoundCost
    plain: RoundCost
    extra_seconds: float
    bytes_against_plain: float
    machine: Machine
    versions: dict[str, str]


class AggregationCosts(Strict):
    """What secure aggregation costs a round of federated training: computed alone, and in real processes."""

    arithmetic: AggregationCost
    federation: FederationCost


def measure_federation(
    folder: Path, on_step: OnStep, *, architecture: str, hospitals: int, rounds: int
) -> FederationCost:
    """Train in the clear and with secure aggregation, `rounds` each after one that does not count."""
    machine = read_machine()
    costs, clear_bytes = {}, 0
    for secure in (False, True):

        def tell(words: str, done: int = 0, *, secure: bool = secure) -> None:
            name = "with secure aggregation" if secure else "in the clear"
            done += secure * (rounds + 1)
            on_step(Step(words=f"{name}, {words}", done=done, total=2 * (rounds + 1), seconds_left=None))

        place = folder / ("secure" if secure else "plain")
        place.mkdir()
        settings = _settings(architecture, rounds=rounds, secure=secure)
        found, clear_bytes = _run(place, settings, hospitals, tell)
        costs[secure] = _cost(found[1:])
    return FederationCost(
        architecture=architecture,
        parameters=clear_bytes // 4,
        hospitals=hospitals,
        rounds=rounds,
        secure=costs[True],
        plain=costs[False],
        extra_seconds=costs[True].seconds - costs[False].seconds,
        bytes_against_plain=costs[True].bytes_sent_by_a_hospital / costs[False].bytes_sent_by_a_hospital,
        machine=machine,
        versions=read_versions(),
    )


def _settings(architecture: str, *, rounds: int, secure: bool) -> LoopbackSettings:
    """Hardly any training: what is measured comes after it."""
    training = TrainingSettings(
        architecture=architecture,
        stages=(Stage(size=SIDE, epochs=rounds + 1, batch=4),),
        sync_every=1,
        augmentation=NONE,
    )
    changes = {"training": training, "rounds": rounds + 1, "one_falls_out": False, "run": "benchmark"}
    return smoke_settings().model_copy(update=changes | {"aggregation": Aggregation(secure=secure)})


def _run(
    folder: Path, settings: LoopbackSettings, hospitals: int, tell: Callable[..., None]
) -> tuple[tuple[RoundTraffic, ...], int]:
    """The rounds, and the bytes of an update as float32."""
    loopback = Loopback(settings, folder, hospitals=hospitals, images=None)
    loopback.run(
        show=lambda event: tell(f"round {event.round} of {settings.rounds}", event.round),
        finished=lambda _coordinator, _line, _traffic: None,
        say=tell,
    )
    output = loopback.coordinator_settings.output
    return read_rounds(output), read_history(output)[-1].bytes_in_the_clear or 0


def _cost(rounds: tuple[RoundTraffic, ...]) -> RoundCost:
    after = [sum(one.seconds_by_step.get(step, 0.0) for step in AGGREGATION) for one in rounds]
    steps = {step: median(one.seconds_by_step.get(step, 0.0) for one in rounds) for step in AGGREGATION}
    return RoundCost(
        seconds=median(after),
        seconds_range=(min(after), max(after)),
        seconds_by_step={step: seconds for step, seconds in steps.items() if seconds},
        bytes_sent_by_a_hospital=max(max(one.bytes_sent.values()) for one in rounds),
    )
