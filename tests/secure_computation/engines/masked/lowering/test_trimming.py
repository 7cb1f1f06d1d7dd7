"""Bits taken off a plan: the ones that save most for the error that they add, as far as the error allows."""

from functools import partial

import numpy as np
import pytest
import torch

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.allotment import allot
from secure_computation.engines.masked.lowering.calibration import calibrate
from secure_computation.engines.masked.lowering.drafts import Allotment, Precision
from secure_computation.engines.masked.lowering.lower import draft_masked
from secure_computation.engines.masked.lowering.sensitivity import BelowZero, measure_sensitivity
from secure_computation.engines.masked.lowering.trimming import Estimate, Trimming, predict_variance
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.float_reference import evaluate
from secure_computation.network import INPUT, Network, Operation, Relu, Reshape
from secure_computation.private_weights import PrivateWeights
from tests.secure_computation.networks import classifier, convolution, random_weights

SHAPES = {"large": (4, 8, 8), "small": (4, 4, 4)}


def two_layers() -> Network:
    around = {"padding": (1, 1, 1, 1)}
    operations: list[Operation] = [
        convolution("first", INPUT, (1, 8, 8), 4, 3, **around),
        Relu(name="large", inputs=("first",), shape=SHAPES["large"]),
        convolution("second", "large", SHAPES["large"], 4, 3, stride=(2, 2), **around),
        Relu(name="small", inputs=("second",), shape=SHAPES["small"]),
    ]
    return classifier((1, 8, 8), operations)


NETWORK = two_layers()
START = Allotment(scales=dict.fromkeys(SHAPES, 64.0), levels={}, sign_cuts=dict.fromkeys(SHAPES, 2))
ERRORS = {"large": 2.0, "small": 1.0}


def estimate_simply(allotment: Allotment) -> Estimate:
    """A bit of the large layer costs four times as much as one of the small one, for twice the error."""
    cost, variance = 0.0, 0.0
    for name, error in ERRORS.items():
        size = np.prod(SHAPES[name])
        cost += size * (3 * np.log2(allotment.scales[name]) - allotment.sign_cuts[name])
        variance += error * ((64 / allotment.scales[name]) ** 2 + 2.0 ** allotment.sign_cuts[name])
    return Estimate(int(1000 * cost), variance)


def test_nothing_is_taken_off_where_there_is_no_room() -> None:
    trimming = Trimming(NETWORK, START, estimate_simply)
    assert trimming.trim(trimming.predicted) == START


def test_more_room_takes_off_more_and_is_never_exceeded() -> None:
    trimming = Trimming(NETWORK, START, estimate_simply)
    costs = []
    for room in (0.0, 2.0, 4.0, 8.0, 16.0, 100.0):
        found = estimate_simply(trimming.trim(trimming.predicted + room))
        assert found.variance <= trimming.predicted + room
        costs.append(found.cost)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_what_saves_most_for_its_error_goes_first() -> None:
    trimming = Trimming(NETWORK, START, estimate_simply)
    trimmed = trimming.trim(trimming.predicted + 2.0 * 3 - 2.0 * 2)
    assert trimmed.scales == {**START.scales, "large": 32.0}
    assert trimmed.sign_cuts == {**START.sign_cuts, "large": 1}  # as wide as before, in the coarser scale


def test_a_bit_without_which_there_is_no_plan_stays() -> None:
    def refuse(allotment: Allotment) -> Estimate:
        if allotment.scales["large"] < START.scales["large"]:
            raise ModelFileError("no ring")
        return estimate_simply(allotment)

    assert Trimming(NETWORK, START, refuse).trim(1e9).scales["large"] == START.scales["large"]


@pytest.mark.parametrize("bits", [0, 1])
def test_the_last_bit_of_a_sign_adds_no_error(bits: int) -> None:
    assert BelowZero(steady=3.0, varied=5.0).variance(16.0, bits) == 0.0
    assert BelowZero(steady=3.0, varied=5.0).variance(16.0, bits + 2) > 0.0


def test_a_logit_behind_a_relu_is_compared_in_nearly_all_its_bits() -> None:
    """No calibration image has it near 0, but another image may: a whole one that is lost must be within the error."""
    made = classifier((4, 1, 1), [Reshape(name="flat", inputs=(INPUT,), shape=(4,))])
    last = Relu(name="out", inputs=("fc",), shape=(3,))
    network = Network(input_shape=(4, 1, 1), operations=(*made.operations, last), output="out", classes=3)
    weights = PrivateWeights(network, {"fc.weight": np.eye(3, 4, dtype=np.float32), "fc.bias": np.zeros(3, np.float32)})
    sensitivity = measure_sensitivity(network, weights, np.full((5, 4, 1, 1), 3.0, np.float32))
    assert sensitivity.below_zero["out"].varied == 0.0
    assert allot(network, sensitivity, 0.03, digits=2).sign_cuts["out"] == 1


def test_a_predicted_error_is_about_what_is_measured() -> None:
    """Within a factor of three, over many draws of the dithers."""
    weights = random_weights(NETWORK, 3)
    images = np.random.default_rng(5).normal(size=(6, 1, 8, 8)).astype(np.float32)
    ranges, sensitivity = calibrate(NETWORK, weights, images), measure_sensitivity(NETWORK, weights, images)
    allotment = allot(NETWORK, sensitivity, 0.02, digits=2)
    draft = partial(draft_masked, NETWORK, weights, ranges, arithmetic=Arithmetic.DITHERED)
    drafted = draft(precision=Precision(allotment=allotment))
    largest = {name.removesuffix(".weight"): float(np.abs(weights[name]).max()) for name in weights}
    predicted = predict_variance(drafted.drafts, largest, sensitivity, Arithmetic.DITHERED)
    lowering, integers = drafted.lowering, round_weights(drafted.lowering, weights)
    expected = evaluate(NETWORK, weights, torch.from_numpy(images)).numpy()
    dithers = reference.draw_dithers(np.random.default_rng(7))
    errors = [
        reference.read_logits(
            lowering, reference.evaluate(lowering, integers, reference.quantise_image(lowering, image), dithers=dithers)
        )
        - logits
        for image, logits in zip(images, expected, strict=True)
        for _ in range(30)
    ]
    assert predicted / 3 < np.square(errors).mean() < predicted * 3
