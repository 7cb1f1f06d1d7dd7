import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConfigurationError
from federated_learning.calibration import fit_temperature, negative_log_likelihood, softmax
from federated_learning.evaluation import (
    accuracy,
    area_under_curve,
    calibration_error,
    confusion_matrix,
    macro_area_under_curve,
    macro_recall,
    patient_bootstrap,
)

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]]
)


def test_figures_by_hand() -> None:
    assert confusion_matrix(PROBABILITIES, LABELS).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert accuracy(PROBABILITIES, LABELS) == pytest.approx(4 / 6)
    assert macro_recall(PROBABILITIES, LABELS) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # class 0: positives .8 .6 .2 against .1 .5 .3: 3 + 3 + 1 of 9 pairs; class 1: .8 .4 against .1 .3 .7 .3: 4 + 3 of 8
    assert macro_area_under_curve(PROBABILITIES, LABELS) == pytest.approx((7 / 9 + 7 / 8 + 1) / 3)


def test_a_class_that_does_not_occur_counts_nowhere() -> None:
    chosen = slice(0, 5)
    assert macro_recall(PROBABILITIES[chosen], LABELS[chosen]) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert np.isfinite(macro_area_under_curve(PROBABILITIES[chosen], LABELS[chosen]))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
def test_area_under_curve_is_the_share_of_ordered_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], dtype=float)
    positive = np.array([flag for _, flag in pairs])
    compared = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(scores[positive], scores[~positive])
    ]
    area = area_under_curve(scores, positive)
    if compared:
        assert area == pytest.approx(np.mean(compared))
    else:
        assert np.isnan(area)


def test_calibration_error_by_hand() -> None:
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.55, 0.45]])
    # confidence .9 with one of two right, .55 with both right
    assert calibration_error(sure, np.array([0, 1, 0, 0]), bins=10) == pytest.approx((0.4 + 0.45) / 2)


def test_bootstrap_draws_patients_not_images() -> None:
    # One patient is always right and has 90 images, another always wrong with 10. Whole patients: accuracy is 0, 0.9 or
    # 1, so the interval is [0, 1]; resampling images would keep it near 0.9.
    labels = np.zeros(100, dtype=np.int64)
    probabilities = np.tile([1.0, 0.0], (100, 1))
    probabilities[90:] = [0.0, 1.0]
    patients = ["a"] * 90 + ["b"] * 10
    estimate = patient_bootstrap(accuracy, probabilities, labels, patients, draws=400)
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.9, 1.0)
    by_image = patient_bootstrap(accuracy, probabilities, labels, [str(i) for i in range(100)], draws=400)
    assert 0.8 < by_image.low < by_image.high < 1.0


def test_bootstrap_repeats_with_its_seed() -> None:
    patients = list("aabbcc")
    first, second = (patient_bootstrap(accuracy, PROBABILITIES, LABELS, patients, draws=50, seed=9) for _ in range(2))
    assert first == second


def test_bootstrap_refuses_unequal_lengths() -> None:
    with pytest.raises(ConfigurationError, match="as many labels"):
        patient_bootstrap(accuracy, PROBABILITIES, LABELS, ["a"])


def test_temperature_is_recovered() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(20_000, 3)) * 2
    probabilities = softmax(logits)
    labels = (generator.random((len(logits), 1)) > probabilities.cumsum(1)).sum(1).clip(0, 2)
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(logits * 0.4, labels) == pytest.approx(0.4, rel=0.05)


def test_fitted_temperature_has_the_least_loss() -> None:
    generator = np.random.default_rng(2)
    logits, labels = generator.normal(size=(60, 3)), generator.integers(0, 3, size=60)
    logits[np.arange(60), labels] += 1
    best = fit_temperature(logits, labels)
    losses = [negative_log_likelihood(logits, labels, temperature=best * factor) for factor in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses[0], losses[2])


def test_negative_log_likelihood_by_hand() -> None:
    logits = np.log(np.array([[0.2, 0.8], [0.5, 0.5]]))
    assert negative_log_likelihood(logits, np.array([1, 0])) == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2)
