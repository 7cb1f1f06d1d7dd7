from typing import Any

import pytest
from pydantic import ValidationError

from contract.errors import CallerError, ConfigurationError
from federated_learning.augmentation import NONE, Augmentation
from federated_learning.privacy.settings import Privacy, check_agreed, check_private_training, read_aim
from federated_learning.recipe import PEDIATRIC_PNEUMONIA, make_private_recipe
from federated_learning.training_settings import TrainingSettings, plan_steps

RECIPE = make_private_recipe(PEDIATRIC_PNEUMONIA, epochs=10)
PRIVACY = Privacy(noise_multiplier=1, clip=1, patients=100, delta=1e-3)


def test_the_recipe_for_privacy_may_be_trained_with_it() -> None:
    check_private_training(RECIPE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "resnet18"}, "batch normalisation"),
        ({"optimizer": "adamw"}, "optimizer"),
        ({"momentum": 0.9}, "momentum"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"class_balance": 0.5}, "class_balance"),
        ({"local_patience": 3}, "local_patience"),
        ({"proximal": 0.1}, "proximal"),
        ({"sync_every": 2}, "sync_every"),
        ({"dropout": 0.2}, "dropout"),
        ({"augmentation": NONE.model_copy(update={"mixup": 0.2})}, "mixup"),
        ({"augmentation": Augmentation()}, "augmentation"),
        ({"precision": "bfloat16"}, "precision"),
    ],
)
def test_what_would_void_privacy_is_refused(change: dict[str, Any], words: str) -> None:
    training = TrainingSettings.model_validate(RECIPE.model_copy(update=change).model_dump())
    with pytest.raises(ConfigurationError, match=words):
        check_private_training(training)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"secure": False}, "secure"), ({"ring_bits": 16}, "ring_bits"), ({"exchange_statistics": True}, "pixels")],
)
def test_exact_sums_and_sums_in_the_clear_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_agreed(PRIVACY, RECIPE, **({"secure": True, "ring_bits": 32, "exchange_statistics": False} | change))


@pytest.mark.parametrize("delta", [0.01, 0.5, 0.0, 1.0])
def test_a_delta_that_is_not_below_one_patient_is_refused(delta: float) -> None:
    with pytest.raises(ValidationError):
        Privacy(noise_multiplier=1, clip=1, patients=100, delta=delta)


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise_multiplier", 0.0), ("noise_multiplier", float("nan")), ("clip", -1.0), ("clip", float("inf")),
     ("sampling_rate", 0.0), ("sampling_rate", 1.5), ("patients", 1)],
)  # fmt: skip
def test_numbers_that_give_no_noise_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Privacy(**(PRIVACY.model_dump() | {field: value}))


def test_what_is_typed_for_a_trial_is_read() -> None:
    assert read_aim("epsilon=3").model_dump() == {
        "epsilon": 3.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 1.0, "each_alone": False,
    }  # fmt: skip
    assert read_aim("epsilon=3, delta=1e-6,each_alone=true").each_alone


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "epsilon=3"),
        ("", "epsilon=3"),
        ("epsilon=3,epsilon=8", "once"),
        ("epsilon=three", "number"),
        ("epsilon=nan", "epsilon"),
        ("epsilon=-1", "more than 0"),
        ("delta=1e-5", "missing"),
        ("epsilon=3,colour=red", "no such field"),
        ("epsilon=3,noise=central", "each hospital draws its own"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(CallerError, match=words):
        read_aim(text)


def test_each_patient_is_drawn_once_in_an_epoch_on_average() -> None:
    tasks = plan_steps(RECIPE, rate=0.25)
    assert len(tasks) == 40
    assert [tasks[0].begin, tasks[-1].end] == [0, 1]
    assert {task.batches for task in tasks} == {1}
    assert [task.epoch for task in tasks[:8]] == [0, 0, 0, 0, 1, 1, 1, 1]
