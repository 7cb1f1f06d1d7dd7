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
    coverage,
    macro_area_under_curve,
    macro_recall,
    metrics,
    patient_bootstrap,
    selective_accuracy,
    uncertainty_threshold,
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


def two_classes(*confidences: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[confidence, 1 - confidence] for confidence in confidences])


def test_threshold_by_hand() -> None:
    probabilities = two_classes(0.95, 0.9, 0.85, 0.8, 0.75, 0.6, 0.55)
    labels = np.array([0, 0, 0, 0, 1, 0, 1])
    # from .55 on 5 of 7 are right, from .6 on 5 of 6, from .75 on 4 of 5, from .8 on 4 of 4
    assert uncertainty_threshold(probabilities, labels, wanted=0.7) is None
    assert uncertainty_threshold(probabilities, labels, wanted=0.83) == 0.56
    assert uncertainty_threshold(probabilities, labels, wanted=0.9) == 0.76
    assert coverage(probabilities, uncertain_below=0.8) == pytest.approx(4 / 7)
    assert selective_accuracy(probabilities, labels, uncertain_below=0.75) == pytest.approx(4 / 5)


def test_threshold_where_no_answer_is_right_often_enough() -> None:
    assert uncertainty_threshold(two_classes(0.9, 0.8), np.array([1, 1]), wanted=0.9) == 0.99
    with pytest.raises(ConfigurationError, match="at least one"):
        uncertainty_threshold(np.empty((0, 2)), np.empty(0, dtype=np.int64), wanted=0.9)


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=40), st.floats(0.5, 1))
def test_threshold_is_the_smallest_that_keeps_its_promise(answers: list[tuple[float, bool]], wanted: float) -> None:
    probabilities = two_classes(*(confidence for confidence, _ in answers))
    labels = np.array([0 if right else 1 for _, right in answers])
    right = probabilities.argmax(1) == labels
    threshold = uncertainty_threshold(probabilities, labels, wanted=wanted)
    if threshold is None:
        assert right.mean() >= wanted
        return
    keeps = [
        hundredth
        for hundredth in range(1, 100)
        if (kept := probabilities.max(1) >= hundredth / 100).any() and right[kept].mean() >= wanted
    ]
    assert round(threshold * 100) == min(keeps, default=99)


def test_figures_of_a_threshold_are_reported_and_left_out_where_undefined() -> None:
    patients = list("aabbcc")

    def figures(threshold: float | None) -> dict[str, float]:
        reported = metrics(
            PROBABILITIES, LABELS, patients, data_set="drawn", split="test", uncertain_below=threshold, draws=20
        )
        return {metric.name: metric.value for metric in reported}

    assert len(figures(None)) == 3
    assert figures(0.6)["share of answers with a probability of at least 0.6"] == pytest.approx(4 / 6, abs=1e-4)
    assert figures(0.6)["accuracy of those answers"] == pytest.approx(3 / 4)
    assert "accuracy of those answers" not in figures(0.9)


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
