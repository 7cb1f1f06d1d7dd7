from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from torch import nn

from federated_learning.privacy.gradients import ClippedSum, sum_clipped_gradients
from federated_learning.privacy.sampling import group_by_patient
from federated_learning.torch_networks import shared_weights
from federated_learning.training_settings import TrainingSettings
from tests.federated_learning.rounds.local import SIDE

STEPS = 1 << 20
PATIENTS = ("a", "b", "a", "c", "a", "d", "b")


def make_network(architecture: str = "small-cnn") -> nn.Module:
    from federated_learning.torch_networks import new_network

    return new_network(TrainingSettings(architecture=architecture, classes=3))


def make_data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    images = generator.normal(size=(len(PATIENTS), 1, SIDE, SIDE)).astype(np.float32)
    return images, generator.integers(0, 3, len(PATIENTS))


def add_up(
    network: nn.Module, patients: Sequence[np.ndarray], *, clip: float, batch: int = 4, images: np.ndarray | None = None
) -> ClippedSum:
    given, labels = make_data()
    return sum_clipped_gradients(
        network, given if images is None else images, labels, patients, clip=clip, steps=STEPS, size=SIDE, batch=batch
    )


def differentiate_one_by_one(network: nn.Module, patients: Sequence[np.ndarray], *, clip: float) -> np.ndarray:
    """By backward passes, one for each patient: the mean loss of its images."""
    images, labels = make_data()
    total, parameters = np.zeros(sum(value.numel() for value in network.parameters())), dict(network.named_parameters())
    for places in patients:
        network.zero_grad()
        loss = F.cross_entropy(network(torch.from_numpy(images[places])), torch.from_numpy(labels[places]))
        loss.backward()  # type: ignore[no-untyped-call]
        parts = [parameters[name].grad for name in shared_weights(network)]
        gradient = torch.cat([part.ravel() for part in parts if part is not None]).double().numpy()
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total


@pytest.mark.parametrize("architecture", ["small-cnn", "resnet10-narrow-normaliser-free"])
def test_the_sum_is_that_of_patients_one_by_one(architecture: str) -> None:
    network, patients = make_network(architecture), group_by_patient(PATIENTS)
    found = add_up(network, patients, clip=0.5)
    assert (found.patients, found.left_out) == (4, 0)
    expected = differentiate_one_by_one(network, patients, clip=0.5)
    assert np.linalg.norm(expected) > 0.1
    assert np.abs(found.total * (0.5 / STEPS) - expected).max() < 1e-5


def test_how_many_are_differentiated_at_once_changes_nothing_that_matters() -> None:
    network, patients = make_network(), group_by_patient(PATIENTS)
    sums = [add_up(network, patients, clip=1, batch=batch).total for batch in (1, 3, 64)]
    for other in sums[1:]:
        assert np.abs(sums[0] - other).max() < 40  # float32, in steps of a millionth of the norm


@pytest.mark.parametrize("clip", [1e-4, 0.3, 1e4])
def test_no_patient_adds_more_than_the_clipping_norm(clip: float) -> None:
    network = make_network()
    for places in group_by_patient(PATIENTS):
        total = add_up(network, [places], clip=clip).total
        assert int((total.astype(object) ** 2).sum()) <= STEPS**2
        if clip < 0.1:
            assert np.linalg.norm(total) > 0.99 * STEPS  # it is shortened, not dropped


def test_a_patient_whose_gradient_is_not_finite_counts_as_nobody() -> None:
    network, (images, _), patients = make_network(), make_data(), group_by_patient(PATIENTS)
    spoiled = images.copy()
    spoiled[3] = np.inf
    without = add_up(network, [patients[0], patients[1], patients[3]], clip=1).total
    found = add_up(network, patients, clip=1, images=spoiled)
    assert found.left_out == 1
    assert np.abs(found.total - without).max() < 40


def test_nobody_drawn_gives_a_sum_of_zeros() -> None:
    found = add_up(make_network(), [], clip=1)
    assert found.patients == 0
    assert not found.total.any()
