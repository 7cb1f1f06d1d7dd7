"""Networks with a smooth function in the middle: masked around it, CrypTen inside, against float."""

from dataclasses import dataclass

import numpy as np
import pytest

from secure_computation import reference
from secure_computation.engines.masked.costs import Cost, declared_costs
from secure_computation.engines.masked.integer_weights import IntegerWeights
from secure_computation.engines.masked.lowering import lower_masked
from secure_computation.engines.masked.plan import CrypTenStep, MaskedLowering
from secure_computation.network import Network
from secure_computation.private_weights import PrivateWeights
from secure_computation.wire import Frame, Kind
from tests.model_owner.graphs import build, compiled, floats, node
from tests.secure_computation.engines.masked.parties import Model, parties_of
from tests.secure_computation.engines.masked.sessions import Session
from tests.secure_computation.networks import plain_logits

TOLERANCE = 0.01
"""Against float; the max pool's small ring leaves values 9 bits, which costs more than CrypTen does."""
CRYPTEN_TOLERANCE = 0.005
"""Against the reference in whole numbers, which has every rounding of the plan but CrypTen's."""


@dataclass(frozen=True)
class Smooth:
    network: Network
    weights: PrivateWeights
    model: Model

    @property
    def lowering(self) -> MaskedLowering:
        return self.model.lowering

    @property
    def integers(self) -> IntegerWeights:
        return self.model.integers


def smooth(function: str, *, stem: str = "conv") -> Smooth:
    """From ONNX: convolution, the function, residual sum, average pool, convolution, ReLU, head."""
    inputs = {
        "Silu": [node("Sigmoid", ["c"], "gate"), node("Mul", ["c", "gate"], "s")],
        "Gelu": [node("Gelu", ["c"], "s", approximate="tanh")],
    }.get(function, [node(function, ["c"], "s")])
    before = {
        "conv": [node("Conv", ["image", "w1"], "c", pads=[1, 1, 1, 1])],
        # Sum pools of 9 put a factor into the scale that is no power of two; the pool's output is coarse.
        "pool": [
            node("Conv", ["image", "w1"], "p", pads=[1, 1, 1, 1]),
            node("Relu", ["p"], "r"),
            node("AveragePool", ["r"], "c", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        ],
        "image": [node("Identity", ["image"], "c")],
        "max": [
            node("Conv", ["image", "w1"], "p", pads=[1, 1, 1, 1]),
            node("MaxPool", ["p"], "c", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        ],
    }[stem]
    channels = 2 if stem == "image" else 4
    after = [
        node("Add", ["s", "c"], "a"),
        node("AveragePool", ["a"], "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m", "w2"], "d"),
        node("Relu", ["d"], "e"),
        node("GlobalAveragePool", ["e"], "g"),
        node("Flatten", ["g"], "f"),
        node("Gemm", ["f", "w3", "b3"], "logits", transB=1),
    ]
    tensors = {
        "w1": floats(4, 2, 3, 3, seed=1) / 2,
        "w2": floats(5, channels, 2, 2, seed=2) / 4,
        "w3": floats(3, 5, seed=3),
        "b3": floats(3, seed=4),
    }
    nodes = [*before, *inputs, *after]
    used = {name for one in nodes for name in one.input}
    model = build(nodes, {name: value for name, value in tensors.items() if name in used}, size=(2, 6, 6), opset=20)
    network, weights = compiled(model)
    images = floats(6, *network.input_shape, seed=5)
    lowering, integers = lower_masked(network, weights, images)
    return Smooth(network, weights, Model(network, lowering, integers, images))


FUNCTIONS = ("Sigmoid", "Silu", "Tanh", "Gelu")
CASES = [(function, "conv") for function in FUNCTIONS] + [("Silu", stem) for stem in ("pool", "image", "max")]


@pytest.mark.parametrize(("function", "stem"), CASES)
def test_against_float_at_the_declared_cost(function: str, stem: str) -> None:
    case = smooth(function, stem=stem)
    assert sum(isinstance(step, CrypTenStep) for step in case.lowering.steps) == 1
    image = case.model.images[0]
    expected = plain_logits(case.network, case.weights, image)
    assert np.ptp(expected) > 20 * TOLERANCE
    session = Session(parties_of(case.model), image).run()
    assert np.abs(session.honest() - expected).max() < (0.05 if stem == "max" else TOLERANCE)
    integers = reference.evaluate(case.lowering, case.integers, reference.quantise_image(case.lowering, image))
    approximate = reference.logits_of(case.lowering, integers)
    assert np.abs(session.honest() - approximate).max() < CRYPTEN_TOLERANCE
    assert not case.lowering.is_exact
    step = next(step for step in case.lowering.steps if isinstance(step, CrypTenStep))
    assert declared_costs(case.lowering)[step.name] == measured(session, step.name)


def measured(session: Session, name: str) -> Cost:
    """From the frames about one step."""

    def bodies(link: str, *messages: str) -> int:
        return sum(len(frame.body) for frame in about(session.frames[link], name, *messages))

    openings = about(session.frames["data_owner_from_model_owner"], name, "CrypTen")
    assert all(frame.kind is Kind.TENSOR for frame in openings)
    return Cost(
        dealer_to_model_owner=bodies("model_owner_from_dealer", "correction"),
        data_owner_to_model_owner_offline=bodies("model_owner_from_data_owner", "hidden share"),
        data_owner_to_model_owner=bodies("model_owner_from_data_owner", "CrypTen", "answer"),
        model_owner_to_data_owner=bodies("data_owner_from_model_owner", "CrypTen", "opening"),
        trips=2 + len(openings),
    )


def about(frames: list[Frame], name: str, *messages: str) -> list[Frame]:
    return [
        frame
        for frame in frames
        if frame.step.partition(", ")[0] in messages and frame.step.partition(", ")[2].startswith(f"{name} (")
    ]
