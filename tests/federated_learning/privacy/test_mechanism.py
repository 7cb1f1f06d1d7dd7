import math

import numpy as np
import pytest

from contract.errors import ConfigurationError
from federated_learning.privacy.mechanism import Mechanism
from federated_learning.privacy.settings import Privacy
from secure_computation.randomness import Seed

PRIVACY = Privacy(noise_multiplier=2.0, clip=0.5, sampling_rate=0.5, patients=100, delta=1e-3)
LENGTH = 200_000


def plan(privacy: Privacy = PRIVACY, *, hospitals: int = 3, threshold: int = 3, elements: int = 1000) -> Mechanism:
    return Mechanism.plan(privacy, hospitals=hospitals, threshold=threshold, elements=elements)


def find_deviation(mechanism: Mechanism, *, hospitals: int) -> float:
    """Of the noise in a sum of so many hospitals without patients, in units of the clipping norm."""
    empty = np.zeros(LENGTH, np.int64)
    total = np.zeros(LENGTH, np.uint32)
    for _ in range(hospitals):
        total += mechanism.add_noise(empty, Seed.fresh())
    return float(np.sqrt(np.mean(total.view(np.int32).astype(np.float64) ** 2)) / mechanism.steps)


def test_a_sum_of_as_few_hospitals_as_may_be_has_the_noise_that_was_agreed_on() -> None:
    # The deviation of 200,000 samples is right to 1.6 per cent, but for one run in 10^22.
    assert find_deviation(plan(threshold=3, hospitals=4), hospitals=3) == pytest.approx(2.0, rel=0.016)
    assert find_deviation(plan(threshold=3, hospitals=4), hospitals=4) == pytest.approx(2 * math.sqrt(4 / 3), rel=0.016)


def test_a_share_that_is_missing_shows_in_the_noise() -> None:
    assert find_deviation(plan(), hospitals=2) < 0.9 * 2.0


def test_with_noise_of_each_alone_every_hospital_draws_all_of_it() -> None:
    alone = PRIVACY.model_copy(update={"each_alone": True})
    assert find_deviation(plan(alone), hospitals=1) == pytest.approx(2.0, rel=0.016)
    assert plan(alone).insider(5).noise_multiplier == 2.0
    assert plan(alone).outsider(5).noise_multiplier == pytest.approx(2 * math.sqrt(3))


def test_a_hospitals_noise_is_no_less_than_its_share_by_rounding() -> None:
    for noise in (0.05, 1 / 3, 5.275):
        mechanism = plan(PRIVACY.model_copy(update={"noise_multiplier": noise}))
        assert mechanism.variance >= (noise * mechanism.steps) ** 2 / 3


def test_a_step_goes_against_the_gradient_and_is_divided_by_what_was_agreed_on() -> None:
    mechanism = plan()
    total = np.array([mechanism.steps, 0, 3 * mechanism.steps, -mechanism.steps], np.int64)
    step = mechanism.decode((total & 0xFFFFFFFF).astype(np.uint32), rate=10.0)
    assert step.dtype == np.float32
    assert step.tolist() == pytest.approx([-10 * 0.5 / 50, 0, -30 * 0.5 / 50, 10 * 0.5 / 50])


@pytest.mark.parametrize("patients", [2, 1000, 1 << 20])
def test_sums_have_room_in_the_ring(patients: int) -> None:
    crowd = PRIVACY.model_copy(update={"patients": patients, "noise_multiplier": 5.0})
    mechanism = plan(crowd, hospitals=64, threshold=43, elements=100)
    largest = 2 * patients * 0.5 * mechanism.steps  # twice as many as expected, all of them in one direction
    noise = 10 * math.sqrt(64 * mechanism.variance)
    assert largest + noise < 1 << 31
    assert mechanism.variance >= 16**2


@pytest.mark.parametrize(
    ("patients", "noise", "elements"),
    [(1 << 24, 0.05, 10), (1 << 20, 2.0, 80_000)],  # noise, and gradients, of less than a few grid steps
)
def test_patients_for_whom_there_is_no_room_are_refused(patients: int, noise: float, elements: int) -> None:
    crowd = PRIVACY.model_copy(update={"patients": patients, "noise_multiplier": noise, "delta": 1e-8})
    with pytest.raises(ConfigurationError, match="draw fewer patients a round"):
        plan(crowd, elements=elements)
    assert plan(crowd.model_copy(update={"sampling_rate": 1e-3, "noise_multiplier": 2.0}), elements=elements).steps > 0
