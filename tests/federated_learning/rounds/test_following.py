"""Hospitals that were away follow the sums that they missed; a sum that was begun to be opened keeps its hospitals."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import AggregationAborted, ConfigurationError
from federated_learning.averaging import GlobalModel
from federated_learning.rounds.aggregating import FAILED
from federated_learning.rounds.course import Course
from federated_learning.rounds.letters import Letter, Step
from federated_learning.rounds.settings import Sums
from federated_learning.training_settings import Stage, TrainingSettings
from tests.federated_learning.rounds.local import DESCRIPTION, SIDE, TRAINING, LocalTraining

THREE_ROUNDS = TRAINING.model_copy(update={"stages": (Stage(size=SIDE, epochs=3, batch=6),)})
LAST = "hospital-d"


def courses(federation: LocalTraining) -> list[Course]:
    return [session._course for session in federation.exchange.sessions.values()]


def test_a_hospital_that_missed_rounds_goes_on_by_the_same_sums(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=4, training=THREE_ROUNDS)
    away = federation.exchange.sessions[LAST]

    def come_and_go(step: Step, name: str, answer: Letter) -> Letter | None:
        rounds = len(federation.reports)
        if step is Step.TRAIN and rounds == 0:
            federation.exchange.sessions.pop(LAST, None)
        if step is Step.UNMASK and rounds == 1:
            federation.exchange.sessions.setdefault(LAST, away)
        return None if step is Step.TRAIN and name == LAST and rounds == 0 else answer

    federation.exchange.fault = come_and_go
    federation.coordinator().run()
    assert [LAST in report.survivors for report in federation.reports] == [False, False, True]
    assert [course.position for course in courses(federation)] == [4] * 4
    assert len({course.ask(Step.EVALUATE).order.weights for course in courses(federation)}) == 1
    kept = [path.name for path in (federation.folder / "run" / "sums").iterdir()]
    assert kept == ["000003.npz"]  # what everybody has followed is not kept, but for the last


@pytest.mark.slow
def test_a_hospital_whose_folder_is_lost_is_left_out_in_words_and_the_others_go_on(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=4, training=THREE_ROUNDS)

    def lose(step: Step, name: str, answer: Letter) -> Letter | None:
        if step is Step.UNMASK and name == LAST and len(federation.reports) == 1:
            shutil.rmtree(federation.folder / LAST / "state")
            federation.exchange.sessions[LAST] = federation.session(LAST)
        return answer

    federation.exchange.fault = lose
    federation.coordinator().run()
    assert [LAST in report.survivors for report in federation.reports] == [True, True, False]
    words = [event.words for event in federation.events if event.what == FAILED and event.hospital == LAST]
    assert any("stands at sum 0 of 3, from which it cannot go on" in line for line in words)


def test_a_sum_that_was_begun_to_be_opened_is_opened_with_the_same_hospitals_or_never(tmp_path: Path) -> None:
    """Shares of three are lost, one hospital has gone: the others do not go on without it, until it is back."""
    federation = LocalTraining(tmp_path, hospitals=4)
    gone = federation.exchange.sessions[LAST]

    def lose(step: Step, name: str, answer: Letter) -> Letter | None:
        training = federation.exchange.asked.count((Step.TRAIN, "hospital-a")) > 0
        if step is not Step.UNMASK or not training:
            return answer
        federation.exchange.sessions.pop(LAST, None)
        return answer if name == "hospital-a" else None

    federation.exchange.fault = lose
    with pytest.raises(AggregationAborted, match="needed, as they have begun to open this very sum"):
        federation.coordinator().run()
    federation.exchange.fault = lambda _step, _name, answer: answer
    federation.exchange.sessions[LAST] = gone
    federation.coordinator().run()
    assert federation.reports[0].survivors == federation.names
    assert len([line for line in federation.said if line.startswith("round 1: trained")]) == 4


def test_pixels_are_added_up_only_where_everybodys_settings_say_so(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    without = {"exchange_statistics": False}
    for name in federation.names:
        settings = federation.hospital_settings(name).model_copy(update=without)
        federation.exchange.sessions[name] = federation.session(name, settings)
    coordinator = federation.coordinator(federation.settings().model_copy(update=without | {"rounds": 1}))
    assert set(coordinator.course.ask(Step.SURVEY).layout.exact) == {"validation", "weight", "classes"}
    coordinator.run()
    assert len(federation.reports) == 1


def test_where_nothing_else_is_set_every_sum_is_over_the_same_hospitals(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=4, sums=Sums())
    lost: list[str] = []

    def lose(step: Step, name: str, answer: Letter) -> Letter | None:
        if step is Step.MASKED and name == LAST and len(federation.reports) == 1 and not lost:
            lost.append(name)
            return None
        return answer

    federation.exchange.fault = lose
    federation.coordinator().run()
    assert lost
    assert [report.survivors for report in federation.reports] == [federation.names] * 2


def test_a_hospital_with_other_settings_stops_the_run_before_anything_is_counted(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=4, sums=Sums(threshold=4))
    changes: dict[str, dict[str, Any]] = {
        "survivors = 4. By this hospital's settings, and the sums so far, it is 3": {"aggregation": Sums(threshold=3)},
        "ring_bits = 16": {"aggregation": Sums(threshold=4, ring_bits=32)},
        "exchange_statistics = true": {"exchange_statistics": False},
        "training.peak_rate = 0.003": {"training": TRAINING.model_copy(update={"peak_rate": 0.1})},
        "training.seed = 2018": {"training": TRAINING.model_copy(update={"seed": 1})},
        'classes.2 = "coarse"': {"description": DESCRIPTION.model_copy(update={"classes": ("fine", "middling", "x")})},
    }
    for words, change in changes.items():
        other = federation.hospital_settings("hospital-b").model_copy(update=change)
        federation.exchange.sessions["hospital-b"] = federation.session("hospital-b", other)
        with pytest.raises(ConfigurationError, match="hospital-b refuses"):
            federation.coordinator().run()
        assert any(f"hospital-b: the coordinator asks for {words}" in line for line in federation.said)
    assert not any(step is Step.SHARES for step, _ in federation.exchange.asked)


def test_everybodys_screen_shows_the_same_run(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=4)
    (lines,) = {federation.coordinator().course.describe(), *(course.describe() for course in courses(federation))}
    names = "hospital-a, hospital-b, hospital-c, hospital-d"
    assert lines[0] == f"federation.json {federation.participants.fingerprint}: {names}; coordinator 127.0.0.1:9092"
    assert (
        lines[1] == "run 'test' of 4 hospitals, at least 3 of them in each sum, which can tell a missing one's update"
    )
    assert lines[3] == "small-cnn, seed 2018; 16 px: 2 epochs in batches of 6"
    other = federation.hospital_settings("hospital-a").model_copy(update={"training": THREE_ROUNDS})
    assert federation.session("hospital-a", other)._course.describe()[-1] != lines[-1]


def test_a_hospital_does_not_go_on_with_other_settings_or_without_its_memory(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    federation.coordinator(federation.settings().model_copy(update={"rounds": 1})).run()
    changed = federation.hospital_settings("hospital-a").model_copy(update={"exchange_statistics": False})
    with pytest.raises(ConfigurationError, match="began with other settings than this file's"):
        federation.session("hospital-a", changed)
    (federation.folder / "hospital-a" / "state" / "answered.json").unlink()
    with pytest.raises(ConfigurationError, match="no longer knows what it answered in its runs"):
        federation.session("hospital-a")


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_every_machine_finds_the_same_bits_of_the_next_weights(momentum: float) -> None:
    """Single steps of IEEE 754 in float32, as NumPy does them, and nothing that a processor may fuse."""
    settings = TrainingSettings(architecture="resnet10-narrow", server_momentum=momentum, average_decay=0.97)
    model, generator = GlobalModel(settings), np.random.default_rng(1)
    weights = {name: value.numpy().copy() for name, value in model.weights.items()}
    average = {name: value.copy() for name, value in weights.items()}
    velocity: dict[str, Any] = {name: np.zeros_like(value) for name, value in weights.items()}
    batches = 0
    for _ in range(3):
        update = {name: generator.normal(0, 0.1, value.shape).astype(np.float32) for name, value in weights.items()}
        model.apply({name: torch.from_numpy(value) for name, value in update.items()}, batches=7)
        batches += 7
        decay = 1.0
        for _ in range(7):
            decay *= min(0.97, batches / (batches + 10))
        for name, value in update.items():
            step = value
            if momentum and "running_" not in name:
                velocity[name] = velocity[name] * np.float32(momentum) + value
                step = value + np.float32(momentum) * velocity[name]
            weights[name] = weights[name] + step
            average[name] = average[name] + (weights[name] - average[name]) * np.float32(1 - decay)
    for name, value in weights.items():
        assert np.array_equal(model.weights[name].numpy(), value)
        assert np.array_equal(model.average[name].numpy(), average[name])
