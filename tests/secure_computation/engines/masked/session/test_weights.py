"""What P1 holds of its weights: the same integers, in as few bytes as they need."""

import numpy as np
import pytest

from secure_computation.engines.masked.plan.fixed_point import IntegerWeights
from secure_computation.engines.masked.session.weights import held_small, linear_steps, mask_step
from secure_computation.randomness import Seed
from tests.secure_computation.engines.masked.parties import lowered, network_of


@pytest.mark.parametrize(
    ("low", "high", "bytes_each"),
    [(-128, 127, 1), (-129, 0, 2), (0, 128, 2), (-32768, 32767, 2), (-32769, 0, 4), (0, 32768, 4)],
)
def test_weights_are_held_in_as_few_bytes_as_they_need(low: int, high: int, bytes_each: int) -> None:
    weights = np.array([low, 0, high], np.int32)
    held = held_small(IntegerWeights({"w": weights}))["w"]
    assert held.itemsize == bytes_each
    assert held.tolist() == weights.tolist()


def test_delta_follows_from_weights_held_small() -> None:
    model = lowered(network_of("conv", "relu", "residual"))
    seed, held = Seed.fresh(), held_small(model.integers)
    for number, step in linear_steps(model.lowering):
        small, wide = (mask_step(tensors, seed, number, step) for tensors in (held, model.integers))
        np.testing.assert_array_equal(small.values, wide.values)
