"""The crypten engine: every operation against the float reference, its cost as declared, its results plausible."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ComputationFailed, ModelFileError, PeerViolation
from secure_computation.crypten_bridge.dealing import SquareRequest
from secure_computation.engines.crypten.engine import PLAUSIBLE_LOGIT
from secure_computation.engines.crypten.lowering import lower, predict_cost
from secure_computation.network import (
    INPUT,
    Activation,
    Add,
    AveragePool,
    Clip,
    Concat,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Network,
    Operation,
    Pad,
    Relu,
    Reshape,
    Softmax,
)
from secure_computation.wire import HEADER_BYTES
from tests.secure_computation.networks import (
    CLASSES,
    changed,
    classifier,
    convolution,
    flattened,
    plain_logits,
    random_image,
    random_weights,
    run_all,
    small_network,
)

TOLERANCE = 0.003
"""Over logits: a few dozen roundings to 2^-16, by weights near 1."""
SHAPE = (2, 6, 5)


def pool(kind: type[MaxPool | AveragePool], source: str = INPUT, shape: Any = SHAPE, **fields: Any) -> Any:
    drafted = kind.model_validate({"name": "pool", "inputs": (source,), "shape": (1, 1, 1)} | fields)
    return drafted.model_copy(update={"shape": drafted.infer((shape,))})


def convolved(**fields: Any) -> list[Operation]:
    return [convolution("c", INPUT, SHAPE, 4, 3, **fields)]


def two_branches(join: type[Add | Multiply | Concat], shape: tuple[int, int, int]) -> list[Operation]:
    left, right = (convolution(name, INPUT, SHAPE, 2, 1) for name in ("left", "right"))
    return [left, right, join(name="join", inputs=("left", "right"), shape=shape)]


CASES: dict[str, list[Operation]] = {
    "convolution": convolved(),
    "convolution without bias": convolved(bias=False),
    "convolution, strides": convolved(stride=(2, 3)),
    "convolution, padding": convolved(padding=(1, 2, 1, 2)),
    "convolution, asymmetric padding": convolved(padding=(2, 0, 1, 1), stride=(2, 2)),
    "convolution, dilation": convolved(dilation=(2, 1), padding=(1, 1, 1, 1)),
    "convolution, groups": convolved(groups=2, padding=(1, 1, 1, 1)),
    "convolution, depthwise": [convolution("c", INPUT, SHAPE, 4, 3, groups=2)],
    "relu": [Relu(name="relu", inputs=(INPUT,), shape=SHAPE)],
    "clip": [Clip(name="clip", inputs=(INPUT,), shape=SHAPE, high=0.75)],
    "sigmoid": [Activation(name="smooth", inputs=(INPUT,), shape=SHAPE, function="sigmoid")],
    "tanh": [Activation(name="smooth", inputs=(INPUT,), shape=SHAPE, function="tanh")],
    "silu": [Activation(name="smooth", inputs=(INPUT,), shape=SHAPE, function="silu")],
    "gelu": [Activation(name="smooth", inputs=(INPUT,), shape=SHAPE, function="gelu")],
    "softmax over channels": [*convolved(), Softmax(name="softmax", inputs=("c",), shape=(4, 4, 3))],
    "softmax over features": [
        Reshape(name="vector", inputs=(INPUT,), shape=(60,)),
        FullyConnected(name="hidden", inputs=("vector",), shape=(5,), in_features=60, out_features=5, bias=True),
        Softmax(name="softmax", inputs=("hidden",), shape=(5,)),
    ],
    "max pool": [pool(MaxPool, kernel=(2, 2), stride=(2, 2))],
    "max pool, padding": [pool(MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))],
    "max pool, odd window": [pool(MaxPool, kernel=(3, 1), stride=(1, 2), padding=(2, 0, 0, 0))],
    "average pool": [pool(AveragePool, kernel=(2, 3), stride=(1, 2), count_include_pad=True)],
    "average pool, padding counts": [
        pool(AveragePool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), count_include_pad=True)
    ],
    "average pool, padding left out": [
        pool(AveragePool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 0), count_include_pad=False)
    ],
    "global average pool": [GlobalAveragePool(name="mean", inputs=(INPUT,), shape=(2, 1, 1))],
    "add": two_branches(Add, (2, 6, 5)),
    "concat": two_branches(Concat, (4, 6, 5)),
    "product": two_branches(Multiply, (2, 6, 5)),
    "product by channel": [
        GlobalAveragePool(name="mean", inputs=(INPUT,), shape=(2, 1, 1)),
        Multiply(name="product", inputs=(INPUT, "mean"), shape=SHAPE),
    ],
    "product by place": [
        convolution("map", INPUT, SHAPE, 1, 1),
        Multiply(name="product", inputs=(INPUT, "map"), shape=SHAPE),
    ],
    "square": [Multiply(name="square", inputs=(INPUT, INPUT), shape=SHAPE)],
    "pad": [Pad(name="pad", inputs=(INPUT,), shape=(2, 9, 6), padding=(1, 0, 2, 1), value=-0.5)],
    "reshape": [Reshape(name="again", inputs=(INPUT,), shape=(5, 6, 2)), convolution("c", "again", (5, 6, 2), 2, 2)],
    "value used twice": [
        Relu(name="relu", inputs=(INPUT,), shape=SHAPE),
        Add(name="sum", inputs=("relu", "relu"), shape=SHAPE),
        Concat(name="again", inputs=("sum", "relu"), shape=(4, 6, 5)),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_operation_equals_its_float_reference_at_its_declared_cost(name: str) -> None:
    network = flattened(SHAPE, CASES[name])
    weights, image = random_weights(network), random_image(network)
    expected = plain_logits(network, weights, image)
    assert np.ptp(expected) > 10 * TOLERANCE
    lowering = lower(network)
    result = run_all(network, weights, image, lowering=lowering)
    assert result.logits.dtype == np.float64
    assert np.abs(result.logits - expected).max() < TOLERANCE
    cost = predict_cost(network, lowering)
    online = result.online
    assert online.bytes_sent == cost.online_bytes_each_way
    assert online.bytes_received == cost.online_bytes_each_way + cost.output_bytes
    assert online.frames_sent == cost.online_trips
    assert online.one_way_trips == cost.online_trips + 1  # of the output
    assert result.offline.bytes_sent == cost.masked_weights_bytes_each_way
    # The model owner also says that its corrections have come.
    assert result.offline.bytes_received == cost.masked_weights_bytes_each_way + HEADER_BYTES
    assert result.dealt.bytes_received + result.dealt_to_data_owner.bytes_received == cost.dealer_bytes


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "silu", "gelu"])
def test_smooth_functions_hold_far_out_and_close_to_zero(function: Any) -> None:
    network = flattened(SHAPE, [Activation(name="smooth", inputs=(INPUT,), shape=SHAPE, function=function)])
    lowering = lower(network)
    # One logit for each of three points: the weights pick elements, so nothing averages out.
    points = np.array([[0.0, -0.001, 1.0], [-7.5, 5.9, -6.1], [16.1, -15.9, 8.05], [900.0, -900.0, 31000.0]])
    for chosen in points.astype(np.float32):
        weight = np.zeros((CLASSES, 60), np.float32)
        weight[range(CLASSES), range(CLASSES)] = 1.0 if abs(chosen).max() < 100 else 0.01
        weights = changed(random_weights(network), network, {"fc.weight": weight, "fc.bias": np.zeros(3, np.float32)})
        image = np.zeros(SHAPE, np.float32)
        image.reshape(-1)[:CLASSES] = chosen
        expected = plain_logits(network, weights, image)
        logits = run_all(network, weights, image, lowering=lowering).logits
        assert np.abs(logits - expected).max() < 0.002 + 2e-3 * abs(expected).max()


def test_fully_connected_without_bias_on_a_vector() -> None:
    body: list[Operation] = [
        Reshape(name="vector", inputs=(INPUT,), shape=(12,)),
        FullyConnected(name="hidden", inputs=("vector",), shape=(5,), in_features=12, out_features=5, bias=False),
        Relu(name="relu", inputs=("hidden",), shape=(5,)),
        Concat(name="both", inputs=("relu", "hidden"), shape=(10,)),
    ]
    network = classifier((1, 3, 4), body)
    weights, image = random_weights(network), random_image(network)
    assert np.abs(run_all(network, weights, image).logits - plain_logits(network, weights, image)).max() < TOLERANCE


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A chain of two to four operations that fit each other."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(3, 6)), draw(st.integers(3, 6)))
    source, current = INPUT, shape
    body: list[Operation] = []
    for index in range(draw(st.integers(2, 4))):
        kind = draw(st.sampled_from(["convolution", "relu", "clip", "max", "average"]))
        name = f"o{index}"
        window = {"name": name, "inputs": (source,), "shape": (1, 1, 1)}
        operation: Operation
        if kind == "convolution":
            pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
            kernel = draw(st.integers(1, min(3, *current[1:])))
            operation = convolution(name, source, current, draw(st.integers(1, 3)), kernel, padding=pads)
        elif kind == "relu":
            operation = Relu(name=name, inputs=(source,), shape=current)
        elif kind == "clip":
            operation = Clip(name=name, inputs=(source,), shape=current, high=draw(st.floats(0.25, 4)))
        else:
            padding = draw(st.tuples(*[st.integers(0, 1)] * 4))
            kernel_shape = tuple(min(2, side) for side in current[1:])
            fields = window | {"kernel": kernel_shape, "stride": (1, 2), "padding": padding}
            if min(kernel_shape) < 2:
                fields["padding"] = (0, 0, 0, 0)
            if kind == "average":
                operation = AveragePool.model_validate(fields | {"count_include_pad": draw(st.booleans())})
            else:
                operation = MaxPool.model_validate(fields)
            operation = operation.model_copy(update={"shape": operation.infer((current,))})
        body.append(operation)
        source, current = name, (operation.shape[0], *operation.shape[1:])
    return flattened(shape, body)


@given(networks(), st.integers(0, 2**16))
@settings(max_examples=8)
def test_small_networks_equal_their_float_reference(network: Network, seed: int) -> None:
    weights, image = random_weights(network, seed), random_image(network, seed)
    expected = plain_logits(network, weights, image)
    assert np.abs(run_all(network, weights, image).logits - expected).max() < TOLERANCE


def test_shares_are_random_and_results_are_not() -> None:
    network = small_network()
    weights, image = random_weights(network), random_image(network)
    first, second = (run_all(network, weights, image).logits for _ in range(2))
    assert np.abs(first - second).max() < TOLERANCE


@pytest.mark.parametrize("logit", [2 * PLAUSIBLE_LOGIT, -2 * PLAUSIBLE_LOGIT])
def test_implausible_result_is_refused(logit: float) -> None:
    network = small_network()
    bias = np.zeros(CLASSES, np.float32)
    bias[1] = logit
    weights = changed(random_weights(network), network, {"fc.bias": bias})
    with pytest.raises(ComputationFailed, match="submit the image again") as caught:
        run_all(network, weights, random_image(network))
    assert str(int(logit)) not in str(caught.value)


def test_dealing_list_that_is_too_long_is_refused() -> None:
    network = small_network()
    lowering = lower(network)
    longer = lowering.model_copy(update={"requests": (*lowering.requests, SquareRequest(output=(1,)))})
    with pytest.raises(PeerViolation, match="dealt tuples"):
        run_all(network, random_weights(network), random_image(network), lowering=longer)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelFileError):
        changed(random_weights(small_network()), small_network(), {"c3.weight": np.zeros(1, np.float32)})
