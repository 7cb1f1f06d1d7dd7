"""What a coordinator learns of a hospital from two sums, one with it and one without: not how many images it has."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from federated_learning.averaging import GlobalModel
from federated_learning.local_training import learning_rate
from federated_learning.rounds.aggregating import FAILED, Aggregator, Sum
from federated_learning.rounds.coordinator import Coordinator
from federated_learning.rounds.letters import ERROR, Letter, Step
from federated_learning.rounds.round_orders import Question, RoundOrder, write_order
from federated_learning.rounds.settings import Sums
from federated_learning.secure_aggregation.encoding import compute_weight
from federated_learning.torch_networks import Weights
from federated_learning.training_settings import RoundTask, Stage
from tests.federated_learning.rounds.local import SIDE, TRAINING, LocalTraining

DROPPED, ROUNDS = "hospital-d", 2
LONGER = TRAINING.model_copy(
    update={"architecture": "resnet10-narrow", "stages": (Stage(size=SIDE, epochs=ROUNDS, batch=6),)}
)
"""Its 7 x 7 kernels have elements that no image of this size reaches."""


@dataclass(kw_only=True)
class Run:
    """A run whose last hospital has fewer images than the others, and falls out in the last round."""

    federation: LocalTraining
    coordinator: Coordinator
    opened: list[tuple[Step, RoundOrder, Sum]]
    """All that the coordinator opened."""
    applied: list[tuple[Weights, Weights]]
    """Weights, and what was added to them."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("federation")
    federation = LocalTraining(folder, hospitals=4, training=LONGER, sums=Sums(threshold=3, ring_bits=32))
    keep_images(federation.tables[DROPPED], of_each_class=3)

    def fall_out(step: Step, name: str, answer: Letter) -> Letter | None:
        last = len(federation.reports) == ROUNDS - 1
        return None if last and name == DROPPED and step in (Step.MASKED, Step.EVALUATE) else answer

    federation.exchange.fault = fall_out
    coordinator = federation.coordinator(federation.settings(attempts=1))
    made = Run(federation=federation, coordinator=coordinator, opened=[], applied=[])
    aggregate, apply = Aggregator.aggregate, GlobalModel.apply

    def spied_aggregate(self: Aggregator, question: Question[Any], *, position: int) -> Sum:
        found = aggregate(self, question, position=position)
        made.opened.append((question.step, question.order, found))
        return found

    def spied_apply(self: GlobalModel, update: Mapping[str, torch.Tensor], *, batches: int) -> None:
        if self is coordinator.course._model:
            made.applied.append(({name: value.clone() for name, value in self.weights.items()}, dict(update)))
        apply(self, update, batches=batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Aggregator, "aggregate", spied_aggregate)
        patch.setattr(GlobalModel, "apply", spied_apply)
        coordinator.run()
    return made


def keep_images(table: Path, *, of_each_class: int) -> None:
    """Shorten a hospital's table of training images."""
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    kept: dict[str, int] = {}
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            label, role = row[1], row[3]
            kept[label] = kept.get(label, 0) + (role == "train")
            if role != "train" or kept[label] <= of_each_class:
                writer.writerow(row)


def test_sums_that_may_lack_a_hospital_count_hospitals_and_no_images(run: Run) -> None:
    names = run.federation.names
    assert [report.survivors for report in run.federation.reports] == [names, names[:3]]
    for step, order, found in run.opened:
        if order.threshold == len(names):
            assert found.survivors == set(names)
        else:
            assert step is Step.TRAIN
            assert set(found.exact) == {"stopped", "largest"}
            assert int(found.exact["stopped"]) == 0
    assert [line.training_loss for line in run.federation.lines] == [None] * ROUNDS


def test_an_evaluation_without_a_hospital_is_left_out_and_the_run_goes_on(run: Run) -> None:
    assert [line.round for line in run.coordinator.progress.evaluations] == [1]
    assert [order.round for step, order, _ in run.opened if step is Step.EVALUATE] == [1]
    words = [event.words for event in run.federation.events if event.what == FAILED]
    assert any(line.startswith("not evaluated, as that needs all hospitals") for line in words)


def test_what_no_image_moves_tells_a_power_of_two_and_not_the_number_of_images(run: Run) -> None:
    """Pictures are one point at the last stage: all but the middle of its kernels move by weight decay alone."""
    survey = run.coordinator.course.standing.survey
    assert survey is not None
    parts = [
        part_that_decayed(*applied) / decay(task)
        for applied, task in zip(run.applied, run.coordinator.plan(), strict=True)
    ]
    assert parts[0] == pytest.approx(1, rel=0.01)
    dropped = 1 - parts[1]
    assert (compute_weight(9), survey.weight, survey.examples) == (8, 3 * 16 + 8, 3 * 12 + 9)
    assert dropped == pytest.approx(8 / 56, abs=0.01)  # 9 images of 45 would be 0.2


def part_that_decayed(weights: Weights, update: Weights) -> float:
    name = "stages.3.convolution2.0.weight"
    outer = torch.ones(3, 3, dtype=torch.bool)
    outer[1, 1] = False
    before, change = weights[name][..., outer].double(), update[name][..., outer].double()
    return float(-(before * change).sum() / (before * before).sum())


def decay(task: RoundTask) -> float:
    """Part of a weight that decays in a round."""
    left = 1.0
    for batch in range(task.batches):
        done = task.begin + (task.end - task.begin) * (batch + 0.5) / task.batches
        left *= 1 - learning_rate(LONGER, done) * LONGER.weight_decay
    return 1 - left


@pytest.mark.parametrize("examples", [1, 2, 5, 6, 11, 12, 22, 23, 1000, 10**9])
def test_a_weight_is_the_power_of_two_nearest_to_the_number_of_images(examples: int) -> None:
    weight = compute_weight(examples)
    assert weight.bit_count() == 1
    assert 0.5**0.5 <= weight / examples <= 2**0.5


@pytest.mark.parametrize("step", [Step.SURVEY, Step.EVALUATE])
def test_a_hospital_adds_its_counts_to_no_sum_that_may_lack_another(tmp_path: Path, run: Run, step: Step) -> None:
    federation = run.federation if step is Step.EVALUATE else LocalTraining(tmp_path, hospitals=4)
    question = federation.exchange.sessions["hospital-a"]._course.ask(step)
    order = question.order.model_copy(update={"threshold": 3})
    letter = write_order(order, attempt=9, parts=question.parts)
    answer = federation.exchange.sessions["hospital-a"].answer(step, letter)
    assert answer.header[ERROR] == "refused"
    assert "the coordinator asks for threshold = 3" in federation.said[-1]
