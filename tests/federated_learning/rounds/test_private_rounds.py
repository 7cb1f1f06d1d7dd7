"""Runs with differential privacy, without a network: what leaves a hospital, what is refused, what a crash does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
"""Two rounds, at a rate of a half."""
PRIVACY = Privacy(noise_multiplier=2.0, clip=1.0, sampling_rate=0.5, patients=36, delta=1e-3)


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


def test_a_run_moves_by_the_noised_sum_and_leaves_its_epsilon_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = keep_raw_sums(monkeypatch)
    federation = federate(tmp_path)
    coordinator = federation.coordinator()
    before = flat(coordinator)
    coordinator.run()
    coordinator.write_record()
    assert len(raw) == 2 * 3
    mechanism = coordinator.course.mechanism
    assert mechanism is not None
    # What the model moved by is the sum of what hospitals stored, and nothing else is opened.
    moved = np.zeros_like(before, np.float64)
    for number in range(2):
        total = sum((noised for _, noised in raw[3 * number :][:3]), np.zeros_like(raw[0][1]))
        moved += mechanism.decode(total, rate=round(0.5 * 0.5 * (1 + np.cos(np.pi * (number + 0.5) / 2)), 9))
    assert np.abs(flat(coordinator) - before - moved).max() < 1e-5
    # In each sum: noise of twice the clipping norm, to six deviations of what so many samples say.
    for number in range(2):
        part = raw[3 * number :][:3]
        noise = sum((noised.view(np.int32) - clean for clean, noised in part), np.zeros_like(part[0][0]))
        deviation = np.sqrt(np.mean(noise.astype(np.float64) ** 2)) / mechanism.steps
        assert deviation == pytest.approx(2.0, rel=6 / np.sqrt(2 * noise.size))
    federated = read_run(federation.settings().output).federation
    assert federated is not None
    assert federated.class_counts is None
    assert federated.examples is None
    assert federated.secure_aggregation is not None
    assert federated.secure_aggregation["noise multiplier"] == 2.0
    assert float(federated.secure_aggregation["epsilon of one patient"]) > 0


def test_nothing_exact_is_summed(tmp_path: Path) -> None:
    federation = federate(tmp_path)
    coordinator = federation.coordinator()
    survey = coordinator.course.ask(Step.SURVEY)
    assert list(survey.layout.exact) == ["present"]
    coordinator.run()
    assert {step for step, _ in federation.exchange.asked}.isdisjoint({Step.EVALUATE, Step.PLAIN})
    assert coordinator.course.standing.survey is not None
    assert coordinator.course.standing.survey.examples == PRIVACY.patients
    assert coordinator.course.standing.survey.class_counts == ()
    assert coordinator.course.standing.limits == {}
    assert all(line.training_loss is None and line.validation_accuracy is None for line in federation.lines)


def test_what_is_stored_is_noised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = keep_raw_sums(monkeypatch)
    federation = federate(tmp_path)
    federation.coordinator().run()
    clean = {total.astype(np.uint32).tobytes() for total, _ in raw} | {total.tobytes() for total, _ in raw}
    noised = {vector.tobytes() for _, vector in raw}
    assert {read_vector(federation, name).tobytes() for name in federation.names} <= noised
    for path in tmp_path.glob("*/state/**/*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(sum_ in content for sum_ in clean)


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
    assert len(raw) == 2 * 3
    for name in federation.names:
        entries = Ledger(federation.limits(name), state=tmp_path / name / "state").read()
        assert [entry.vector.round for entry in entries if entry.vector is not None] == [1, 2]


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
    assert len(raw) == 2 * 3  # each hospital drew noise once a round
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
    assert len(raw) == 2 * 3


def test_a_lost_state_folder_makes_no_second_vector_of_a_round(tmp_path: Path) -> None:
    federation = federate(tmp_path)
    federation.coordinator(federation.settings().model_copy(update={"rounds": 1})).run()
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
    assert [len(report.survivors) for report in federation.reports] == [3, 4]
    mechanism = coordinator.course.mechanism
    assert mechanism is not None
    assert 3 * mechanism.variance >= (2.0 * mechanism.steps) ** 2
    assert len(raw) == 2 * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"privacy": PRIVACY.model_copy(update={"noise_multiplier": 1.9})}, "privacy.noise_multiplier = 1.9"),
        ({"privacy": PRIVACY.model_copy(update={"clip": 2.0})}, "privacy.clip = 2.0"),
        ({"privacy": PRIVACY.model_copy(update={"sampling_rate": 1.0})}, "privacy.sampling_rate = 1.0"),
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


def test_an_evaluation_is_not_answered(tmp_path: Path) -> None:
    federation = federate(tmp_path)
    federation.coordinator().run()
    session = federation.session("hospital-a")
    assert "error" in session.answer(Step.EVALUATE, Letter(header={"order": {}, "attempt": 0})).header


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


def test_a_table_without_patient_numbers_protects_each_picture_and_says_so(tmp_path: Path) -> None:
    federation = federate(tmp_path)
    for table in federation.tables.values():
        rows = [line.split(",") for line in table.read_text().splitlines()]
        table.write_text("".join(f"{path},{label},{role}\n" for path, label, _, role in rows))
    federation.coordinator().run()
    assert sum("each picture is protected as a patient of its own" in line for line in federation.said) == 3


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
    assert "run 'test', 2 rounds: by itself" in after.output
    for name in federation.names[1:]:
        assert name not in after.output
    assert Part.MASKED not in after.output
