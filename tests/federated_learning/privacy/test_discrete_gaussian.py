"""The noise's distribution, by bounds that a right sampler breaks less often than once in 10^10 runs."""

import math
from decimal import Context, Decimal

import numpy as np
import pytest
from numpy.typing import NDArray

from federated_learning.privacy.discrete_gaussian import MAX_VARIANCE, Margins, draw_discrete_gaussian
from secure_computation.randomness import Seed

CHANCE = 1e-11
"""Of each bound below; there are fewer than ten."""
COUNT = 1_000_000


def draw(variance: int, count: int = COUNT) -> NDArray[np.int64]:
    return draw_discrete_gaussian(Seed.fresh(), step=0, variance=variance, count=count)


def find_odd_values(samples: NDArray[np.int64], variance: int) -> list[int]:
    """Values that come more or less often than the exact probabilities let them, by Bernstein's inequality.

    What lies beyond ten deviations counts as one value.
    """
    edge = math.ceil(10 * math.sqrt(variance))
    weights = np.exp(-(np.arange(-edge, edge + 1, dtype=np.float64) ** 2) / (2 * variance))
    expected = weights / weights.sum() * samples.size
    found = np.bincount(np.clip(samples, -edge, edge) + edge, minlength=2 * edge + 1)
    x = math.log(2 * expected.size / CHANCE)
    bound = np.sqrt(2 * x * expected) + x
    return [int(value) - edge for value in np.flatnonzero(np.abs(found - expected) > bound)]


def fits_variance(samples: NDArray[np.int64], variance: int) -> bool:
    """Laurent and Massart's bound of a sum of squares, from which a discrete Gaussian's differs by nothing here."""
    x = math.log(2 / CHANCE) / samples.size
    found = float(np.mean(samples.astype(np.float64) ** 2)) / variance
    return 1 - 2 * math.sqrt(x) < found < 1 + 2 * math.sqrt(x) + 2 * x


def fits_gaussian(samples: NDArray[np.int64], deviation: float) -> bool:
    """The bound of Dvoretzky, Kiefer, Wolfowitz and Massart on the distance of distribution functions.

    Only for wide distributions, where the integers are as good as the reals.
    """
    real = np.sort(samples) / (deviation * math.sqrt(2))
    exact = np.array([0.5 * (1 + math.erf(value)) for value in real[::50]])
    steps = np.arange(samples.size)[::50] / samples.size
    distance = float(np.abs(exact - steps).max())
    return distance < math.sqrt(math.log(2 / CHANCE) / (2 * samples.size)) + 1 / samples.size


@pytest.mark.parametrize("variance", [1, 7])
def test_every_value_comes_as_often_as_it_should(variance: int) -> None:
    assert find_odd_values(draw(variance), variance) == []


def test_wide_noise_is_gaussian_in_its_middle_and_its_tails() -> None:
    variance = 3 << 40
    samples, deviation = draw(variance), math.sqrt(variance)
    assert fits_gaussian(samples, deviation)
    assert fits_variance(samples, variance)
    # Beyond four deviations: 63 of a million. Beyond nine: one in 10^19.
    tail = int(np.count_nonzero(np.abs(samples) > 4 * deviation))
    assert 15 < tail < 135
    assert np.abs(samples).max() < 9 * deviation
    assert abs(samples.mean()) < 7 * deviation / math.sqrt(COUNT)


def test_the_bounds_catch_noise_that_is_slightly_wrong() -> None:
    variance = 7
    samples = draw(variance)
    assert find_odd_values(np.where(samples == 0, 1, samples), variance)  # no zero
    assert find_odd_values(np.abs(samples), variance)  # no sign
    assert not fits_variance(draw(6), variance)
    wide = draw(1 << 40)
    assert not fits_variance((wide * 0.99).astype(np.int64), 1 << 40)  # two per cent less noise
    assert not fits_gaussian(wide + (1 << 14), 2.0**20)  # moved by a sixty-fourth of a deviation


@pytest.mark.parametrize("variance", [1, 1 << 44, MAX_VARIANCE - 1])
def test_what_float64_decides_is_what_more_digits_decide(variance: int) -> None:
    seed, everything = Seed(bytes(31) + b"5"), Margins(uniform=1 << 63, logarithm=1.0, exponential=2.0)
    usual = draw_discrete_gaussian(seed, step=1, variance=variance, count=250)
    exact = draw_few(seed, variance, everything)
    assert exact.size > 60
    assert np.array_equal(usual[: exact.size], exact)


def draw_few(seed: Seed, variance: int, margins: Margins) -> NDArray[np.int64]:
    """As the sampler does it, of the first 200 proposals only: a decision by decimal numbers takes a tenth of a
    millisecond.
    """
    from federated_learning.privacy import discrete_gaussian as module

    words = seed.stream(item="discrete-gaussian", step=1, label="decisions")
    digits = seed.stream(item="discrete-gaussian", step=1, label="digits")
    first, second = words.int64((2, module._CHUNK)).view(np.uint64)[:, :200]
    return module._choose(first, second, variance, digits, margins)


def test_logarithms_and_exponentials_err_less_than_the_margins_allow() -> None:
    words = Seed.fresh().stream(item="test", step=0, label="words").int64((400,)).view(np.uint64)
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
    context = Context(prec=40)
    logarithms, exponentials = np.log(uniform), np.exp(-44 * uniform)
    for index, value in enumerate(uniform):
        exact = context.ln(Decimal(float(value)))
        assert abs(Decimal(float(logarithms[index])) / exact - 1) < Decimal(2) ** -45
        power = context.exp(Decimal(float(-44 * value)))
        assert abs(Decimal(float(exponentials[index])) / power - 1) < Decimal(2) ** -45


def test_a_seed_gives_its_noise_again_and_another_step_other_noise() -> None:
    seed = Seed.fresh()
    first, again, other = (draw_discrete_gaussian(seed, step=step, variance=1 << 40, count=100) for step in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.intersect1d(first, other).size


@pytest.mark.parametrize("variance", [0, MAX_VARIANCE + 1])
def test_a_variance_that_cannot_be_drawn_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        draw(variance, 1)
