"""Runs with differential privacy, without a network: what leaves a hospital, what is refused, what a crash does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from contract.errors import AggregationAborted, ConfigurationError, Refused
from federated_learning.augmentation import NONE
from federated_learning.checkpoints import read
from federated_learning.privacy import mechanism as mechanism_module
from federated_learning.privacy.ledger import Ledger
from federated_learning.privacy.mechanism import Mechanism
from federated_learning.privacy.settings import Privacy
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.rounds.letters import Letter, Part, Step
from federated_learning.rounds.settings import Sums
from federated_learning.run_records import read_run
from federated_learning.training_settings import Stage, TrainingSettings
from secure_computation.randomness import Seed
from tests.federated_learning.rounds.local import SIDE, LocalTraining

TRAINING = TrainingSettings(
    architecture="small-cnn",
    stages=(Stage(size=SIDE, epochs=1, batch=16),),
    optimizer="sgd",
    momentum=0.0,
    weight_decay=0.0,
    warm_up=0.0,
    peak_rate=0.5,
    augmentation=NONE,
)
"""One round over everybody, two at a rate of a half."""
PRIVACY = Privacy(noise_multiplier=2.0, clip=1.0, patients=36, delta=1e-3)
DRAWN = PRIVACY.model_copy(update={"sampling_rate": 0.5})


def federate(
    folder: Path,
    *,
    hospitals: int = 3,
    sums: Sums = Sums(ring_bits=32, threshold=3),  # noqa: B008  (frozen)
    privacy: Privacy = PRIVACY,
    limit: float = 1000.0,
) -> LocalTraining:
    return LocalTraining(folder, hospitals=hospitals, sums=sums, training=TRAINING, privacy=privacy, limit=limit)


def read_vector(federation: LocalTraining, name: str) -> np.ndarray:
    """What the hospital has stored of the last round."""
    return read(federation.folder / name / "state" / "test" / "noised.npz")["vector"]


def flat(coordinator: Coordinator) -> np.ndarray:
    return np.concatenate([value.ravel() for value in coordinator.course.weights.values()])


@dataclass(frozen=True)
class Finished:
    """A run to its end."""

    federation: LocalTraining
    coordinator: Coordinator
    before: np.ndarray
    """The weights that it began with."""
    raw: list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two rounds over drawn patients, which several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        raw = keep_raw_sums(patch)
        federation = federate(tmp_path_factory.mktemp("private"), privacy=DRAWN)
        coordinator = federation.coordinator()
        before = flat(coordinator)
        coordinator.run()
        coordinator.write_record()
    return Finished(federation, coordinator, before, raw)


def keep_raw_sums(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each sum before noise, and the vector that came of it."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    add = Mechanism.add_noise

    def keep(self: Mechanism, total: np.ndarray, seed: Seed) -> np.ndarray:
        noised = add(self, total, seed)
        kept.append((total.copy(), noised))
        return noised

    monkeypatch.setattr(mechanism_module.Mechanism, "add_noise", keep)
    return kept


def test_a_run_moves_by_the_noised_sums_alone(finished: Finished) -> None:
    mechanism, raw = finished.coordinator.course.mechanism, finished.raw
    assert mechanism is not None
    assert len(raw) == 2 * 3
    moved = np.zeros_like(finished.before, np.float64)
    for number in range(2):
        total = sum((noised for _, noised in raw[3 * number :][:3]), np.zeros_like(raw[0][1]))
        moved += mechanism.decode(total, rate=round(0.5 * 0.5 * (1 + np.cos(np.pi * (number + 0.5) / 2)), 9))
    assert np.abs(moved).max() > 0.01
    assert np.abs(flat(finished.coordinator) - finished.before - moved).max() < 1e-5


def test_the_noise_in_each_sum_is_what_was_agreed_on(finished: Finished) -> None:
    mechanism = finished.coordinator.course.mechanism
    assert mechanism is not None
    for number in range(2):
        part = finished.raw[3 * number :][:3]
        noise = sum((noised.view(np.int32) - clean for clean, noised in part), np.zeros_like(part[0][0]))
        deviation = np.sqrt(np.mean(noise.astype(np.float64) ** 2)) / mechanism.steps
        # To seven deviations of what so many samples say: a right one fails once in 10^11 runs.
        assert deviation == pytest.approx(2.0, rel=7 / np.sqrt(2 * noise.size))


def test_the_record_says_what_the_model_tells_of_a_patient_and_counts_nobody(finished: Finished) -> None:
    federated = read_run(finished.federation.settings().output).federation
    assert federated is not None
    assert federated.class_counts is None
    assert federated.examples is None
    assert federated.secure_aggregation is not None
    assert federated.secure_aggregation["noise multiplier"] == 2.0
    assert float(federated.secure_aggregation["epsilon of one patient"]) > 0


def test_nothing_exact_is_summed(finished: Finished) -> None:
    federation, standing = finished.federation, finished.coordinator.course.standing
    survey = federation.coordinator(federation.settings(output="new")).course.ask(Step.SURVEY)
    assert list(survey.layout.exact) == ["present"]
    assert {step for step, _ in federation.exchange.asked}.isdisjoint({Step.EVALUATE, Step.PLAIN})
    assert standing.survey is not None
    assert standing.survey.examples == PRIVACY.patients
    assert standing.survey.class_counts == ()
    assert standing.limits == {}
    assert all(line.training_loss is None and line.validation_accuracy is None for line in federation.lines)


def test_what_is_stored_is_noised(finished: Finished) -> None:
    federation = finished.federation
    clean = {total.astype(kind).tobytes() for total, _ in finished.raw for kind in (np.uint32, np.int64, np.float64)}
    noised = {vector.tobytes() for _, vector in finished.raw}
    assert {read_vector(federation, name).tobytes() for name in federation.names} <= noised
    for path in federation.folder.glob("*/state/**/*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(one in content for one in clean)


def test_an_evaluation_is_not_answered(finished: Finished) -> None:
    session = finished.federation.session("hospital-a")
    assert "error" in session.answer(Step.EVALUATE, Letter(header={"order": {}, "attempt": 0})).header


def test_the_last_average_is_kept_also_after_an_earlier_stop(tmp_path: Path) -> None:
    federation = federate(tmp_path, privacy=DRAWN)
    federation.coordinator(federation.settings().model_copy(update={"rounds": 1})).run()
    coordinator = federation.coordinator()
    coordinator.run()
    kept = read(federation.settings().output / "best.npz")
    for name, value in coordinator.course.average.items():
        assert np.array_equal(kept[f"average/{name}"], value)


def lose_once(federation: LocalTraining, step: Step, name: str) -> None:
    lost: list[str] = []

    def fault(asked: Step, who: str, answer: Letter) -> Letter | None:
        training = any(one is Step.TRAIN for one, _ in federation.exchange.asked)
        if not lost and training and (asked, who) == (step, name):
            lost.append(who)
            return None
        return answer

    federation.exchange.fault = fault


def test_a_repeated_attempt_sends_the_same_vector_with_the_same_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = keep_raw_sums(monkeypatch)
    federation = federate(tmp_path)
    lose_once(federation, Step.UNMASK, "hospital-b")
    federation.coordinator().run()
    assert any(event.attempt for event in federation.events)
    assert len(raw) == 3
    for name in federation.names:
        entries = Ledger(federation.limits(name), state=tmp_path / name / "state").read()
        assert [entry.vector.round for entry in entries if entry.vector is not None] == [1]


@pytest.mark.parametrize("step", [Step.TRAIN, Step.MASKED])
def test_a_crash_after_the_vector_was_stored_sends_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    raw = keep_raw_sums(monkeypatch)
    federation = federate(tmp_path)
    stored: list[np.ndarray] = []

    def fault(asked: Step, who: str, answer: Letter) -> Letter | None:
        training = any(one is Step.TRAIN for one, _ in federation.exchange.asked)
        if not stored and training and (asked, who) == (step, "hospital-a"):
            stored.append(read_vector(federation, "hospital-a"))
            federation.exchange.sessions["hospital-a"] = federation.session("hospital-a")  # a new process
            return None
        return answer

    federation.exchange.fault = fault
    federation.coordinator().run()
    assert len(raw) == 3  # each hospital drew noise once
    assert any(np.array_equal(stored[0], noised) for _, noised in raw)


def test_a_crash_between_the_vector_and_the_ledger_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = keep_raw_sums(monkeypatch)
    federation = federate(tmp_path)
    note, failed = Ledger.note, list[Any]()

    def fail_once(self: Ledger, vector: Any) -> None:
        if not failed:
            failed.append(vector)
            raise OSError
        note(self, vector)

    monkeypatch.setattr(Ledger, "note", fail_once)
    federation.coordinator().run()
    assert len(raw) == 3


def test_a_lost_state_folder_makes_no_second_vector_of_a_round(tmp_path: Path) -> None:
    federation = federate(tmp_path)
    federation.coordinator().run()
    state = tmp_path / "hospital-a" / "state"
    state.rename(tmp_path / "lost")
    federation.exchange.sessions["hospital-a"] = federation.session("hospital-a")
    others = [tmp_path / name / "state" for name in ("hospital-b", "hospital-c")]
    for number, folder in enumerate(others):
        folder.rename(tmp_path / f"lost-{number}")
    for name in federation.names:
        federation.exchange.sessions[name] = federation.session(name)
    with pytest.raises(AggregationAborted):
        federation.coordinator(federation.settings(output="again")).run()
    assert any("answered round 1 of run 'test' before, with other noise" in line for line in federation.said)


def test_a_round_goes_on_without_a_hospital_and_has_enough_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = keep_raw_sums(monkeypatch)
    federation = federate(tmp_path, hospitals=4)
    lose_once(federation, Step.MASKED, "hospital-d")
    coordinator = federation.coordinator()
    coordinator.run()
    assert [len(report.survivors) for report in federation.reports] == [3]
    mechanism = coordinator.course.mechanism
    assert mechanism is not None
    assert 3 * mechanism.variance >= (2.0 * mechanism.steps) ** 2
    assert len(raw) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"privacy": PRIVACY.model_copy(update={"noise_multiplier": 1.9})}, "privacy.noise_multiplier = 1.9"),
        ({"privacy": PRIVACY.model_copy(update={"clip": 2.0})}, "privacy.clip = 2.0"),
        ({"privacy": DRAWN}, "privacy.sampling_rate = 0.5"),
        ({"privacy": PRIVACY.model_copy(update={"patients": 30})}, "privacy.patients = 30"),
        ({"privacy": PRIVACY.model_copy(update={"each_alone": True})}, "privacy.each_alone = true"),
        ({"privacy": None}, "privacy"),
    ],
)
def test_a_coordinator_that_asks_for_less_protection_is_refused(
    tmp_path: Path, change: Mapping[str, Any], words: str
) -> None:
    federation = federate(tmp_path)
    asked = federation.settings().model_copy(update=dict(change))
    with pytest.raises(ConfigurationError, match="refuses this order"):
        federation.coordinator(asked).run()
    assert any(words in line for line in federation.said)
    assert not list(tmp_path.glob("*/ledger/*.jsonl"))


def test_a_coordinator_that_wants_another_threshold_is_refused(tmp_path: Path) -> None:
    federation = federate(tmp_path, hospitals=4, sums=Sums(ring_bits=32, threshold=4))
    asked = federation.settings()
    sums = asked.aggregation.model_copy(update={"threshold": 3})
    with pytest.raises(ConfigurationError, match="refuses this order"):
        federation.coordinator(asked.model_copy(update={"aggregation": sums})).run()
    assert any("survivors = 3" in line for line in federation.said)


def test_a_run_that_the_ledger_cannot_pay_for_does_not_begin(tmp_path: Path) -> None:
    federation = federate(tmp_path, limit=0.5)
    with pytest.raises(Refused, match=r"hospital's limit is 0\.5"):
        federation.exchange.sessions["hospital-a"].begin()
    with pytest.raises(ConfigurationError, match="refuses this order"):
        federation.coordinator().run()
    assert not list(tmp_path.glob("*/state/test/noised.npz"))


def test_more_patients_than_were_agreed_on_are_said_at_the_hospital_alone(tmp_path: Path) -> None:
    few = PRIVACY.model_copy(update={"patients": 11})
    federation = federate(tmp_path, privacy=few)
    with pytest.raises(ConfigurationError, match="could not do this"):
        federation.coordinator().run()
    assert any("has 12 patients to train on, and [privacy] says 11" in line for line in federation.said)


@pytest.mark.parametrize("unit", ["patient", "picture"])
def test_a_table_without_patient_numbers_hides_single_pictures_if_everybody_says_so(
    tmp_path: Path, unit: Literal["patient", "picture"]
) -> None:
    federation = federate(tmp_path, privacy=PRIVACY.model_copy(update={"unit": unit}))
    for table in federation.tables.values():
        rows = [line.split(",") for line in table.read_text().splitlines()]
        table.write_text("".join(f"{path},{label},{role}\n" for path, label, _, role in rows))
    if unit == "patient":
        with pytest.raises(ConfigurationError, match="could not do this"):
            federation.coordinator().run()
        assert any("no patient numbers, and [privacy] hides one patient" in line for line in federation.said)
    else:
        coordinator = federation.coordinator()
        coordinator.run()
        coordinator.write_record()
        federated = read_run(federation.settings().output).federation
        assert federated is not None
        assert "epsilon of one picture" in (federated.secure_aggregation or {})
        assert sum("12 of 12 pictures drawn" in line for line in federation.said) == 3


def test_people_see_what_is_spent_and_what_a_run_would_cost(tmp_path: Path) -> None:
    import tomli_w

    from federated_learning.command import app

    federation = federate(tmp_path, limit=20.0)
    config = tmp_path / "hospital.toml"
    content = federation.hospital_settings("hospital-a").model_dump(mode="json", exclude_none=True)
    config.write_text(tomli_w.dumps(content))
    before = CliRunner().invoke(app, ["privacy", "--config", str(config)])
    assert before.exit_code == 0, before.output
    assert "0 runs charged" in before.output
    assert "run 'test' of these settings is not charged yet" in before.output
    federation.coordinator().run()
    after = CliRunner().invoke(app, ["privacy", "--config", str(config)])
    assert "1 run charged" in after.output
    assert "run 'test', 1 round: by itself" in after.output
    for name in federation.names[1:]:
        assert name not in after.output
    assert Part.MASKED not in after.output
