"""Golden values, and other ways to the same figure: the formula of the Gaussian mechanism, its tails, Renyi."""

import math
import sys

import pytest
from scipy import stats

from contract.errors import ConfigurationError
from federated_learning.privacy.accounting import (
    Releases,
    Shares,
    compute_epsilon,
    find_noise,
    load_dp_accounting,
    write_epsilon,
)

DELTA = 1e-5


def epsilon(noise: float, rate: float, rounds: int, delta: float = DELTA) -> float:
    return compute_epsilon([Releases(noise_multiplier=noise, sampling_rate=rate, rounds=rounds)], delta=delta)


def balle_and_wang(noise: float, eps: float) -> float:
    """Delta of one Gaussian mechanism (Balle and Wang 2018, theorem 8)."""
    normal = stats.norm.cdf
    return float(normal(0.5 / noise - eps * noise) - math.exp(eps) * normal(-0.5 / noise - eps * noise))


def one_round(noise: float, rate: float, eps: float) -> float:
    """Delta of one round over patients drawn by chance, with one patient more or with one less, whichever is worse.

    The likelihood ratio (1 - rate) + rate * exp((2 x - 1) / (2 noise^2)) grows with x: each is a difference of tails.
    """
    tail, head = stats.norm.sf, stats.norm.cdf
    border = noise**2 * math.log((math.exp(eps) - (1 - rate)) / rate) + 0.5
    more = rate * tail((border - 1) / noise) + (1 - rate - math.exp(eps)) * tail(border / noise)
    less = 0.0
    if math.exp(-eps) > 1 - rate:
        border = noise**2 * math.log((math.exp(-eps) - (1 - rate)) / rate) + 0.5
        less = head(border / noise) * (1 - math.exp(eps) * (1 - rate)) - math.exp(eps) * rate * head(
            (border - 1) / noise
        )
    return float(max(more, less))


@pytest.mark.parametrize(
    ("noise", "rate", "rounds", "golden"), [(1.633, 256 / 2390, 500, 8.00), (5.275, 512 / 2390, 300, 3.00)]
)
def test_golden_values(noise: float, rate: float, rounds: int, golden: float) -> None:
    assert epsilon(noise, rate, rounds) == pytest.approx(golden, abs=0.01)


@pytest.mark.parametrize(("outsider", "insider", "with_one"), [(1, 1.83, 1.25), (3, 5.66, 3.78), (8, 15.9, 10.3)])
def test_what_insiders_learn_at_three_hospitals_with_everybody_in_each_round(
    outsider: float, insider: float, with_one: float
) -> None:
    shares, noise = Shares(threshold=3), find_noise(outsider, delta=DELTA, sampling_rate=1, rounds=100)
    found = [epsilon(noise * part, 1, 100) for part in (shares.outsider, shares.insider, shares.against(1))]
    assert found == pytest.approx([outsider, insider, with_one], rel=0.01)
    assert shares.against(2) == shares.against(5) == shares.insider


def test_noise_of_each_hospital_alone_protects_from_insiders_as_well() -> None:
    alone = Shares(threshold=3, each_alone=True)
    assert alone.insider == 1
    assert alone.outsider == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("noise", [0.5, 2.0, 20.0])
def test_rounds_over_everybody_are_one_gaussian_mechanism(noise: float) -> None:
    together = epsilon(noise, 1, 50)
    assert balle_and_wang(noise / math.sqrt(50), together) == pytest.approx(DELTA, rel=1e-3)


@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.1), (1.5, 0.4)])
def test_one_round_with_drawn_patients_is_what_its_tails_say(noise: float, rate: float) -> None:
    found = epsilon(noise, rate, 1)
    assert one_round(noise, rate, found) <= DELTA
    assert one_round(noise, rate, found - 0.002) > DELTA


def test_no_sharper_than_renyi_allows_and_not_much_looser() -> None:
    load_dp_accounting()
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    renyi = RdpAccountant(orders=tuple(range(2, 100)))
    renyi.compose(PoissonSampledDpEvent(256 / 2390, GaussianDpEvent(1.633)), 500)
    assert 0.85 < epsilon(1.633, 256 / 2390, 500) / renyi.get_epsilon(DELTA) < 1


def test_runs_with_and_without_drawing_add_up_to_less_than_their_sum() -> None:
    one = Releases(noise_multiplier=20, sampling_rate=1, rounds=100)
    other = Releases(noise_multiplier=2, sampling_rate=0.1, rounds=100)
    single = [compute_epsilon([each], delta=DELTA) for each in (one, other)]
    both = compute_epsilon([one, other], delta=DELTA)
    assert max(single) < both < sum(single)
    assert both == compute_epsilon([other, one], delta=DELTA)
    assert compute_epsilon([], delta=DELTA) == 0


def test_little_noise_has_a_bound_too_and_takes_no_memory() -> None:
    assert 60 < epsilon(0.3, 0.9, 10_000) < math.inf


@pytest.mark.parametrize(("rate", "rounds"), [(1.0, 20), (0.2, 100)])
def test_noise_that_is_found_is_enough_and_hardly_more(rate: float, rounds: int) -> None:
    noise = find_noise(3, delta=DELTA, sampling_rate=rate, rounds=rounds)
    assert epsilon(noise, rate, rounds) <= 3 < epsilon(noise * 0.997, rate, rounds)


def test_an_epsilon_that_no_noise_gives_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not to be had"):
        find_noise(1e-9, delta=1e-12, sampling_rate=1, rounds=100_000)


def test_epsilon_is_never_shown_smaller_than_it_is() -> None:
    assert [write_epsilon(value) for value in (0.0, 2.9990, 3.0001, math.inf)] == [
        "0.00",
        "3.00",
        "3.01",
        "without bound",
    ]


def test_the_accountant_closes_nobody_s_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Here stderr is not the stream that it was when the accountant was imported."""
    load_dp_accounting()
    from absl import logging as absl_logging

    handler = absl_logging.get_absl_handler()
    assert handler.python_handler.stream is sys.__stderr__
    handler.close()
    assert sys.__stderr__ is not None
    assert not sys.__stderr__.closed
