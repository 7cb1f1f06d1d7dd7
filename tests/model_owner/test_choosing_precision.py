"""How many bits an import gives the masked engine, and what the owner hears where they are not enough."""

import logging

import numpy as np
import pytest
from numpy.typing import NDArray

from model_owner.checking import advise
from model_owner.choosing_precision import ERROR_BUDGET, MOST_FINER, lower_within_budget
from secure_computation.engines.masked.lowering.drafts import Precision
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.float_reference import evaluate
from secure_computation.network import (
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    Network,
    Operation,
    Relu,
    Reshape,
)
from secure_computation.private_weights import PrivateWeights


def deep(layers: int, *, outlier: float = 1.0, seed: int = 0) -> tuple[Network, PrivateWeights, NDArray[np.float32]]:
    """Convolutions of 8 channels one behind the other, one weight of each `outlier` times as large; pictures too."""
    random = np.random.default_rng(seed)
    operations: list[Operation] = []
    tensors, value = {}, "input"
    for number in range(layers):
        channels = 1 if number == 0 else 8
        name, shape = f"convolution{number}", (8, channels, 3, 3)
        operations.append(
            Convolution2d(
                name=name, inputs=(value,), shape=(8, 8, 8), weight_shape=shape, bias=False, padding=(1, 1, 1, 1)
            )
        )
        weight = random.normal(0, np.sqrt(2 / (9 * channels)), shape)
        weight[0, 0, 1, 1] *= outlier
        tensors[f"{name}.weight"] = weight
        value = f"relu{number}"
        operations.append(Relu(name=value, inputs=(name,), shape=(8, 8, 8)))
    operations += [
        GlobalAveragePool(name="mean", inputs=(value,), shape=(8, 1, 1)),
        Reshape(name="vector", inputs=("mean",), shape=(8,)),
        FullyConnected(name="scores", inputs=("vector",), shape=(2,), in_features=8, out_features=2, bias=False),
    ]
    tensors["scores.weight"] = random.normal(size=(2, 8))
    network = Network(input_shape=(1, 8, 8), operations=tuple(operations), output="scores", classes=2)
    images = random.normal(size=(9, 1, 8, 8)).astype(np.float32)
    return network, PrivateWeights(network, tensors), images


def relative_error(
    network: Network, weights: PrivateWeights, lowering: MaskedLowering, images: NDArray[np.float32]
) -> float:
    import torch

    integers = round_weights(lowering, weights)
    found = [
        reference.read_logits(
            lowering, reference.evaluate(lowering, integers, reference.quantise_image(lowering, image))
        )
        for image in images
    ]
    expected = evaluate(network, weights, torch.from_numpy(images)).numpy()
    return float(np.abs(np.stack(found) - expected).max() / np.abs(expected).max())


def test_a_network_for_which_the_usual_bits_are_enough_keeps_its_plan() -> None:
    network, weights, images = deep(3)
    usual = lower_masked(network, weights, images)
    assert relative_error(network, weights, usual, images[[1, 4, 7]]) <= ERROR_BUDGET
    assert lower_within_budget(network, weights, images) == usual


def test_a_network_whose_layers_lose_more_gets_more_bits_until_it_is_within_the_budget() -> None:
    network, weights, images = deep(12, outlier=100.0)
    pictures = images[[1, 4, 7]]
    usual = lower_masked(network, weights, images)
    assert relative_error(network, weights, usual, pictures) > ERROR_BUDGET
    assert relative_error(network, weights, lower_within_budget(network, weights, images), pictures) <= ERROR_BUDGET


def test_a_plan_that_opens_labels_alone_has_the_same_bits() -> None:
    network, weights, images = deep(12, outlier=100.0)
    logits = lower_within_budget(network, weights, images)
    labels = lower_within_budget(network, weights, images, label_only=True)
    assert labels.gives_label
    assert [step.value.scale for step in labels.steps[: len(logits.steps)]] == [
        step.value.scale for step in logits.steps
    ]


def test_a_network_that_no_bits_help_is_imported_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("model_owner.choosing_precision.ERROR_BUDGET", 1e-9)
    network, weights, images = deep(3)
    with caplog.at_level(logging.WARNING):
        lower_within_budget(network, weights, images)
    assert "of the largest on calibration images" in caplog.text
    assert "--calibration" in caplog.text


@pytest.mark.parametrize("bits", range(MOST_FINER + 1))
def test_finer_activations_leave_weights_the_bits_that_they_need(bits: int) -> None:
    finer = Precision().finer(bits)
    assert finer.activation_bits + finer.small_layer_bits == 13
    assert finer.weight_bits == 11 + bits


@pytest.mark.parametrize(
    ("error", "differing", "random", "told"),
    [
        (0.001, 0, False, None),
        (0.03, 0, False, "the error is above 2% of the largest logit: import it"),
        (0.001, 2, False, "answers differ on 2 of the samples: import it"),
        (
            0.03,
            1,
            True,
            "largest logit and answers differ on 1 of the samples: noise is no picture, so check with real ones first",
        ),
    ],
)
def test_the_owner_hears_of_an_error_and_what_to_do(
    error: float, differing: int, random: bool, told: str | None
) -> None:
    advice = advise(error, differing, samples_are_random=random)
    assert (advice is None) if told is None else (advice is not None and told in advice)
