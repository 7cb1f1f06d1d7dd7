"""The integer reference: each step against numbers written out by hand, exactness, and the range audit."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from contract.errors import ImageError, ModelFileError
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.reference import Dither, draw_dithers
from secure_computation.engines.masked.plan.steps import ReluStep
from tests.secure_computation.networks import convolution, random_image, random_weights, small_network

RING = 10
NO_WEIGHTS = IntegerWeights({})


def value(bits: int = RING) -> dict[str, Any]:
    return {"ring_bits": bits, "scale": 4.0, "calibrated_bits": 8, "worst_case_bits": 8}


def plan_of(
    shape: tuple[int, ...], *steps: dict[str, Any], ring_bits: int = RING, arithmetic: str = "exact"
) -> MaskedLowering:
    """A plan of an input of this shape and these steps, each of which reads the one before unless it says otherwise."""
    entries: list[dict[str, Any]] = [
        {"kind": "input", "name": "input", "inputs": [], "shape": shape, "value": value(ring_bits)}
    ]
    for number, step in enumerate(steps):
        common = {"name": f"s{number}", "inputs": [entries[-1]["name"]], "shape": shape, "value": value(ring_bits)}
        entries.append(common | step)
    return MaskedLowering.model_validate_json(
        json.dumps({"steps": entries, "output": entries[-1]["name"], "arithmetic": arithmetic})
    )


def run(plan: MaskedLowering, image: Any, *, audit: bool = True) -> NDArray[np.int64]:
    return reference.evaluate(plan, NO_WEIGHTS, np.array(image, np.int64), audit=audit)


def run_dithered(plan: MaskedLowering, image: list[int], *, rounding: list[int], sign: list[int]) -> list[int]:
    dither = Dither(np.array(rounding), np.array(sign))
    logits: list[int] = reference.evaluate(plan, NO_WEIGHTS, np.array(image), dithers=lambda _: dither).tolist()
    return logits


def relu(shift: int) -> dict[str, Any]:
    return {
        "kind": "relu",
        "ring_bits": RING,
        "shift": shift,
        "high_chunks": best_chunks(RING - shift - 1),
        "low_chunks": best_chunks(shift),
    }


def truncation(shift: int, *, to: int) -> dict[str, Any]:
    return {
        "kind": "truncate",
        "ring_bits": RING,
        "shift": shift,
        "low_chunks": best_chunks(shift),
        "value": value(to),
    }


def max_pool(
    kernel: tuple[int, int], shape: tuple[int, ...], padding: tuple[int, ...] = (0, 0, 0, 0)
) -> dict[str, Any]:
    return {
        "kind": "max_pool",
        "ring_bits": RING,
        "kernel": kernel,
        "stride": (1, 1),
        "padding": padding,
        "shape": shape,
        "high_chunks": best_chunks(RING - 1),
    }


CLIP = {"kind": "clip", "ring_bits": RING, "limit": 5, "high_chunks": best_chunks(RING - 1)}


def test_a_product_and_its_scale() -> None:
    squared = {"kind": "multiply", "inputs": ["input", "input"], "value": value() | {"scale": 16.0}}
    assert run(plan_of((4,), squared), [-5, 0, 3, 22]).tolist() == [25, 0, 9, 484]
    with pytest.raises(ValidationError, match="the scale of a product is the product of the scales"):
        plan_of((4,), squared | {"value": value()})


def test_relu_rounds_down_and_cuts_at_zero() -> None:
    edges = [-500, -9, -8, -1, 0, 1, 7, 8, 9, 511]
    assert run(plan_of((10,), relu(3)), edges).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 63]
    assert run(plan_of((10,), relu(0)), edges).tolist() == [0, 0, 0, 0, 0, 1, 7, 8, 9, 511]


def test_truncation_rounds_down_on_both_sides_of_zero() -> None:
    assert run(plan_of((6,), truncation(3, to=7)), [-512, -9, -8, -1, 7, 511]).tolist() == [-64, -2, -1, -1, 0, 63]
    assert run(plan_of((4,), truncation(3, to=12)), [-256, -1, 0, 255]).tolist() == [-32, -1, 0, 31]
    assert run(plan_of((2,), truncation(0, to=12)), [-7, 7]).tolist() == [-7, 7]


def test_a_dither_rounds_up_or_down_and_decides_the_sign_of_small_values() -> None:
    z = [-9, -8, -1, 0, 7, 8, -25, 480]
    plan = plan_of((8,), relu(3) | {"low_chunks": ()}, arithmetic="dithered")
    assert run_dithered(plan, z, rounding=[0] * 8, sign=[0] * 8) == [0, 0, 0, 0, 0, 1, 0, 60]
    assert run_dithered(plan, z, rounding=[7] * 8, sign=[0] * 8) == [0, 0, 0, 0, 1, 1, 0, 60]
    coarse = relu(3) | {"low_chunks": (), "sign_cut_bits": 2, "high_chunks": best_chunks(RING - 6)}
    plan = plan_of((8,), coarse, arithmetic="dithered")
    passed = run_dithered(plan, z, rounding=[0] * 8, sign=[0, 3, 2, 0, 3, 1, 3, 0])
    assert passed == [0, -1, 0, 0, 0, 1, 0, 60]  # -25 >> 3 is -4: below every dither of the sign
    assert run_dithered(plan, z, rounding=[0] * 8, sign=[3, 2, 3, 0, 3, 0, 3, 0]) == [0, 0, -1, 0, 0, 0, 0, 60]


def test_a_truncations_dither() -> None:
    plan = plan_of((4,), truncation(3, to=12) | {"low_chunks": ()}, arithmetic="dithered")
    assert run_dithered(plan, [-9, -8, 7, 7], rounding=[0, 7, 1, 7], sign=[0] * 4) == [-2, -1, 1, 1]


def test_in_the_middle_of_its_range_a_dither_rounds_to_nearest() -> None:
    """The exact form with half a unit added before it."""
    z = np.arange(-500, 500)
    dithered = plan_of((1000,), relu(3) | {"low_chunks": ()}, arithmetic="dithered")
    np.testing.assert_array_equal(run(dithered, z), run(plan_of((1000,), relu(3)), z + 4))


def test_dithers_are_drawn_from_their_range_and_round_without_bias() -> None:
    plan = plan_of((4096,), relu(3) | {"low_chunks": ()}, arithmetic="dithered")
    dithers = draw_dithers(np.random.default_rng(5))
    step = plan.steps[1]
    assert isinstance(step, ReluStep)
    assert set(dithers(step).rounding.tolist()) == set(range(8))
    assert set(dithers(step).sign.tolist()) == {0}
    rounded = reference.evaluate(plan, NO_WEIGHTS, np.full(4096, 83), dithers=dithers)
    assert abs(rounded.mean() - 83 / 8) < 6 * 0.5 / 64


@pytest.mark.parametrize("cut", [0, 2])
def test_the_audit_leaves_a_dither_room_at_both_ends(cut: int) -> None:
    chunks = best_chunks(RING - 3 - cut - 1)
    step = relu(3) | {"low_chunks": (), "sign_cut_bits": cut, "high_chunks": chunks}
    plan = plan_of((1,), step, arithmetic="dithered")
    below = (1 << cut) >> 1
    top, bottom = (1 << (RING - 1)) - (((1 << cut) - below) << 3), (below << 3) - (1 << (RING - 1))
    for allowed in (top, bottom):
        run(plan, [allowed])
    for beyond in (top + 1, bottom - 1):
        with pytest.raises(ModelFileError, match="leaves the range"):
            run(plan, [beyond])


@pytest.mark.parametrize(
    ("arithmetic", "change"),
    [
        ("dithered", {}),
        ("exact", {"low_chunks": ()}),
        ("exact", {"sign_cut_bits": 1, "high_chunks": best_chunks(RING - 5)}),
        ("dithered", {"low_chunks": (), "sign_cut_bits": 1}),
        ("rounded", {}),
    ],
)
def test_a_plan_whose_steps_are_of_another_arithmetic_is_refused(arithmetic: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"do not add up|compares all bits|'exact' or 'dithered'"):
        plan_of((1,), relu(3) | change, arithmetic=arithmetic)


def test_clip() -> None:
    assert run(plan_of((4,), CLIP), [-3, 4, 5, 255]).tolist() == [-3, 4, 5, 5]


def test_max_pool_ignores_padding() -> None:
    image = [[[-3, -4], [-5, -6]]]
    assert run(plan_of((1, 2, 2), max_pool((2, 2), (1, 1, 1))), image).tolist() == [[[-3]]]
    padded = run(plan_of((1, 2, 2), max_pool((2, 2), (1, 3, 3), (1, 1, 1, 1))), image)
    assert padded.tolist() == [[[-3, -3, -4], [-3, -3, -4], [-5, -5, -6]]]


def test_sum_pools() -> None:
    image = [[[1, 2], [3, 4]]]
    common = {"kind": "sum_pool", "kernel": (2, 2), "stride": (1, 1), "shape": (1, 3, 3), "padding": (1, 1, 1, 1)}
    counted = run(plan_of((1, 2, 2), common | {"divisor": 4}), image)
    assert counted.tolist() == [[[1, 3, 2], [4, 10, 6], [3, 7, 4]]]
    left_out = run(plan_of((1, 2, 2), common | {"divisor": 4, "count_include_pad": False}), image)
    assert left_out.tolist() == [[[4, 6, 8], [8, 10, 12], [12, 14, 16]]]


def test_public_linear_steps() -> None:
    image = [[[1, 2], [3, 4]]]
    add = {"kind": "add", "factors": (1, 8), "inputs": ["input", "input"]}
    assert run(plan_of((1, 2, 2), add), image).tolist() == [[[9, 18], [27, 36]]]
    concat = {"kind": "concat", "factors": (2, 1), "inputs": ["input", "input"], "shape": (2, 2, 2)}
    assert run(plan_of((1, 2, 2), concat), image).tolist() == [[[2, 4], [6, 8]], [[1, 2], [3, 4]]]
    pad = {"kind": "pad", "padding": (1, 0, 0, 0), "constant": -7, "shape": (1, 3, 2)}
    assert run(plan_of((1, 2, 2), pad), image).tolist() == [[[-7, -7], [1, 2], [3, 4]]]
    reshape = {"kind": "reshape", "shape": (4,)}
    assert run(plan_of((1, 2, 2), reshape), image).tolist() == [1, 2, 3, 4]
    assert run(plan_of((2,), {"kind": "offset", "offset": -3}), [1, 2]).tolist() == [-2, -1]


@pytest.mark.parametrize("magnitude", [1 << 10, 1 << 31, 1 << 45])
def test_products_are_exact_in_float64_and_beyond(magnitude: int) -> None:
    """2^45 times sums of weights passes 2^53: there the evaluation turns to int64."""
    operation = convolution("s0", "input", (4, 5, 6), 6, 3, groups=2, dilation=(1, 2), padding=(1, 0, 2, 1))
    step = {
        "kind": "linear",
        "operation": json.loads(operation.model_dump_json()),
        "weight_scale": 1.0,
        "rounding": 0,
        "shape": operation.shape,
    }
    plan = plan_of((4, 5, 6), step, ring_bits=32)
    random = np.random.default_rng(3)
    weight = random.integers(-32000, 32000, operation.weight_shape).astype(np.int32)
    bias = random.integers(-(1 << 40), 1 << 40, 6)
    image = random.integers(-magnitude, magnitude, (4, 5, 6))
    weights = IntegerWeights({"s0.weight": weight, "s0.bias": bias})
    result = reference.evaluate(plan, weights, image, audit=False)

    padded = np.pad(image, ((0, 0), (1, 2), (0, 1)))
    for out, row, column in ((0, 0, 0), (2, 3, 1), (3, 5, 2), (5, 2, 2)):
        group = slice(0, 2) if out < 3 else slice(2, 4)
        window = padded[group, row : row + 3, column : column + 5 : 2].astype(object)
        assert int(result[out, row, column]) == int((window * weight[out]).sum()) + int(bias[out])


def test_observer_sees_every_value_in_order() -> None:
    network = small_network()
    lowering = lower_masked(network, random_weights(network), random_image(network)[None])
    integers = round_weights(lowering, random_weights(network))
    seen: list[str] = []
    image = reference.quantise_image(lowering, random_image(network))
    logits = reference.evaluate(lowering, integers, image, observe=lambda name, _: seen.append(name))
    assert seen == [step.name for step in lowering.steps]
    assert logits.dtype == np.int64
    assert reference.read_logits(lowering, logits).shape == (network.classes,)


@pytest.mark.parametrize(
    ("step", "inside", "outside"),
    [
        (relu(3), [-504, 511], [-505, 512]),
        (relu(0), [-511, 511], [-512, 512]),
        (truncation(3, to=7), [-512, 511], [-513, 512]),
        (truncation(3, to=8), [-256, 255], [-257, 256]),
        (CLIP, [-256, 255], [-257, 256]),
    ],
)
def test_audit_holds_each_step_to_its_range(step: dict[str, Any], inside: list[int], outside: list[int]) -> None:
    plan = plan_of((1,), step)
    for edge in inside:
        run(plan, [edge])
    for edge in outside:
        with pytest.raises(ModelFileError, match="read by step 's0' leaves the range"):
            run(plan, [edge])
        run(plan, [edge], audit=False)


def test_audit_of_max_pool_and_of_the_output() -> None:
    with pytest.raises(ModelFileError, match="'s0' leaves the range"):
        run(plan_of((1, 1, 2), max_pool((1, 2), (1, 1, 1))), [[[0, 256]]])
    with pytest.raises(ModelFileError, match="'s0' leaves the range"):
        run(plan_of((1,), {"kind": "offset", "offset": 1}), [511])


def test_image_is_rounded_to_the_plan() -> None:
    plan = plan_of((3,), relu(0))
    integers = reference.quantise_image(plan, np.array([0.125, -1.3, 63.7], np.float32))
    assert integers.tolist() == [0, -5, 255]


@pytest.mark.parametrize("image", [[1.0, 2.0], [0.0, 0.0, 64.0], [0.0, 0.0, np.nan], [-np.inf, 0.0, 0.0]])
def test_images_that_do_not_fit_the_plan(image: list[float]) -> None:
    with pytest.raises(ImageError, match="card"):
        reference.quantise_image(plan_of((3,), relu(0)), np.array(image, np.float32))
