import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConfigurationError
from federated_learning import evaluation
from federated_learning import metrics as figures
from federated_learning.evaluation import (
    DRAWS,
    Estimate,
    bootstrap_patients,
    choose_threshold,
    compute_reliability,
    confusion_matrix,
    measure,
)
from federated_learning.metrics import Figure, compute_once
from federated_learning.temperature import fit_temperature, negative_log_likelihood, softmax


def bootstrapped(*data: Any, **options: Any) -> Estimate:
    (estimate,) = bootstrap_patients([figures.accuracy], *data, **options)
    return estimate


def difference(first: Any, second: Any, *data: Any, **options: Any) -> Estimate:
    (estimate,) = bootstrap_patients([figures.accuracy], first, *data, less=second, **options)
    return estimate


LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]]
)


def test_figures_by_hand() -> None:
    assert confusion_matrix(PROBABILITIES, LABELS).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert compute_once(figures.accuracy, PROBABILITIES, LABELS) == pytest.approx(4 / 6)
    assert compute_once(figures.macro_recall, PROBABILITIES, LABELS) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # class 0: positives .8 .6 .2 against .1 .5 .3: 3 + 3 + 1 of 9 pairs; class 1: .8 .4 against .1 .3 .7 .3: 4 + 3 of 8
    assert compute_once(figures.macro_area_under_curve, PROBABILITIES, LABELS) == pytest.approx((7 / 9 + 7 / 8 + 1) / 3)


def test_a_class_that_does_not_occur_counts_nowhere() -> None:
    chosen = slice(0, 5)
    assert compute_once(figures.macro_recall, PROBABILITIES[chosen], LABELS[chosen]) == pytest.approx(
        (2 / 3 + 1 / 2) / 2
    )
    assert np.isfinite(compute_once(figures.macro_area_under_curve, PROBABILITIES[chosen], LABELS[chosen]))
    assert np.isnan(compute_once(figures.make_recall(2), PROBABILITIES[chosen], LABELS[chosen]))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
def test_area_under_curve_is_the_share_of_ordered_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], dtype=float)
    positive = np.array([flag for _, flag in pairs])
    compared = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(scores[positive], scores[~positive])
    ]
    area = float(figures.area_under_curve(scores, positive, np.ones((1, len(scores))))[0])
    if compared:
        assert area == pytest.approx(np.mean(compared))
    else:
        assert np.isnan(area)


def test_calibration_error_by_hand() -> None:
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.55, 0.45]])
    # confidence .9 with one of two right, .55 with both right
    assert compute_once(figures.calibration_error, sure, np.array([0, 1, 0, 0])) == pytest.approx((0.4 + 0.45) / 2)


def two_classes(*confidences: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[confidence, 1 - confidence] for confidence in confidences])


def test_threshold_by_hand() -> None:
    probabilities = two_classes(0.95, 0.9, 0.85, 0.8, 0.75, 0.6, 0.55)
    labels = np.array([0, 0, 0, 0, 1, 0, 1])
    # from .55 on 5 of 7 are right, from .6 on 5 of 6, from .75 on 4 of 5, from .8 on 4 of 4
    assert choose_threshold(probabilities, labels, wanted=0.7) is None
    assert choose_threshold(probabilities, labels, wanted=0.83) == 0.56
    assert choose_threshold(probabilities, labels, wanted=0.9) == 0.76
    assert compute_once(figures.coverage(0.8), probabilities, labels) == pytest.approx(4 / 7)
    assert compute_once(figures.selective_accuracy(0.75), probabilities, labels) == pytest.approx(4 / 5)


def test_threshold_where_no_answer_is_right_often_enough() -> None:
    assert choose_threshold(two_classes(0.9, 0.8), np.array([1, 1]), wanted=0.9) == 0.99
    with pytest.raises(ConfigurationError, match="at least one"):
        choose_threshold(np.empty((0, 2)), np.empty(0, dtype=np.int64), wanted=0.9)


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=40), st.floats(0.5, 1))
def test_threshold_is_the_smallest_that_keeps_its_promise(answers: list[tuple[float, bool]], wanted: float) -> None:
    probabilities = two_classes(*(confidence for confidence, _ in answers))
    labels = np.array([0 if right else 1 for _, right in answers])
    right = probabilities.argmax(1) == labels
    threshold = choose_threshold(probabilities, labels, wanted=wanted)
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

    def figures_of(threshold: float | None) -> dict[str, float]:
        reported = measure(
            PROBABILITIES, LABELS, patients, data_set="drawn", split="test", uncertain_below=threshold, draws=20
        )
        return {metric.name: metric.value for metric in reported}

    assert len(figures_of(None)) == len(evaluation.FIGURES)
    assert figures_of(0.6)["share of answers with a probability of at least 0.6"] == pytest.approx(4 / 6, abs=1e-4)
    assert figures_of(0.6)["accuracy of those answers"] == pytest.approx(3 / 4)
    assert "accuracy of those answers" not in figures_of(0.9)


def test_bootstrap_draws_patients_not_images() -> None:
    # One patient is always right and has 90 images, another always wrong with 10. Whole patients: accuracy is 0, 0.9 or
    # 1, so the interval is [0, 1]; resampling images would keep it near 0.9.
    labels = np.zeros(100, dtype=np.int64)
    probabilities = np.tile([1.0, 0.0], (100, 1))
    probabilities[90:] = [0.0, 1.0]
    patients = ["a"] * 90 + ["b"] * 10
    estimate = bootstrapped(probabilities, labels, patients, draws=400)
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.9, 1.0)
    by_image = bootstrapped(probabilities, labels, [str(i) for i in range(100)], draws=400)
    assert 0.8 < by_image.low < by_image.high < 1.0


FAR_FROM_EVEN = {
    # scikit-learn 1.9.1 on these examples: accuracy_score, matthews_corrcoef, balanced_accuracy_score, log_loss,
    # recall_score(average=None), roc_auc_score(multi_class="ovr", average="macro"); without weights, and with them
    "accuracy": (figures.accuracy, 0.2857142857142857, 0.14285714285714285),
    "correlation": (figures.matthews_correlation, -0.049286405809014416, -0.3491486243775878),
    "macro recall": (figures.macro_recall, 0.2833333333333334, 0.12037037037037036),
    "recall 0": (figures.make_recall(0), 0.4, 0.25),
    "recall 1": (figures.make_recall(1), 0.2, 0.0),
    "recall 2": (figures.make_recall(2), 0.25, 0.1111111111111111),
    "log loss": (figures.log_loss, 1.3710245285837874, 1.446016298960603),
    "macro area": (figures.macro_area_under_curve, 0.4787037037037038, 0.3122940059214569),
}
TWENTIETHS = [
    *([2, 6, 12], [0, 1, 19], [5, 6, 9], [5, 1, 14], [8, 1, 11], [4, 8, 8], [10, 7, 3], [5, 6, 9], [10, 4, 6]),
    *([18, 0, 2], [5, 1, 14], [5, 3, 12], [5, 12, 3], [2, 9, 9]),
]
TRUTH = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1, 1, 2])
COUNTS = np.array([2, 1, 1, 3, 2, 2, 2, 1, 3, 0, 1, 0, 0, 3], dtype=np.float64)


@pytest.mark.parametrize("name", FAR_FROM_EVEN)
def test_figures_are_those_of_scikit_learn(name: str) -> None:
    figure, plain, weighted = FAR_FROM_EVEN[name]
    probabilities = np.array(TWENTIETHS) / 20
    found = figure(probabilities, TRUTH, np.stack([np.ones(len(TRUTH)), COUNTS]))
    np.testing.assert_allclose(found, [plain, weighted], rtol=1e-12)


ALL_FIGURES = (
    *(figures.accuracy, figures.macro_recall, figures.matthews_correlation, figures.macro_area_under_curve),
    *(figures.log_loss, figures.calibration_error, figures.make_recall(1)),
    *(figures.coverage(0.6), figures.selective_accuracy(0.6)),
)


@pytest.mark.parametrize("figure", ALL_FIGURES)
@given(times=st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any))
def test_a_weight_counts_as_copies_of_the_example(figure: Figure, times: list[int]) -> None:
    weighted = figure(PROBABILITIES, LABELS, np.array([times], dtype=np.float64))[0]
    copied = compute_once(figure, PROBABILITIES.repeat(times, 0), LABELS.repeat(times))
    np.testing.assert_allclose(weighted, copied, rtol=1e-9, atol=1e-12)


def test_reliability_by_hand() -> None:
    sure = np.array([[0.95, 0.05], [0.93, 0.07], [0.55, 0.45], [1.0, 0.0]])
    low, high = compute_reliability(sure, np.array([0, 1, 1, 0]))
    assert (low.answers, low.accuracy, low.confidence) == (1, 0.0, 0.55)
    assert high.answers == 3
    assert high.accuracy == pytest.approx(2 / 3)
    assert high.confidence == pytest.approx((0.95 + 0.93 + 1) / 3)


def test_a_difference_is_paired() -> None:
    # The second is wrong wherever the first is, and on ten images more: each draw finds it at least as bad.
    generator = np.random.default_rng(5)
    labels = np.zeros(200, dtype=np.int64)
    patients = [str(index // 4) for index in range(200)]
    first = np.tile([1.0, 0.0], (200, 1))
    first[generator.permutation(200)[:60]] = [0.0, 1.0]
    second = first.copy()
    second[::20] = [0.0, 1.0]
    gap = difference(first, second, labels, patients, draws=500)
    assert gap.value == pytest.approx(
        compute_once(figures.accuracy, first, labels) - compute_once(figures.accuracy, second, labels)
    )
    assert 0 <= gap.low < gap.value < gap.high < 0.2
    alone = bootstrapped(first, labels, patients, draws=500)
    assert gap.high - gap.low < alone.high - alone.low
    same = difference(first, first, labels, patients, draws=50)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert not same.excludes_zero
    opposite = difference(second, first, labels, patients, draws=500)
    np.testing.assert_allclose([opposite.low, opposite.high], [-gap.high, -gap.low])


def test_blocks_of_draws_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate() -> Estimate:
        return bootstrapped(PROBABILITIES, LABELS, list("aabbcc"), draws=50)

    whole = estimate()
    monkeypatch.setattr(evaluation, "BLOCK", 6 * 7)
    assert estimate() == whole
    assert DRAWS == 2000  # what the model's README says


def test_bootstrap_repeats_with_its_seed() -> None:
    patients = list("aabbcc")
    first, second = (bootstrapped(PROBABILITIES, LABELS, patients, draws=50, seed=9) for _ in range(2))
    assert first == second


def test_bootstrap_refuses_unequal_lengths() -> None:
    with pytest.raises(ConfigurationError, match="as many labels"):
        bootstrapped(PROBABILITIES, LABELS, ["a"])


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
