"""The masked lowering: networks of every kind against float, the range audit, layouts, and what is refused."""

import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation import float_reference
from secure_computation.engines.masked.lowering.calibration import RealRange
from secure_computation.engines.masked.lowering.drafts import Draft, Precision
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.lowering.scales import trace_scales
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, diffuse, round_weights
from secure_computation.engines.masked.plan.layouts import ONLINE_WEIGHT, best_chunks, online_bits, table_bits, tables
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    AddStep,
    LinearStep,
    MaxPoolStep,
    OffsetStep,
    ReluStep,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.network import (
    INPUT,
    Add,
    AveragePool,
    Clip,
    Concat,
    FullyConnected,
    MaxPool,
    Network,
    Operation,
    Pad,
    Relu,
    Reshape,
)
from secure_computation.private_weights import PrivateWeights
from secure_computation.protocols.comparison import Chain
from tests.secure_computation.engines.masked.parties import narrow_resnet18, random_network
from tests.secure_computation.networks import classifier, convolution, random_weights, small_network

IMAGE = (2, 8, 8)
FINE = Precision(activation_bits=12, weight_bits=12, guard_bits=2)
REAL = RealRange(smallest=-1.0, largest=1.0, mean_square=1.0)


def calibration(network: Network, count: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(count, *network.input_shape)).astype(np.float32)


def float_values(network: Network, weights: PrivateWeights, image: NDArray[np.float32]) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    float_reference.evaluate(
        network, weights, torch.from_numpy(image[None]), observe=lambda name, value: values.update({name: value[0]})
    )
    return values


def check_against_float(
    network: Network,
    *,
    tolerance: float = 0.01,
    precision: Precision = FINE,
    arithmetic: Arithmetic = Arithmetic.DITHERED,
) -> MaskedLowering:
    """Every value that both plans name must agree, relative to the value's magnitude."""
    weights, images = random_weights(network), calibration(network)
    lowering = lower_masked(network, weights, images, precision=precision, arithmetic=arithmetic)
    integers = round_weights(lowering, weights)
    expected = float_values(network, weights, images[0])
    compared = 0

    def observe(name: str, value: NDArray[np.int64]) -> None:
        nonlocal compared
        if name in expected:
            real = torch.from_numpy(value) / lowering.step(name).value.scale
            error = (real - expected[name]).abs().max()
            assert error <= tolerance * max(1.0, float(expected[name].abs().max())), name
            compared += 1

    reference.evaluate(lowering, integers, reference.quantise_image(lowering, images[0]), observe=observe)
    assert compared >= 2
    return lowering


def kinds(lowering: MaskedLowering) -> list[str]:
    return [step.kind for step in lowering.steps]


def relu(name: str, source: Operation) -> Relu:
    return Relu(name=name, inputs=(source.name,), shape=source.shape)


def pool(kind: type[AveragePool] | type[MaxPool], name: str, source: Operation, **more: Any) -> Any:
    geometry = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)} | more
    drafted = kind(name=name, inputs=(source.name,), shape=source.shape, **geometry)
    return drafted.model_copy(update={"shape": drafted.infer((source.shape,))})


FIRST = convolution("c1", INPUT, IMAGE, 4, 3, padding=(1, 1, 1, 1))
MAP = (4, 8, 8)


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_follow_float(seed: int) -> None:
    check_against_float(random_network(seed), tolerance=0.03)


def test_small_resnet_follows_float_with_shifts_only() -> None:
    lowering = check_against_float(narrow_resnet18(32), tolerance=0.05)
    sums = [step for step in lowering.steps if isinstance(step, AddStep)]
    assert sums
    for step in sums:
        assert min(step.factors) == 1
        assert max(step.factors).bit_count() == 1, step.name
    assert "offset" not in kinds(lowering)


def test_product_after_product_is_truncated() -> None:
    body: list[Operation] = [FIRST, convolution("c2", "c1", MAP, 3, 3), convolution("c3", "c2", (3, 6, 6), 3, 1)]
    lowering = check_against_float(classifier(IMAGE, body))
    for name in ("c2", "c3"):
        source = lowering.step(lowering.step(name).inputs[0])
        assert isinstance(source, TruncateStep)
        assert source.widens


def test_relu_and_max_pool_share_a_small_ring() -> None:
    first = relu("r1", FIRST)
    lowering = check_against_float(classifier(IMAGE, [FIRST, first, pool(MaxPool, "p1", first)]))
    assert kinds(lowering)[:5] == ["input", "linear", "truncate", "max_pool", "relu"]
    truncation, tree, last = lowering.steps[2:5]
    assert isinstance(truncation, TruncateStep)
    assert isinstance(tree, MaxPoolStep)
    assert isinstance(last, ReluStep)
    assert not truncation.widens
    assert tree.ring_bits < 20 <= last.value.ring_bits
    assert last.shift == 0


@pytest.mark.parametrize("with_relu", [False, True])
def test_max_pool_of_signed_values_is_widened_before_a_product(with_relu: bool) -> None:
    head: list[Operation] = [FIRST]
    if with_relu:  # read twice, so it cannot be deferred behind the pool
        first = relu("r1", FIRST)
        pooled = pool(MaxPool, "p1", first)
        other = pool(AveragePool, "a1", first, count_include_pad=True)
        head += [first, pooled, other, Add(name="s1", inputs=("p1", "a1"), shape=pooled.shape)]
    else:
        head += [pool(MaxPool, "p1", FIRST)]
    shape = (4, 4, 4)
    lowering = check_against_float(classifier(IMAGE, [*head, convolution("c2", head[-1].name, shape, 3, 1)]))
    wide = lowering.step("p1_wide")
    assert wide.kind == ("relu" if with_relu else "truncate")


def test_clip_and_joined_branches() -> None:
    clip = Clip(name="k1", inputs=("c1",), shape=MAP, high=0.7)
    left = convolution("c2", "k1", MAP, 3, 1)
    right = convolution("c3", "k1", MAP, 5, 3, padding=(1, 1, 1, 1))
    join = Concat(name="j1", inputs=("c2", "c3"), shape=(8, 8, 8))
    padded = Pad(name="d1", inputs=("j1",), shape=(8, 9, 9), padding=(1, 0, 0, 1), value=0.25)
    body: list[Operation] = [FIRST, clip, left, right, join, padded, relu("r1", padded)]
    check_against_float(classifier(IMAGE, body))


@pytest.mark.parametrize("counted", [False, True])
def test_average_pools_are_exact_sums(counted: bool) -> None:
    first = relu("r1", FIRST)
    network = classifier(IMAGE, [FIRST, first, pool(AveragePool, "a1", first, count_include_pad=counted)])
    lowering = check_against_float(network)
    step = lowering.step("a1")
    assert isinstance(step, SumPoolStep)
    assert step.divisor == (9 if counted else 36)
    factors = reference.compute_window_factors(step, MAP)
    assert factors[0, 0] == (1 if counted else 36 // 4)
    assert factors[1, 1] == (1 if counted else 36 // 9)


def test_a_dithered_plan_adds_nothing_to_round_by() -> None:
    pooled = pool(AveragePool, "a1", FIRST, count_include_pad=True)
    lowering = check_against_float(classifier(IMAGE, [FIRST, pooled, relu("r1", pooled)]))
    assert not any(isinstance(step, OffsetStep) for step in lowering.steps)
    assert not any(step.rounding for step in lowering.steps if isinstance(step, LinearStep))


def test_average_pool_before_relu_rounds_by_an_offset() -> None:
    pooled = pool(AveragePool, "a1", FIRST, count_include_pad=True)
    lowering = check_against_float(classifier(IMAGE, [FIRST, pooled, relu("r1", pooled)]), arithmetic=Arithmetic.EXACT)
    offset = lowering.step(lowering.step("r1").inputs[0])
    assert isinstance(offset, OffsetStep)
    truncation = lowering.step("r1")
    assert isinstance(truncation, ReluStep)
    assert 2 * offset.offset == 1 << truncation.shift


def test_rounding_reaches_a_truncation_through_one_bias_only() -> None:
    second = convolution("c2", INPUT, IMAGE, 4, 1)
    total = Add(name="s1", inputs=("c1", "c2"), shape=MAP)
    network = classifier(IMAGE, [FIRST, second, total, relu("r1", total)])
    lowering = check_against_float(network, arithmetic=Arithmetic.EXACT)
    truncation = lowering.step("r1")
    assert isinstance(truncation, ReluStep)
    roundings = [step.rounding for step in lowering.steps if isinstance(step, LinearStep) and step.name != "fc"]
    assert sorted(roundings) == [0, 1 << (truncation.shift - 1)]


def test_rounding_stays_out_of_a_stream_that_others_read_later() -> None:
    """The stream of a ResNet without ReLU: what a block rounds by would add up over all blocks behind it."""
    operations: list[Operation] = [FIRST]
    stream: Operation = FIRST
    for number in range(3):
        rectified = relu(f"r{number}", stream)
        branch = convolution(f"c{number + 2}", rectified.name, MAP, 4, 1)
        stream = Add(name=f"s{number}", inputs=(branch.name, stream.name), shape=MAP)
        operations += [rectified, branch, stream]
    network = classifier(IMAGE, [*operations, relu("last", stream)])
    lowering = lower_masked(network, random_weights(network), calibration(network), arithmetic=Arithmetic.EXACT)
    assert not any(step.rounding for step in lowering.steps if isinstance(step, LinearStep))
    for name in ("r0", "r1", "r2", "last"):
        assert isinstance(lowering.step(lowering.step(name).inputs[0]), OffsetStep)


@pytest.mark.parametrize("seed", range(6))
def test_worst_case_bounds_hold_for_any_input(seed: int) -> None:
    network = random_network(seed)
    lowering = lower_masked(network, random_weights(network), calibration(network))
    integers = round_weights(lowering, random_weights(network))
    bound = (1 << lowering.steps[0].value.worst_case_bits) - 1
    for extreme in range(4):
        generator = np.random.default_rng(extreme)
        image = generator.choice([-bound, bound], size=network.input_shape).astype(np.int64)

        def observe(name: str, value: NDArray[np.int64]) -> None:
            bits = lowering.step(name).value.worst_case_bits
            assert int(np.abs(value).max()).bit_length() <= bits

        reference.evaluate(lowering, integers, image, observe=observe, audit=False)


def test_headroom_is_kept() -> None:
    network = small_network()
    weights, images = random_weights(network), calibration(network)
    lowering = lower_masked(network, weights, images)
    integers = round_weights(lowering, weights)
    largest = 3.5 * images[0]
    reference.evaluate(lowering, integers, reference.quantise_image(lowering, largest))
    tight = lower_masked(network, weights, images, precision=Precision(headroom_bits=0))
    rings = [
        (wide.value.ring_bits, small.value.ring_bits) for wide, small in zip(lowering.steps, tight.steps, strict=True)
    ]
    assert all(small <= wide for wide, small in rings)
    assert any(small < wide for wide, small in rings)


def test_a_layer_that_is_dead_on_the_calibration() -> None:
    network = small_network()
    weights = random_weights(network)
    dead = PrivateWeights(network, dict(weights) | {"c1.bias": np.full(2, -100, np.float32)})
    lowering = lower_masked(network, dead, calibration(network))
    integers = round_weights(lowering, dead)
    image = calibration(network)[0]
    logits = reference.evaluate(lowering, integers, reference.quantise_image(lowering, image))
    expected = float_values(network, dead, image)["fc"].numpy()
    np.testing.assert_allclose(reference.read_logits(lowering, logits), expected, atol=0.01)


def test_all_weights_zero() -> None:
    network = small_network()
    zero = {name: np.zeros(shape, np.float32) for name, shape in network.weight_shapes().items()}
    lowering = lower_masked(network, PrivateWeights(network, zero), calibration(network))
    integers = round_weights(lowering, PrivateWeights(network, zero))
    image = reference.quantise_image(lowering, calibration(network)[0])
    assert not reference.evaluate(lowering, integers, image).any()


# Refusals.


def test_a_range_beyond_32_bits_names_the_layer() -> None:
    pooled = MaxPool(name="p1", inputs=(INPUT,), shape=(2, 7, 7), kernel=(2, 2), stride=(1, 1))
    network = classifier(IMAGE, [pooled])
    with pytest.raises(
        ModelFileError, match=r"layer 'p1\w*' needs a ring of \d+ bits, more than 32: import with fewer"
    ):
        lower_masked(network, random_weights(network), calibration(network), precision=Precision(activation_bits=29))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 1, 6, 6), np.float32), "do not fit"),
        (np.zeros((2, 1, 5, 6), np.float32), "do not fit"),
        (np.zeros((1, 6, 6), np.float32), "do not fit"),
        (np.full((1, 1, 6, 6), np.nan, np.float32), "not finite"),
    ],
)
def test_unfit_calibration(images: NDArray[np.float32], message: str) -> None:
    network = small_network()
    with pytest.raises(ModelFileError, match=message):
        lower_masked(network, random_weights(network), images)


def _plan() -> dict[str, Any]:
    network = classifier(IMAGE, [FIRST, relu("r1", FIRST)])
    lowering = lower_masked(network, random_weights(network), calibration(network))
    plan: dict[str, Any] = json.loads(lowering.model_dump_json())
    return plan


PLAN = _plan()


def test_a_plan_survives_json() -> None:
    text = json.dumps(PLAN)
    assert json.loads(MaskedLowering.model_validate_json(text, strict=True).model_dump_json()) == PLAN


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (0, {"name": "picture"}),
        (0, {"value": PLAN["steps"][0]["value"] | {"ring_bits": 33}}),
        (0, {"value": PLAN["steps"][0]["value"] | {"ring_bits": 4}}),
        (0, {"value": PLAN["steps"][0]["value"] | {"scale": 0.0}}),
        (1, {"inputs": ["r1"]}),
        (1, {"inputs": ["input", "input"]}),
        (1, {"shape": [4, 8, 9]}),
        (1, {"rounding": -1}),
        (2, {"name": "c1"}),
        (2, {"ring_bits": 32}),
        (2, {"shift": 1}),
        (2, {"high_chunks": []}),
        (2, {"low_chunks": [7, 7]}),
        (2, {"kind": "sigmoid"}),
        (2, {"extra": 1}),
    ],
)
def test_a_damaged_plan_is_refused(step: int, change: dict[str, Any]) -> None:
    steps = [entry | change if index == step else entry for index, entry in enumerate(PLAN["steps"])]
    with pytest.raises(ValidationError):
        MaskedLowering.model_validate_json(json.dumps(PLAN | {"steps": steps}), strict=True)


def test_a_product_of_an_unknown_mask_is_refused() -> None:
    body: list[Operation] = [FIRST, convolution("c2", "c1", MAP, 3, 3)]
    network = classifier(IMAGE, body)
    lowering = lower_masked(network, random_weights(network), calibration(network))
    steps = [step.model_copy(update={"inputs": ("c1",)}) if step.name == "c2" else step for step in lowering.steps]
    entries = [json.loads(step.model_dump_json()) for step in steps]
    entries[0]["value"]["ring_bits"] = entries[1]["value"]["ring_bits"] = 32
    changed = json.dumps({"steps": entries, "output": "fc", "arithmetic": lowering.arithmetic})
    with pytest.raises(ValidationError, match="the dealer does not know"):
        MaskedLowering.model_validate_json(changed, strict=True)


# The private integers.


def test_rounding_again_gives_the_same_integers() -> None:
    network = small_network()
    weights = random_weights(network)
    lowering = lower_masked(network, weights, calibration(network))
    integers = round_weights(lowering, weights)
    again = round_weights(MaskedLowering.model_validate_json(lowering.model_dump_json()), weights)
    assert set(again) == set(integers)
    for name in again:
        np.testing.assert_array_equal(again[name], integers[name])
        assert not integers[name].flags.writeable


def test_integers_are_withheld() -> None:
    hidden = IntegerWeights({"c1.weight": np.full((1, 1, 1, 1), 12321, np.int32)})
    assert "12321" not in repr(hidden)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(hidden)


def test_other_weights_are_refused() -> None:
    network = small_network()
    weights = random_weights(network)
    lowering = lower_masked(network, weights, calibration(network))
    large = PrivateWeights(network, {name: 1000 * tensor for name, tensor in weights.items()})
    with pytest.raises(ModelFileError, match="beyond the plan's integers"):
        round_weights(lowering, large)
    head = classifier((1, 6, 6), [convolution("c1", INPUT, (1, 6, 6), 2, 5)])
    with pytest.raises(ModelFileError, match="other weights"):
        round_weights(lowering, random_weights(head))


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40), st.floats(0.1, 1000))
def test_diffusion_keeps_every_running_sum(row: list[float], scale: float) -> None:
    weight = np.array([row, row[::-1]], np.float32)
    rounded = diffuse(weight, scale)
    exact = weight.astype(np.float64) * scale
    assert (rounded == np.rint(rounded)).all()
    assert (np.abs(rounded - exact) <= 1 + 1e-9).all()
    assert (np.abs(np.cumsum(rounded - exact, axis=1)) <= 0.5 + 1e-6).all()


# Layouts.


@pytest.mark.parametrize("chunks", [(1,), (6,), (5, 5), (3, 4), (4, 4, 5), (6, 6, 6), (2, 3, 4, 5), (1, 1, 1, 1, 1)])
def test_layout_costs_are_those_of_the_protocol(chunks: tuple[int, ...]) -> None:
    chain = Chain(chunks)
    words = sorted(
        max(8, 1 << bits) for bits, number in zip(chunks, tables(chunks), strict=True) for _ in range(number)
    )
    assert sorted(8 * word.itemsize for word in chain.word_types) == words
    assert chain.sent_bits() == online_bits(chunks)


@pytest.mark.parametrize("bits", range(1, 15))
def test_no_cheaper_layout_exists(bits: int) -> None:
    def cost(chunks: tuple[int, ...]) -> int:
        return table_bits(chunks) + ONLINE_WEIGHT * online_bits(chunks)

    every = (cut for count in range(1, 5) for cut in itertools.product(range(1, 7), repeat=count) if sum(cut) == bits)
    assert cost(best_chunks(bits)) == min(map(cost, every))
    assert sum(best_chunks(bits)) == bits


def test_design_figures() -> None:
    """The examples of docs/protocol.md's source: k = 20, f = 9 takes 224 table bits, (6,6 | 6,6) twice 256."""
    assert table_bits((5, 5)) + table_bits((5, 4)) == 224
    assert table_bits((6, 6, 7)) + table_bits((6, 6)) == 1024
    assert online_bits((6, 6, 7)) + online_bits((6, 6)) == 9


def test_thousands_of_steps_between_a_product_and_its_truncation_are_followed() -> None:
    def draft(index: int, *inputs: Draft) -> Draft:
        layer = FullyConnected(name="product", inputs=("input",), shape=(4,), in_features=4, out_features=4, bias=False)
        reshape = Reshape(name=f"c{index}", inputs=("product",), shape=(4,))
        operation = reshape if inputs else layer
        return Draft(name=f"c{index}", operation=operation, inputs=inputs, shape=(4,), range=REAL, fine=True)

    product = last = draft(0)
    for index in range(1, 3000):
        last = draft(index, last)
    products, settled, between = trace_scales(last)
    assert products == {product: 1}
    assert settled == []
    assert between[0].inputs == (product,)
    assert between[-1] is last
