import math
import stat
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import ConfigurationError
from federated_learning.augmentation import NONE
from federated_learning.averaging import GlobalModel, weighted_mean
from federated_learning.checkpoints import read, save
from federated_learning.in_process import Trainer
from federated_learning.local_training import LocalTrainer, evaluate, learning_rate, make_optimizer
from federated_learning.torch_networks import Images, Labels, Weights, new_network
from federated_learning.training_settings import RoundTask, Stage, TrainingSettings, change_settings, plan_rounds
from tests.federated_learning.test_in_process import pictures


def settings(**changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "architecture": "small-cnn",
        "stages": (Stage(size=16, epochs=2, batch=4),),
        "augmentation": NONE.model_copy(update={"brightness": 0.1, "mixup": 0.2}),
        "dropout": 0.1,
        "seed": 5,
    }
    return TrainingSettings(**(values | changes))


def task(number: int = 0, batches: int = 3, **changes: Any) -> RoundTask:
    values: dict[str, Any] = {
        "number": number,
        "epoch": 0,
        "size": 16,
        "batch": 4,
        "batches": batches,
        "begin": 0.4,
        "end": 0.6,
        "last_of_epoch": False,
        "final_size": True,
    }
    return RoundTask(**(values | changes))


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def hospital(chosen: TrainingSettings, count: int = 12, name: str = "north", **more: Any) -> LocalTrainer:
    images, labels = pictures(count, 1)
    return LocalTrainer(chosen, images=images, labels=labels, hospital=name, **more)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("architecture", ["small-cnn", "resnet10-narrow", "resnet10-narrow-normaliser-free"])
def test_a_resumed_hospital_sends_what_an_uninterrupted_one_does(
    tmp_path: Any, optimizer: str, architecture: str
) -> None:
    chosen = settings(optimizer=optimizer, architecture=architecture, peak_rate=1e-2)
    whole, broken = hospital(chosen), hospital(chosen)
    start = GlobalModel(chosen).weights
    for local in (whole, broken):
        local.load(start)
        local.train(task(0, batches=4))  # more than a pass
    assert same(whole.update(), broken.update())
    save(broken.state(), tmp_path / "local.npz")
    assert stat.S_IMODE((tmp_path / "local.npz").stat().st_mode) == 0o600  # it holds what one hospital learned

    resumed = hospital(chosen)
    resumed.restore(read(tmp_path / "local.npz"))
    assert resumed.rounds == 1
    following = whole.weights()
    for local in (whole, resumed):
        local.load(following)
        result = local.train(task(1))
        assert result.examples == 12
    assert same(whole.update(), resumed.update())
    assert any(value.abs().max() > 0 for value in resumed.update().values())


def test_a_state_is_not_changed_by_training_on(tmp_path: Any) -> None:
    local = hospital(settings())
    local.train(task(0))
    state = local.state()
    before = {name: value.copy() for name, value in state.items()}
    local.train(task(1))
    assert all(np.array_equal(before[name], state[name]) for name in state)


def test_hospitals_draw_other_orders_and_every_image_once_in_a_pass() -> None:
    north, south = hospital(settings(), name="north"), hospital(settings(), name="south")
    drawn = {name: [local._next(4) for _ in range(3)] for name, local in (("north", north), ("south", south))}
    for batches in drawn.values():
        assert sorted(np.concatenate(batches)) == list(range(12))
    assert any(not np.array_equal(*pair) for pair in zip(drawn["north"], drawn["south"], strict=True))


@pytest.mark.parametrize("facts", [{"name": "south"}, {"count": 15}])
def test_a_state_of_other_data_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="restore the data"):
        hospital(settings(), **facts).restore(hospital(settings()).state())


def test_a_state_of_other_settings_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="other settings"):
        hospital(settings(seed=6)).restore(hospital(settings()).state())


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="another network"):
        hospital(settings()).load(GlobalModel(settings(classes=4)).weights)
    with pytest.raises(ConfigurationError, match="another network"):
        GlobalModel(settings()).apply(GlobalModel(settings(architecture="resnet10-narrow")).weights, batches=1)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_update_that_is_not_finite_leaves_the_global_model_alone(broken: float) -> None:
    model = GlobalModel(settings())
    before = {name: value.clone() for name, value in model.weights.items()}
    update = {name: torch.ones_like(value) for name, value in before.items()}
    update[list(update)[-1]].view(-1)[0] = broken
    with pytest.raises(ConfigurationError, match="not finite"):
        model.apply(update, batches=1)
    assert same(model.weights, before)


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (1, [0], "at least two"),
        (3, [0, 1], "at least two"),
        (3, [0, 1, 3], "outside the 3"),
        (3, [0, -1, 2], "outside"),
    ],
)
def test_data_that_cannot_be_trained_on_names_the_hospital(count: int, labels: list[int], message: str) -> None:
    images: Images = np.zeros((count, 1, 16, 16), dtype=np.float32)
    truth: Labels = np.asarray(labels, dtype=np.int64)
    with pytest.raises(ConfigurationError, match=f"hospital east: .*{message}"):
        LocalTrainer(settings(), images=images, labels=truth, hospital="east")


def test_a_hospital_without_a_class_and_fewer_images_than_a_batch_trains() -> None:
    images, labels = pictures(3, 1)
    local = LocalTrainer(settings(), images=images[:2], labels=labels[:2], class_weights=(1.0, 1.2, 0.8))
    result = local.train(task())
    assert result.examples == 2
    assert math.isfinite(result.loss)


def test_class_weights_and_the_proximal_term_act_on_the_update() -> None:
    plain, weighed = hospital(settings()), hospital(settings(), class_weights=(3.0, 0.5, 0.5))
    start = GlobalModel(settings()).weights
    strong = settings(optimizer="sgd", momentum=0.0, weight_decay=0.0, peak_rate=0.05)
    free, tied = hospital(strong), hospital(change_settings(strong, proximal=10.0))
    for local in (plain, weighed, free, tied):
        local.load(start)
        local.train(task(batches=6))
    assert not same(plain.update(), weighed.update())

    def distance(local: LocalTrainer) -> float:
        return math.sqrt(sum(float((value**2).sum()) for value in local.update().values()))

    assert 0 < distance(tied) < 0.9 * distance(free)


def test_early_stopping_ends_a_hospital_s_say_and_survives_a_restart() -> None:
    chosen = settings(local_patience=2, peak_rate=1e-12, augmentation=NONE, dropout=0.0)
    images, labels = pictures(6, 2)

    def new() -> LocalTrainer:
        return hospital(chosen, validation=(images, labels))

    local = new()
    local._best_loss = 0.0  # nothing can be lower
    start = GlobalModel(chosen).weights
    for number in range(2):
        local.load(start)
        result = local.train(task(number))
        assert result.examples == 12
    assert result.stopped
    resumed = new()
    resumed.restore(local.state())
    resumed.load(start)
    result = resumed.train(task(2))
    assert (result.examples, result.batches) == (0, 0)
    assert not any(value.any() for value in resumed.update().values())
    with pytest.raises(ConfigurationError, match="held-out"):
        hospital(chosen)


def test_weighted_mean_is_that_of_the_pooled_examples() -> None:
    updates = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([4.0, 8.0])}]
    torch.testing.assert_close(weighted_mean(updates, [3, 1])["w"], torch.tensor([1.75, 3.5]))
    torch.testing.assert_close(weighted_mean(updates, [0, 5])["w"], updates[1]["w"])
    with pytest.raises(ConfigurationError, match="stopped"):
        weighted_mean(updates, [0, 0])


def test_server_momentum_carries_on_what_rounds_agree_on_and_survives_a_restart() -> None:
    chosen = settings(server_momentum=0.5, average_decay=0.0)
    model, again = GlobalModel(chosen), GlobalModel(chosen)
    start = {name: value.clone() for name, value in model.weights.items()}
    update = {name: torch.full_like(value, 0.25) for name, value in start.items()}
    model.apply(update, batches=1)
    again.restore(model.state())
    for restarted in (model, again):
        restarted.apply(update, batches=1)
    assert same(model.weights, again.weights)
    # Nesterov: 1.5 updates in the first round; velocity 1.5 in the second, so 1 + 0.5 * 1.5
    for name, value in model.weights.items():
        torch.testing.assert_close(value, start[name] + 0.25 * (1.5 + 1.75))
    plain = GlobalModel(settings())
    plain.apply(update, batches=1)
    torch.testing.assert_close(plain.weights["head.bias"], start["head.bias"] + 0.25)
    assert not [name for name in plain.state() if name.startswith("velocity")]


def test_three_hospitals_train_as_one_run_and_repeat_themselves() -> None:
    chosen = settings(sync_every=2, stages=(Stage(size=16, epochs=2, batch=4), Stage(size=32, epochs=1, batch=4)))

    def run() -> Trainer:
        trainer = Trainer(chosen, {name: pictures(count, 1) for name, count in (("a", 12), ("b", 18), ("c", 9))})
        for _ in trainer.tasks:
            trainer.run_round()
        return trainer

    first, second = run(), run()
    assert same(first.model.average, second.model.average)
    assert first.model.batches == sum(round_.batches for round_ in first.tasks) == 9


def test_sums_of_an_evaluation_add_up_over_parts_of_the_images() -> None:
    weights = GlobalModel(settings()).weights
    images, labels = pictures(9, 3)
    sums = evaluate(settings(), weights, images, labels, size=16)
    cuts = (slice(0, 4), slice(4, 9))
    parts = [evaluate(settings(), weights, images[cut], labels[cut], size=16) for cut in cuts]
    assert sums.examples == 9
    assert sums.correct == sum(part.correct for part in parts)
    assert sums.loss == pytest.approx(sum(part.loss for part in parts), rel=1e-5)


def test_plan_covers_each_epoch_once_whatever_the_number_of_hospitals() -> None:
    chosen = settings(sync_every=10, stages=(Stage(size=16, epochs=2, batch=4), Stage(size=32, epochs=1, batch=8)))
    for hospitals in (1, 3):
        tasks = plan_rounds(chosen, examples=300, hospitals=hospitals)
        assert [part.number for part in tasks] == list(range(len(tasks)))
        assert tasks[0].begin == 0
        assert tasks[-1].end == 1
        assert all(one.end == two.begin for one, two in pairwise(tasks))
        assert max(part.batches for part in tasks) <= 10
        drawn = [sum(part.batches * part.batch for part in tasks if part.epoch == epoch) for epoch in range(3)]
        assert all(300 - 8 * hospitals < hospitals * count <= 300 for count in drawn)
        assert [part.epoch for part in tasks if part.last_of_epoch] == [0, 1, 2]
        assert {part.epoch for part in tasks if part.final_size} == {2}


def test_learning_rate_rises_and_falls() -> None:
    chosen = settings(warm_up=0.2, peak_rate=1.0)
    rates = [learning_rate(chosen, done) for done in np.linspace(0, 1, 101)]
    assert rates[0] == 0
    assert rates[20] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert learning_rate(settings(warm_up=0.0, peak_rate=1.0), 0) == 1


def test_weight_decay_leaves_gains_and_biases_alone() -> None:
    for optimizer in ("sgd", "adam", "adamw"):
        chosen = settings(optimizer=optimizer, architecture="resnet10-narrow-normaliser-free", weight_decay=0.3)
        kernels, others = make_optimizer(new_network(chosen), chosen).param_groups
        assert kernels["weight_decay"] == 0.3
        assert others["weight_decay"] == 0
        assert all(parameter.ndim > 1 for parameter in kernels["params"])
        assert all(parameter.ndim <= 1 for parameter in others["params"])
