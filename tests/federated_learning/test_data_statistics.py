import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConfigurationError
from federated_learning.data_statistics import (
    LEVELS,
    PIXEL_SUMS,
    add_pixels,
    compute_statistics,
    count_classes,
    weigh_classes,
)


def test_hospitals_sums_give_the_pooled_compute_statistics() -> None:
    generator = np.random.default_rng(0)
    images = [generator.uniform(0.1, 0.9, size=(2, 9, 7)) for _ in range(11)]
    for image in images:
        image[1] *= 0.5
    parts, together = (add_pixels(images[:4]), add_pixels(images[4:])), add_pixels(images)
    for name in PIXEL_SUMS:  # as secure aggregation adds them up
        added = np.sum([part[name] for part in parts], axis=0)
        assert tuple(added) == together[name]
    mean, deviation = compute_statistics(together)
    pooled = np.stack(images)
    np.testing.assert_allclose(mean, pooled.mean((0, 2, 3)), atol=2e-4)
    np.testing.assert_allclose(deviation, pooled.std((0, 2, 3)), atol=2e-4)


def test_sums_are_exact_integers() -> None:
    image = np.full((1, 2, 2), 1.0)
    image[0, 0, 0] = 0.0
    assert add_pixels([image]) == dict(zip(PIXEL_SUMS, ((4,), (3 * LEVELS,), (3 * LEVELS**2,)), strict=True))


@pytest.mark.parametrize("images", [[], [np.full((1, 4, 4), 0.5)]])
def test_data_without_an_image_or_without_contrast_is_refused(images: list[np.ndarray]) -> None:
    with pytest.raises(ConfigurationError):
        compute_statistics(add_pixels(images))


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=9), st.floats(0, 1))
def test_class_weights_keep_the_loss_s_scale_and_favour_rare_classes(counts: list[int], power: float) -> None:
    weights = weigh_classes(counts, power=power)
    assert sum(w * c for w, c in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))
    rarest, commonest = counts.index(min(counts)), counts.index(max(counts))
    assert weights[rarest] >= weights[commonest] - 1e-9
    if power == 0:
        assert weights == pytest.approx([1.0] * len(counts))


def test_power_one_gives_every_class_the_same_say() -> None:
    weights = weigh_classes((10, 40), power=1.0)
    assert 10 * weights[0] == pytest.approx(40 * weights[1])


def test_a_class_that_nobody_has_is_named() -> None:
    with pytest.raises(ConfigurationError, match="class number 2 of 3"):
        weigh_classes((5, 0, 2), power=0.5)


def test_counts_of_a_hospital_without_a_class() -> None:
    assert count_classes(np.asarray([0, 2, 2]), 4) == (1, 0, 2, 0)
    assert count_classes(np.asarray([], dtype=np.int64), 2) == (0, 0)
    with pytest.raises(ConfigurationError, match="outside the 2 classes"):
        count_classes(np.asarray([0, 2]), 2)
