"""The engine equals the integer reference in every element of every value, under fresh masks each time."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.model_card import Arithmetic
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    ClipStep,
    FixedValue,
    InputStep,
    MaxPoolStep,
    ReluStep,
    TruncateStep,
)
from secure_computation.network import INPUT
from tests.secure_computation.engines.masked.parties import (
    BLOCKS,
    ITEM,
    Model,
    check_every_value,
    lowered,
    narrow_resnet18,
    network_of,
    parties_of,
    random_network,
    recorded_halves,
    run,
)
from tests.secure_computation.networks import small_network
from tests.secure_computation.protocols.one_page import cut


def check_network(seed: int, monkeypatch: pytest.MonkeyPatch, arithmetic: Arithmetic) -> None:
    model = lowered(random_network(seed), seed=seed, arithmetic=arithmetic)
    with recorded_halves(monkeypatch) as halves:
        for image in model.images[:2]:
            check_every_value(model, image, halves, run(model, image))


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_network(seed, monkeypatch, Arithmetic.DITHERED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 220))
def test_more_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_network(seed, monkeypatch, Arithmetic.EXACT if seed % 2 else Arithmetic.DITHERED)


def test_the_random_networks_hold_every_operation_and_every_step() -> None:
    operations: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for seed in range(20):
        network = random_network(seed)
        operations.update(operation.kind for operation in network.operations)
        steps.update(step.kind for step in lowered(network, seed=seed).lowering.steps)
    assert len(operations) == 12
    assert set(steps) >= {
        "linear",
        "relu",
        "truncate",
        "max_pool",
        "clip",
        "add",
        "concat",
        "sum_pool",
        "pad",
        "multiply",
    }


@pytest.mark.parametrize("arithmetic", Arithmetic)
@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_between_convolutions(block: str, arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lowered(network_of("conv", block, "conv", seed=7), seed=7, arithmetic=arithmetic)
    with recorded_halves(monkeypatch) as halves:
        check_every_value(model, model.images[1], halves, run(model, model.images[1]))


def test_the_layers_of_resnet18(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lowered(narrow_resnet18(64))
    with recorded_halves(monkeypatch) as halves:
        for image in model.images:
            check_every_value(model, image, halves, run(model, image))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_sign_on_fewer_bits(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some small negative values pass, the same ones as in the reference."""
    model = lowered(narrow_resnet18(64))
    steps = tuple(
        step.model_copy(
            update={"sign_cut_bits": cut, "high_chunks": best_chunks(step.ring_bits - step.shift - cut - 1)}
        )
        if isinstance(step, ReluStep)
        else step
        for step in model.lowering.steps
    )
    lowering = MaskedLowering(steps=steps, output=model.lowering.output, arithmetic=model.lowering.arithmetic)
    model = replace(model, lowering=lowering)
    with recorded_halves(monkeypatch) as halves:
        result = run(model, model.images[0])
        check_every_value(model, model.images[0], halves, result)
    values = model.expected(model.images[0], result.seeds[ITEM])
    smallest = min(values[step.name].min() for step in steps if isinstance(step, ReluStep))
    assert -(1 << cut) / 2 < smallest <= 0
    assert (smallest < 0) == (cut > 1)  # of the last bit of a sign, nothing depends


def test_ten_items_on_one_image_have_ten_sets_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parties keep what belongs to the weights and nothing else: no half of any value comes twice."""
    model = lowered(network_of("conv", "relu", "max", "residual", seed=3))
    parties = parties_of(model)
    seen: dict[str, list[bytes]] = {}
    with recorded_halves(monkeypatch) as halves:
        for _ in range(10):
            result = run(model, model.images[0], parties=parties)
            check_every_value(model, model.images[0], halves, result)
            for name, half in halves.model_owner.items():
                seen.setdefault(name, []).append(half.tobytes())
    assert all(len(set(texts)) == 10 for texts in seen.values())


# Max and clip in a ring so small that every case can be tried


def _plan(step: MaxPoolStep | ClipStep, ring_bits: int) -> MaskedLowering:
    """The image straight into one step."""
    image = InputStep(name=INPUT, inputs=(), shape=IMAGE, value=_value(ring_bits))
    return MaskedLowering(steps=(image, step), output=step.name, arithmetic=Arithmetic.EXACT)


def _value(ring_bits: int) -> FixedValue:
    return FixedValue(ring_bits=ring_bits, scale=1.0, calibrated_bits=ring_bits - 2, worst_case_bits=ring_bits)


RING = 6
LIMIT = 1 << (RING - 2)
"""|x| is below this."""
SIDE = 2 * LIMIT - 1
IMAGE = (1, SIDE, 2 * SIDE)
"""Every pair of allowed values, side by side."""
PAIRS = np.stack(np.meshgrid(*[np.arange(1 - LIMIT, LIMIT)] * 2), axis=-1).reshape(IMAGE).astype(np.float32)


def alone(lowering: MaskedLowering, image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Model:
    """A plan without weights."""
    return Model(network=small_network(), lowering=lowering, integers=IntegerWeights({}), images=image[None])


@pytest.mark.parametrize("high_chunks", [(5,), (3, 2), (1, 2, 1, 1)], ids=str)
def test_maximum_of_every_pair(high_chunks: tuple[int, ...]) -> None:
    step = MaxPoolStep(
        name="max",
        inputs=(INPUT,),
        shape=(1, SIDE, SIDE),
        value=_value(RING),
        ring_bits=RING,
        kernel=(1, 2),
        stride=(1, 2),
        high_chunks=high_chunks,
    )
    for _ in range(4):
        result = run(alone(_plan(step, RING), PAIRS), PAIRS)
        np.testing.assert_array_equal(result.logits, np.maximum(PAIRS[:, :, ::2], PAIRS[:, :, 1::2]).reshape(-1))


@pytest.mark.parametrize("limit", [1, 7, LIMIT - 1])
@pytest.mark.parametrize("output_bits", [RING, 4, 20])
def test_clip_of_every_value(limit: int, output_bits: int) -> None:
    step = ClipStep(
        name="clip",
        inputs=(INPUT,),
        shape=IMAGE,
        value=_value(output_bits),
        ring_bits=RING,
        limit=limit,
        high_chunks=cut(RING - 1).chunk_bits,
    )
    result = run(alone(_plan_of_clip(step), PAIRS), PAIRS)
    wanted = np.minimum(PAIRS, limit).astype(np.int64).reshape(-1)
    np.testing.assert_array_equal(result.logits.astype(np.int64) % (1 << output_bits), wanted % (1 << output_bits))


def _plan_of_clip(step: ClipStep) -> MaskedLowering:
    return _plan(step, RING)


@st.composite
def pools(draw: st.DrawFn) -> MaskedLowering:
    """A max pool of any geometry in any ring, its input cut from a wider one."""
    ring = draw(st.integers(4, 32))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    inset = [draw(st.integers(0, side - 1)) for side in (*kernel, *kernel)]
    size = (draw(st.integers(1, 2)), draw(st.integers(4, 6)), draw(st.integers(4, 6)))
    chunks = draw(st.integers(max(1, -(-(ring - 1) // 6)), 6))
    image = InputStep(name=INPUT, inputs=(), shape=size, value=_value(draw(st.integers(ring, 32))))
    step = MaxPoolStep(
        name="max",
        inputs=(INPUT,),
        shape=(1, 1, 1),
        value=_value(ring),
        ring_bits=ring,
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=(inset[0], inset[1], inset[2], inset[3]),
        high_chunks=cut(ring - 1, largest=-(-(ring - 1) // chunks)).chunk_bits,
    )
    return MaskedLowering(
        steps=(image, step.model_copy(update={"shape": step.infer((size,))})), output="max", arithmetic=Arithmetic.EXACT
    )


@settings(max_examples=25)
@given(pools(), st.data())
def test_max_pools_of_any_geometry(lowering: MaskedLowering, data: st.DataObject) -> None:
    step = lowering.step("max")
    assert isinstance(step, MaxPoolStep)
    limit = min(1 << (step.ring_bits - 2), 1 << 23)  # a float32 image holds whole numbers up to 2^24
    shape = lowering.steps[0].shape
    count = int(np.prod(shape))
    numbers = data.draw(st.lists(st.integers(1 - limit, limit - 1), min_size=count, max_size=count))
    image = np.array(numbers, np.float32).reshape(shape)
    model = alone(lowering, image)
    np.testing.assert_array_equal(run(model, image).logits.reshape(step.shape), model.expected_logits(image))


def test_truncation_between_the_input_and_the_result() -> None:
    """TruncateStep through the whole engine, widening."""
    image = InputStep(name=INPUT, inputs=(), shape=IMAGE, value=_value(RING))
    step = TruncateStep(
        name="cut", inputs=(INPUT,), shape=IMAGE, value=_value(20), ring_bits=RING, shift=2, low_chunks=(2,)
    )
    result = run(alone(MaskedLowering(steps=(image, step), output="cut", arithmetic=Arithmetic.EXACT), PAIRS), PAIRS)
    np.testing.assert_array_equal(result.logits, np.floor(PAIRS.reshape(-1) / 4))
