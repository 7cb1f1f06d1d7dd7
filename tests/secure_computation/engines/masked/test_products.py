"""Products of two values in the masked engine: what the lowering makes of them, plans and messages that are refused."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from contract.errors import PeerViolation
from contract.identity import Role
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.network import INPUT, Add, Clip, GlobalAveragePool, Multiply, Network, Operation, Relu
from secure_computation.private_weights import PrivateWeights
from tests.secure_computation.engines.masked.lowering.test_lowering import IMAGE, calibration, float_values, kinds, relu
from tests.secure_computation.engines.masked.parties import lowered, parties_of
from tests.secure_computation.engines.masked.sessions import Body, Session
from tests.secure_computation.networks import classifier, convolution, random_weights

GATED = (2, 8, 8)


def _gated(*, scale: float = 1.0) -> tuple[Network, PrivateWeights]:
    """relu(c1) * clip(c2 of its mean) + c3, the product's factors scaled down."""
    first, other = (convolution(name, INPUT, IMAGE, 2, 1) for name in ("c1", "c3"))
    mean = GlobalAveragePool(name="m1", inputs=("r1",), shape=(2, 1, 1))
    gate = convolution("c2", "m1", (2, 1, 1), 2, 1)
    body: list[Operation] = [
        first,
        relu("r1", first),
        mean,
        gate,
        Clip(name="k1", inputs=("c2",), shape=(2, 1, 1), high=1.0),
        Multiply(name="p1", inputs=("r1", "k1"), shape=GATED),
        other,
        Add(name="a1", inputs=("p1", "c3"), shape=GATED),
        Relu(name="r2", inputs=("a1",), shape=GATED),
    ]
    network = classifier(IMAGE, body)
    weights = random_weights(network, 2)
    small = {name: scale * weights[name] for name in ("c1.weight", "c1.bias", "c2.weight", "c2.bias")}
    return network, PrivateWeights(network, dict(weights) | small)


def test_a_product_reads_values_without_spare_bits_and_is_truncated_by_the_relu_behind_the_sum() -> None:
    network, weights = _gated()
    lowering = lower_masked(network, weights, calibration(network))
    product = lowering.step("p1")
    sources = [lowering.step(name) for name in product.inputs]
    assert product.value.scale == sources[0].value.scale * sources[1].value.scale
    assert all(source.value.calibrated_bits <= 14 for source in sources)
    assert kinds(lowering)[kinds(lowering).index("multiply") :] == [
        "multiply",
        "linear",
        "add",
        "relu",
        "sum_pool",
        "reshape",
        "linear",
    ]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_a_product_far_smaller_than_what_it_joins_is_truncated_first(scale: float) -> None:
    network, weights = _gated(scale=scale)
    images = calibration(network)
    lowering = lower_masked(network, weights, images)
    integers = round_weights(lowering, weights)
    logits = reference.evaluate(lowering, integers, reference.quantise_image(lowering, images[0]))
    expected = float_values(network, weights, images[0])["fc"].numpy()
    np.testing.assert_allclose(reference.read_logits(lowering, logits), expected, atol=0.01)
    assert ("p1_aligned" in [step.name for step in lowering.steps]) == (scale < 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["r1"]}, "needs two values"),
        ({"inputs": ["k1", "r1"]}, "needs two values"),
        ({"shape": [2, 8, 9]}, "makes shape"),
        ({"value": {"scale": 3.0}}, "the scale of a product"),
        ({"value": {"ring_bits": 32}}, "narrower than the ring"),
        ({"factors": [1, 1]}, "factors"),
    ],
)
def test_a_product_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    network, weights = _gated()
    lowering = lower_masked(network, weights, calibration(network))
    content = json.loads(lowering.model_dump_json())
    step = next(step for step in content["steps"] if step["kind"] == "multiply")
    for name, value in change.items():
        step[name] = step[name] | value if isinstance(value, dict) else value
    with pytest.raises(ValidationError, match=message):
        MaskedLowering.model_validate_json(json.dumps(content), strict=True)


@pytest.mark.parametrize("inputs", [("c1", "k1"), ("r1", "c2"), ("c1", "c1")])
def test_a_product_of_two_values_needs_both_masks(inputs: tuple[str, str]) -> None:
    network, weights = _gated()
    lowering = lower_masked(network, weights, calibration(network))
    content = json.loads(lowering.model_dump_json())
    step = next(step for step in content["steps"] if step["kind"] == "multiply")
    scale = math.prod(lowering.step(name).value.scale for name in inputs)
    step |= {"inputs": inputs, "value": step["value"] | {"ring_bits": 3, "scale": scale}}
    with pytest.raises(ValidationError, match=r"'p1'.*the dealer does not know"):
        MaskedLowering.model_validate_json(json.dumps(content), strict=True)


@pytest.mark.parametrize(
    ("message", "receiver", "sender"),
    [
        ("correction", Role.MODEL_OWNER, "dealer"),
        ("opening", Role.DATA_OWNER, "laboratory"),
        ("answer", Role.MODEL_OWNER, "hospital"),
    ],
)
def test_a_message_of_a_product_is_of_its_length_and_what_it_says_counts(
    message: str, receiver: Role, sender: str
) -> None:
    network, weights = _gated()
    model = lowered(network, weights=weights)
    for alter in (lambda body: body[:-1], lambda body: body ^ np.uint8(0x55)):

        def change(step: str, body: Body, alter: Callable[[Body], Body] = alter) -> Body:
            return alter(body) if step.startswith(f"{message}, p1 (") else body

        session = Session(parties_of(model), model.images[0], change=change).run()
        if session.logits is None:
            assert type(session.errors[receiver]) is PeerViolation
            assert sender in str(session.errors[receiver])
            assert f"'{message}, p1 (" in str(session.errors[receiver])
        else:
            assert not np.array_equal(session.logits, model.expected_logits(model.images[0], session.seeds))
