"""Rounds without a network: what the coordinator and the hospitals make of each other's messages, and of failures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import AggregationAborted, ConfigurationError
from contract.model_card import InputSpecification
from federated_learning.export import run_onnx, to_onnx
from federated_learning.in_process import read_chosen
from federated_learning.local_training import LocalTrainer
from federated_learning.rounds.aggregating import FAILED
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.rounds.letters import Answers, Letter, Part, Step
from federated_learning.rounds.settings import Sums
from federated_learning.run_records import RunKind, append_round, read_history, read_rounds, read_run
from federated_learning.torch_networks import network_with
from federated_learning.training_settings import Stage
from tests.federated_learning.rounds.local import DESCRIPTION, TRAINING, LocalTraining

LEGS = (Step.TRAIN, Step.SHARES, Step.MASKED, Step.CONFIRM, Step.UNMASK)


def flat(coordinator: Coordinator) -> np.ndarray:
    state = coordinator.course.state()
    return np.concatenate([value.ravel() for name, value in sorted(state.items()) if name.startswith("weights/")])


def failures(federation: LocalTraining) -> list[str]:
    return [f"{event.hospital}: {event.words}" for event in federation.events if event.what == FAILED]


def lose(federation: LocalTraining, step: Step, name: str) -> Callable[[Step, str, Letter], Letter | None]:
    """Loses this hospital's answer to this step of the first round, once."""
    lost: list[Step] = []

    def fault(asked: Step, who: str, answer: Letter) -> Letter | None:
        training = any(one is Step.TRAIN for one, _ in federation.exchange.asked)
        if lost or not training or (asked, who) != (step, name):
            return answer
        lost.append(asked)
        return None

    return fault


def test_a_run_trains_and_leaves_its_record(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    coordinator = federation.coordinator()
    before = flat(coordinator)
    coordinator.run()
    settings = federation.settings()
    for line, traffic in zip(federation.lines, federation.reports, strict=True):
        append_round(settings.output, line)
        append_round(settings.output, traffic)
    coordinator.write_record()

    assert [report.survivors for report in federation.reports] == [federation.names] * 2
    assert np.abs(flat(coordinator) - before).max() > 1e-3
    run = read_run(settings.output)
    assert run.kind is RunKind.FEDERATED_SECURE
    assert run.federation is not None
    assert run.federation.class_counts == {"fine": 12, "middling": 12, "coarse": 12}
    # Mean and deviation of all hospitals' pixels, which no hospital knows alone, stand in the model's description.
    assert run.description.input.mean != (0.4,)
    assert 0.3 < run.description.input.mean[0] < 0.6
    chosen, _ = read_chosen(settings.output / "best.npz")
    assert all(torch.isfinite(value).all() for value in chosen.values())
    history = read_history(settings.output)
    assert [one.round for one in history] == [1, 2]
    assert all(one.validation_accuracy is not None for one in history)
    for traffic in read_rounds(settings.output):
        assert set(traffic.bytes_sent) == set(federation.names)
        assert set(traffic.seconds_by_step) >= {"TRAIN", "SHARES", "MASKED", "CONFIRM", "UNMASK", "opening"}


def test_hospitals_train_a_network_of_three_channels(tmp_path: Path) -> None:
    three = DESCRIPTION.input.model_dump() | {"channels": 3, "mean": (0.4,) * 3, "standard_deviation": (0.2,) * 3}
    description = DESCRIPTION.model_copy(update={"input": InputSpecification.model_validate(three)})
    federation = LocalTraining(tmp_path, hospitals=3, description=description)
    settings = federation.settings()
    coordinator = federation.coordinator(settings)
    coordinator.run()
    coordinator.write_record()
    run = read_run(settings.output)
    network = network_with(run.settings, read_chosen(settings.output / "best.npz")[0])
    specification = run.description.input
    assert len(set(specification.mean)) == 1
    assert specification.mean != description.input.mean
    images = np.zeros((2, specification.channels, specification.height, specification.width), np.float32)
    assert run_onnx(to_onnx(network, specification), images).shape == (2, 3)


def test_a_hospital_sends_little_more_than_half_of_what_floats_take(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    federation.coordinator().run()
    for line, traffic in zip(federation.lines, federation.reports, strict=True):
        for sent in traffic.bytes_sent.values():
            assert line.bytes_in_the_clear is not None
            assert sent <= 0.5 * line.bytes_in_the_clear + 4000  # keys, shares, signatures


def test_secure_aggregation_gives_the_weights_of_averaging_in_the_clear_but_for_rounding(tmp_path: Path) -> None:
    secure, plain = (
        LocalTraining(tmp_path / "secure", hospitals=3, sums=Sums(ring_bits=32)),
        LocalTraining(tmp_path / "plain", hospitals=3, sums=Sums(ring_bits=32, secure=False)),
    )
    results = []
    for federation in (secure, plain):
        coordinator = federation.coordinator()
        coordinator.run()
        results.append(flat(coordinator))
    assert np.abs(results[0] - results[1]).max() < 1e-5
    assert any(step is Step.PLAIN for step, _ in plain.exchange.asked)
    assert not any(step is Step.PLAIN for step, _ in secure.exchange.asked)


@pytest.mark.parametrize("leg", LEGS)
def test_of_four_hospitals_one_may_fall_out_at_any_leg(tmp_path: Path, leg: Step) -> None:
    federation = LocalTraining(tmp_path, hospitals=4)
    federation.exchange.fault = lose(federation, leg, "hospital-d")
    coordinator = federation.coordinator(federation.settings())
    coordinator.run()
    first = federation.reports[0]
    # Once its masked update has arrived it counts, whether the hospital is still there or not.
    in_sum = leg in (Step.CONFIRM, Step.UNMASK)
    assert first.survivors == (federation.names if in_sum else federation.names[:3])
    assert first.restarts == 0
    assert federation.reports[1].survivors == federation.names
    assert any("hospital-d: went away" in line for line in failures(federation))


def test_of_three_hospitals_one_that_falls_out_costs_the_attempt_and_nobody_trains_again(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    federation.exchange.fault = lose(federation, Step.MASKED, "hospital-b")
    coordinator = federation.coordinator()
    coordinator.run()
    assert coordinator.course.standing.survey is not None
    assert coordinator.course.standing.survey.examples == 36
    trained = [line for line in federation.said if line.startswith("round 1: trained")]
    assert len(trained) == 3
    masked = [dict(letter.parts)[Part.MASKED] for step, name, letter in federation.exchange.view if step is Step.MASKED]
    assert len(masked) == len(set(masked))  # the same update under fresh masks


def test_a_round_that_fails_too_often_ends_the_run_and_keeps_what_was_reached(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)

    def fault(step: Step, name: str, answer: Letter) -> Letter | None:
        second_round = len(federation.reports) == 1
        return None if second_round and (step, name) == (Step.SHARES, "hospital-c") else answer

    federation.exchange.fault = fault
    settings = federation.settings(attempts=2)
    with pytest.raises(AggregationAborted, match="given up 2 times"):
        federation.coordinator(settings).run()
    federation.exchange.fault = lambda _step, _name, answer: answer
    again = federation.coordinator(settings)
    assert again.course.standing.rounds == 1
    again.run()
    assert again.course.standing.rounds == 2


def test_too_few_hospitals_are_named(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    del federation.exchange.sessions["hospital-b"]
    with pytest.raises(AggregationAborted, match="missing: hospital-b"):
        federation.coordinator().run()


def interrupted(federation: LocalTraining, leg: Step) -> np.ndarray:
    """The coordinator dies at a leg of the second round, and another one goes on from the same folder."""

    class Died(Exception):
        pass

    def die(step: Step, _name: str, answer: Letter) -> Letter | None:
        if step is leg and len(federation.reports) == 1:
            raise Died
        return answer

    federation.exchange.fault = die
    with pytest.raises(Died):
        federation.coordinator().run()
    federation.exchange.fault = lambda _step, _name, answer: answer
    coordinator = federation.coordinator()
    assert coordinator.course.standing.rounds == 1
    coordinator.run()
    return flat(coordinator)


@pytest.mark.parametrize("leg", [Step.MASKED, Step.UNMASK])
def test_a_coordinator_that_dies_in_the_middle_of_a_round_goes_on_with_the_hospitals_work(
    tmp_path: Path, leg: Step
) -> None:
    whole, broken = (LocalTraining(tmp_path / name, hospitals=3) for name in ("whole", "broken"))
    coordinator = whole.coordinator()
    coordinator.run()
    result = interrupted(broken, leg)
    assert np.array_equal(result, flat(coordinator))
    assert len([line for line in broken.said if line.startswith("round 2: trained")]) == 3


def test_a_hospital_that_starts_anew_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, broken = (LocalTraining(tmp_path / name, hospitals=3) for name in ("whole", "broken"))
    expected = whole.coordinator()
    expected.run()

    def crash(step: Step, name: str, answer: Letter) -> Letter | None:
        if (step, name) == (Step.SHARES, "hospital-a") and len(broken.reports) == 1:
            # The process is gone, and a new one there at once, with what is on the disk.
            broken.exchange.sessions[name] = broken.session(name)
            broken.exchange.fault = lambda _step, _name, later: later
            return None
        return answer

    broken.exchange.fault = crash
    coordinator = broken.coordinator()
    coordinator.run()
    assert np.array_equal(flat(coordinator), flat(expected))
    assert any("goes on after round 2" in line for line in broken.said)
    assert len([line for line in broken.said if line.startswith("round 2: trained")]) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    federation = LocalTraining(tmp_path, hospitals=4)
    diverge(monkeypatch, value, "hospital-b")
    coordinator = federation.coordinator()
    coordinator.run()
    assert federation.reports[0].survivors == ("hospital-a", "hospital-c", "hospital-d")
    assert any(line.startswith("hospital hospital-b: ") and "not finite" in line for line in federation.said)
    assert any(line.startswith("hospital-b: ") for line in failures(federation))
    assert np.isfinite(flat(coordinator)).all()


def test_an_update_that_is_too_long_is_scaled_down_and_told_at_its_hospital_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an error nor zeros: one would tell how long it is, the others leave another's update alone in a sum."""
    federation = LocalTraining(tmp_path, hospitals=3)
    diverge(monkeypatch, 1e25, "hospital-b")
    coordinator = federation.coordinator()
    coordinator.run()
    assert [report.survivors for report in federation.reports] == [federation.names] * 2
    assert any("it is scaled down to this hospital's max_norm, 1e+03" in line for line in federation.said)
    assert failures(federation) == []
    assert np.isfinite(flat(coordinator)).all()


@pytest.mark.parametrize("max_norm", [1e-20, 1e-3])
def test_how_long_an_update_is_changes_nothing_that_is_sent_beside_the_sum(tmp_path: Path, max_norm: float) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    for name in federation.names:
        settings = federation.hospital_settings(name).model_copy(update={"max_norm": max_norm})
        federation.exchange.sessions[name] = federation.session(name, settings)
    federation.coordinator().run()
    assert [report.survivors for report in federation.reports] == [federation.names] * 2
    assert all(not letter.header for _, _, letter in federation.exchange.view)


def diverge(monkeypatch: pytest.MonkeyPatch, value: float, *names: str) -> None:
    update = LocalTrainer.update

    def diverged(self: LocalTrainer) -> dict[str, torch.Tensor]:
        return {
            name: torch.full_like(tensor, value) if self._hospital in names else tensor
            for name, tensor in update(self).items()
        }

    monkeypatch.setattr(LocalTrainer, "update", diverged)


def test_in_the_clear_an_update_of_another_network_or_with_nan_is_left_out(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3, sums=Sums(secure=False))

    def fault(step: Step, name: str, answer: Letter) -> Letter | None:
        if step is not Step.PLAIN or not answer.parts[Part.UPDATE]:
            return answer
        if name == "hospital-a":
            return Letter(parts={**answer.parts, Part.UPDATE: answer.parts[Part.UPDATE][:-4]})
        if name == "hospital-b":
            return Letter(parts={**answer.parts, Part.UPDATE: b"\xff" * len(answer.parts[Part.UPDATE])})
        return answer

    federation.exchange.fault = fault
    federation.coordinator().run()
    assert federation.reports[0].survivors == ("hospital-c",)
    assert any("hospital-a sent an update of another network" in line for line in failures(federation))
    assert any("hospital-b sent an update with values that are not finite" in line for line in failures(federation))


def test_data_that_changes_while_training_is_named_at_the_hospital_only(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=4)

    def change(step: Step, name: str, answer: Letter) -> Letter | None:
        if (step, name) == (Step.UNMASK, "hospital-d") and len(federation.reports) == 0:
            table = federation.tables["hospital-d"].read_text().splitlines()
            victim = federation.data / table[1].split(",")[0]
            victim.write_bytes(victim.read_bytes() + b" ")
            federation.victim = victim.name  # type: ignore[attr-defined]
        return answer

    federation.exchange.fault = change
    federation.coordinator().run()
    name = federation.victim  # type: ignore[attr-defined]
    assert any("hospital hospital-d" in line and name in line for line in federation.said)
    left_out = [line for line in failures(federation) if line.startswith("hospital-d")]
    assert left_out
    assert not any(name in line for line in left_out)  # a file may be named after a patient
    assert federation.reports[-1].survivors == federation.names[:3]


def test_a_hospital_refuses_a_run_that_it_did_not_agree_to(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    other = federation.hospital_settings("hospital-c").model_copy(update={"run": "another"})
    federation.exchange.sessions["hospital-c"] = federation.session("hospital-c", other)
    with pytest.raises(ConfigurationError, match="hospital hospital-c refuses this order; its own screen says"):
        federation.coordinator().run()
    assert any("hospital-c takes part in run 'another', not in 'test'" in line for line in federation.said)


def test_a_hospital_sends_nothing_in_the_clear_unless_its_own_settings_allow_it(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3, sums=Sums(secure=False))
    strict = federation.hospital_settings("hospital-a").model_copy(update={"aggregation": Sums()})
    federation.exchange.sessions["hospital-a"] = federation.session("hospital-a", strict)
    with pytest.raises(ConfigurationError, match="hospital hospital-a refuses this order"):
        federation.coordinator().run()
    assert any("hospital-a sends nothing in the clear" in line for line in federation.said)


def test_a_hospital_asked_twice_answers_the_same_and_stays_in_the_round(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    ask = federation.exchange.ask

    def twice(step: Step, letters: Mapping[str, Letter], **how: Any) -> Answers:
        ask(step, letters, **how)
        return ask(step, letters, **how)

    federation.exchange.ask = twice  # type: ignore[method-assign]
    federation.coordinator().run()
    assert [report.survivors for report in federation.reports] == [federation.names] * 2
    assert all(report.restarts == 0 for report in federation.reports)


def test_hospitals_answer_with_nothing_beside_the_protocol(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    federation.coordinator().run()
    allowed = {Part.ADVERTISEMENT, Part.SHARES, Part.MASKED, Part.CONFIRMATION, Part.UNMASKING, Part.POSITION}
    lengths: dict[tuple[int, Step], set[int]] = {}
    for index, (step, _name, letter) in enumerate(federation.exchange.view):
        assert letter.header == {}
        assert set(letter.parts) <= allowed
        lengths.setdefault((index // 3, step), set()).add(letter.byte_count())
    # A length that differed by hospital would say something of its data.
    assert all(len(of_one_step) == 1 for of_one_step in lengths.values())


def test_a_run_ends_when_every_hospital_has_trained_enough(tmp_path: Path) -> None:
    changes = {"architecture": "resnet10-narrow-normaliser-free", "peak_rate": 1e-30, "local_patience": 1}
    never_better = TRAINING.model_copy(update={**changes, "stages": (Stage(size=16, epochs=6, batch=6),)})
    federation = LocalTraining(tmp_path, hospitals=3, training=never_better)
    settings = federation.settings()
    coordinator = federation.coordinator(settings)
    coordinator.run()
    assert coordinator.course.standing.rounds < 6
    assert np.isfinite(flat(coordinator)).all()
    assert (settings.output / "best.npz").exists()


def test_a_hospital_that_has_trained_enough_leaves_no_other_alone_in_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three say so from the first round on, one of them as it has no images to judge by."""
    patient = TRAINING.model_copy(update={"local_patience": 1})
    federation = LocalTraining(tmp_path, hospitals=3, training=patient)
    without = federation.hospital_settings("hospital-b")
    without = without.model_copy(update={"data": without.data.model_copy(update={"validation": ()})})
    federation.exchange.sessions["hospital-b"] = federation.session("hospital-b", without)
    check, update, moved = LocalTrainer._check_early_stop, LocalTrainer.update, list[tuple[str, float]]()

    def stopped(self: LocalTrainer, size: int) -> None:
        check(self, size)
        self.stopped = self.stopped if self._hospital == "hospital-b" else self._hospital == "hospital-a"

    def watched(self: LocalTrainer) -> dict[str, torch.Tensor]:
        found = update(self)
        moved.append((self._hospital, max(float(value.abs().max()) for value in found.values())))
        return found

    monkeypatch.setattr(LocalTrainer, "_check_early_stop", stopped)
    monkeypatch.setattr(LocalTrainer, "update", watched)
    federation.coordinator().run()
    assert sorted(name for name, size in moved if size > 0) == sorted([*federation.names] * 2)
    assert len([line for line in federation.said if line.endswith(", enough for this hospital")]) == 4


def test_two_hospitals_cannot_aggregate_securely(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    two = federation.participants.model_copy(update={"hospitals": federation.participants.hospitals[:2]})
    with pytest.raises(ConfigurationError, match="needs at least 3 hospitals"):
        Coordinator(federation.settings(), two, federation.exchange)


def test_another_run_or_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    federation = LocalTraining(tmp_path, hospitals=3)
    federation.coordinator().run()
    for change in ({"run": "other"}, {"training": federation.training.model_copy(update={"seed": 1})}):
        settings = federation.settings().model_copy(update=change)
        with pytest.raises(ConfigurationError, match="another run's name, other settings or another version"):
            federation.coordinator(settings)
