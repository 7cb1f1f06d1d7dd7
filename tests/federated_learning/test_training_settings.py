"""Training settings and plans that no machine could follow are refused before anything is made of them."""

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from contract.errors import ConfigurationError
from federated_learning.training_settings import MAX_EXAMPLES, MAX_ROUNDS, Stage, TrainingSettings, plan_rounds

NUMBERS = [2**40, 2**64, 10**300, -1, float("nan"), float("inf"), -float("inf"), 1e300, "one", None, [], {}]
PLAIN = json.loads(TrainingSettings().model_dump_json())


def fields(content: dict[str, Any], where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every number's place in the settings."""
    found: list[tuple[str, ...]] = []
    for name, value in content.items():
        if isinstance(value, dict):
            found += fields(value, (*where, name))
        elif not isinstance(value, str | bool | list):
            found.append((*where, name))
    return found


def changed(where: tuple[str, ...], value: object) -> str:
    content = json.loads(json.dumps(PLAIN))
    place = content
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize("where", fields(PLAIN), ids=".".join)
def test_a_number_beyond_all_reason_is_refused(where: tuple[str, ...]) -> None:
    taken = []
    for value in NUMBERS:
        try:
            TrainingSettings.model_validate_json(changed(where, value))
        except ValidationError:
            continue
        taken.append(value)
    assert [value for value in taken if value is not None] == []  # None switches some of them off


def test_no_other_seed_gives_the_same_initial_weights() -> None:
    """A run with another seed may be summed with other hospitals. Torch looks at 32 bits of a longer one."""
    drawn = [torch.manual_seed(seed) and torch.rand(1) for seed in (2018, 2018 + 2**32)]
    assert drawn[0] == drawn[1]
    with pytest.raises(ValidationError):
        TrainingSettings(seed=2018 + 2**32)
    assert TrainingSettings(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize(
    "stage",
    [{"size": 4097, "epochs": 1}, {"size": 8, "epochs": 2**40}, {"size": 8, "epochs": 1, "batch": 2**40},
     {"size": 4096, "epochs": 1, "batch": 5}],
)  # fmt: skip
def test_a_batch_that_fits_no_machine_is_refused(stage: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Stage(**stage)
    assert Stage(size=4096, epochs=1, batch=4).batch == 4


def test_a_plan_is_counted_before_it_is_made() -> None:
    """The number of examples is a sum to which any hospital may have added what it likes."""
    each_batch = TrainingSettings(sync_every=1, stages=(Stage(size=8, epochs=10_000),))
    with pytest.raises(ConfigurationError, match=f"are more than the {MAX_ROUNDS} of a run: raise sync_every"):
        plan_rounds(each_batch, examples=MAX_EXAMPLES, hospitals=3)
    with pytest.raises(ConfigurationError, match=f"more than the {MAX_EXAMPLES} that a run may have"):
        plan_rounds(TrainingSettings(), examples=2**58, hospitals=3)
