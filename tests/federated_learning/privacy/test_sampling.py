import math

import numpy as np

from federated_learning.privacy.sampling import count_each_picture, draw_patients, group_by_patient
from secure_computation.randomness import Seed


def test_images_of_one_patient_come_together() -> None:
    groups = group_by_patient(["b", "a", "b", "c", "a", "b"])
    assert [group.tolist() for group in groups] == [[0, 2, 5], [1, 4], [3]]


def test_without_numbers_each_picture_is_a_patient() -> None:
    assert [group.tolist() for group in count_each_picture(3)] == [[0], [1], [2]]


def test_everybody_is_drawn_at_rate_one() -> None:
    assert draw_patients(5, rate=1, seed=Seed.fresh(), step=0).tolist() == [0, 1, 2, 3, 4]


def test_patients_are_drawn_as_often_as_the_rate_says_and_each_by_itself() -> None:
    count, rate = 200_000, 0.3
    first, second = (draw_patients(count, rate=rate, seed=Seed.fresh(), step=0) for _ in range(2))
    deviation = math.sqrt(count * rate * (1 - rate))
    assert abs(first.size - count * rate) < 8 * deviation  # a right draw fails once in 10^14
    both = np.intersect1d(first, second).size
    assert abs(both - count * rate**2) < 8 * math.sqrt(count * rate**2)
    assert abs(np.diff(first).mean() - 1 / rate) < 0.1
