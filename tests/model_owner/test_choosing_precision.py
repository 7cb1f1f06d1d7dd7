"""How many bits an import gives the masked engine, and what the owner hears where they are not enough."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract.model_card import Arithmetic
from model_owner.checking import advise
from model_owner.choosing_precision import find_usual_budget, lower_within_budget, suggest_budget
from secure_computation.engines.masked.lowering.allotment import allot
from secure_computation.engines.masked.lowering.sensitivity import measure_sensitivity
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


def largest_error(
    network: Network, weights: PrivateWeights, lowering: MaskedLowering, images: NDArray[np.float32]
) -> float:
    """Of a logit, in the plan's arithmetic."""
    dithers = reference.draw_dithers(np.random.default_rng(4))
    integers = round_weights(lowering, weights)
    found = [
        reference.read_logits(
            lowering, reference.evaluate(lowering, integers, reference.quantise_image(lowering, image), dithers=dithers)
        )
        for image in images
    ]
    expected = evaluate(network, weights, torch.from_numpy(images)).numpy()
    return float(np.abs(np.stack(found) - expected).max())


def test_a_smaller_budget_costs_more_and_each_is_kept() -> None:
    network, weights, images = deep(6)
    coarse, fine = (
        lower_within_budget(network, weights, images, arithmetic=Arithmetic.EXACT, logit_error=error)
        for error in (0.05, 0.005)
    )
    for chosen, allowed in ((coarse, 0.05), (fine, 0.005)):
        assert chosen.error <= chosen.allowed == allowed
        assert largest_error(network, weights, chosen.lowering, images) <= allowed
    assert coarse.cost < fine.cost


@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_a_deep_network_with_outliers_is_within_the_usual_budget(arithmetic: Arithmetic) -> None:
    network, weights, images = deep(12, outlier=20.0)
    chosen = lower_within_budget(network, weights, images, arithmetic=arithmetic)
    assert chosen.lowering.arithmetic is arithmetic
    assert chosen.is_within
    assert largest_error(network, weights, chosen.lowering, images[[1, 4, 7]]) <= 2 * chosen.allowed


def test_the_same_model_and_images_give_the_same_plan() -> None:
    first, second = (lower_within_budget(*deep(3), arithmetic=Arithmetic.DITHERED) for _ in range(2))
    assert first.lowering == second.lowering


def test_weights_take_one_digit_if_the_budget_allows_it_and_two_if_not() -> None:
    network, weights, images = deep(4)
    usual, fine = (lower_within_budget(network, weights, images, logit_error=error) for error in (None, 0.0005))
    assert usual.fine_layers < fine.fine_layers
    integers = round_weights(usual.lowering, weights)
    large = [np.abs(tensor).max() for name, tensor in integers.items() if name.startswith("convolution")]
    assert sum(int(one.max() > 127) for one in large if one.ndim) <= usual.fine_layers


def test_a_plan_that_opens_labels_alone_has_the_same_bits() -> None:
    network, weights, images = deep(4)
    logits = lower_within_budget(network, weights, images).lowering
    labels = lower_within_budget(network, weights, images, label_only=True).lowering
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
        assert not lower_within_budget(network, weights, images).is_within
    assert "of the largest on calibration images" in caplog.text
    assert "--calibration" in caplog.text


def test_the_bits_of_layers_follow_what_they_do_to_the_logits_and_what_they_cost() -> None:
    network, weights, images = deep(3)
    sensitivity = measure_sensitivity(network, weights, images[:2])
    once, again = (allot(network, sensitivity, deviation, digits=1) for deviation in (0.01, 0.02))
    for name, scale in once.scales.items():
        assert again.scales[name] == pytest.approx(scale / 2)  # one bit less everywhere for twice the error
    louder = replace(sensitivity, values={**sensitivity.values, "relu1": 4 * sensitivity.values["relu1"]})
    changed = allot(network, louder, 0.01, digits=1)
    assert changed.scales["relu1"] == pytest.approx(2 * once.scales["relu1"])
    assert all(changed.scales[name] == once.scales[name] for name in once.scales if name != "relu1")


def test_derivatives_foresee_what_noise_does_to_the_logits() -> None:
    network, weights, images = deep(2)
    sensitivity = measure_sensitivity(network, weights, images[:1])
    values: dict[str, torch.Tensor] = {}
    evaluate(network, weights, torch.from_numpy(images[:1]), observe=lambda name, one: values.update({name: one}))
    generator, moved = torch.Generator().manual_seed(3), []
    for _ in range(200):
        noise = torch.randn(values["relu1"].shape, generator=generator, dtype=torch.float64)
        pooled = (values["relu1"] + 1e-3 * noise * (values["relu1"] > 0)).mean(dim=(2, 3))
        logits = pooled @ torch.tensor(weights["scores.weight"], dtype=torch.float64).T
        moved.append(logits - values["scores"])
    measured = float(torch.stack(moved).square().mean()) / 1e-6
    assert sensitivity.values["relu1"] == pytest.approx(measured, rel=0.3)


@pytest.mark.parametrize(
    ("error", "differing", "random", "told"),
    [
        (0.001, 0, False, None),
        (0.03, 0, False, "the error is above 2% of the largest logit: import it"),
        (0.03, 0, False, "and with --logit-error 0.015, which chooses more bits"),
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
    advice = advise(error, differing, samples_are_random=random, budget=0.015)
    assert (advice is None) if told is None else (advice is not None and told in advice)


@pytest.mark.parametrize(
    ("measured", "largest", "worth_trying"),
    [(0.3, 3.5, 0.01), (0.03, 3.5, 0.01), (0.004, 3.5, 0.002), (0.0, 3.5, 0.01), (0.3, 0.25, 0.003), (9.0, 400.0, 0.2)],
)
def test_the_error_that_is_worth_trying_is_smaller_than_what_was_measured_and_than_the_usual_one(
    measured: float, largest: float, worth_trying: float
) -> None:
    assert suggest_budget(measured, largest) == worth_trying
    assert worth_trying < find_usual_budget(largest)


def test_what_takes_long_is_said_and_plans_are_counted() -> None:
    said: list[str] = []
    lower_within_budget(*deep(3), on_step=said.append)
    assert said[0] == "measuring values on calibration images"
    said.remove("choosing each layer's bits: taking off those that matter least")
    assert said[1:] == [f"choosing each layer's bits: trying plan {number}" for number in range(1, len(said))]
    assert 2 <= len(said) <= 25
