"""Softmax on CrypTen tensors: its error whatever the values are, its rounds, and Newton's method behind it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge.softmax import newton_start, softmax
from secure_computation.network import MAX_SOFTMAX
from tests.secure_computation.crypten_bridge.test_protocols import Both, execute, record

TOLERANCE = 0.002
"""Three times the largest error that was seen over thousands of softmaxes of 2 to 4096 values."""


def check(both: Both, parties: tuple[Channel, Channel], values: np.ndarray) -> None:
    """One image of shape (n, places)."""
    integers = torch.from_numpy(np.rint(values * 65536).astype(np.int64))[None]
    shares = execute(both, parties, softmax, integers)
    result = (shares[0] + shares[1]).numpy() / 65536
    wanted = torch.softmax(integers.to(torch.float64) / 65536, dim=1).numpy()
    assert result.shape == wanted.shape
    assert np.abs(result - wanted).max() < TOLERANCE


@settings(max_examples=5)
@given(
    n=st.integers(2, 20),
    magnitude=st.sampled_from([0.0, 0.01, 1.0, 8.0, 1000.0]),
    offset=st.sampled_from([0.0, -3000.0, 20000.0]),
    seed=st.integers(0, 2**16),
)
def test_error_whatever_the_values_are(
    both: Both, parties: tuple[Channel, Channel], n: int, magnitude: float, offset: float, seed: int
) -> None:
    check(both, parties, np.random.default_rng(seed).normal(size=(n, 7)) * magnitude + offset)


@pytest.mark.parametrize("n", [2, 300, MAX_SOFTMAX])
def test_error_where_all_are_equal_and_where_one_stands_out(
    both: Both, parties: tuple[Channel, Channel], n: int
) -> None:
    values = np.zeros((n, 5))
    values[0] = [0, 20, 6, -20, 12]
    check(both, parties, values)


@pytest.mark.parametrize(("n", "steps"), [(2, 2), (3, 3), (16, 5), (1000, 12)])
def test_it_takes_the_rounds_that_it_declares(n: int, steps: int) -> None:
    _, openings = record(softmax, (1, n, 5))
    assert len(openings) == 9 * math.ceil(math.log2(n)) + 9 + 8 + 2 * steps + 1
    assert newton_start(n).steps == steps


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 16, 31, 64, 100, 128, 129, 255, 256, 1000, 2048, MAX_SOFTMAX])
def test_newtons_method_finds_the_reciprocal_of_every_sum(n: int) -> None:
    start = newton_start(n)
    d = np.linspace(1, n, 20_001)
    for last_bit in (-1, 0, 1):  # of what CrypTen truncates, in whole units of 2^-16
        if start.slope:
            y = start.constant - start.slope * d + last_bit / 65536
        else:
            y = start.constant * (2 - start.constant * d)
        for _ in range(start.steps):
            y = y * (2 - d * y)
        assert np.abs(1 - d * y).max() < 2**-12
