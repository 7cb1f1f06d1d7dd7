"""The private linear map: any bilinear map, exact in its ring; every message uniform."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_computation.kernels.linear import linear_map, prepare_weights
from secure_computation.network import INPUT, Convolution2d, FullyConnected
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.linear import (
    correction_layout,
    deal_linear,
    draw_weight_mask,
    linear_as_p0,
    linear_as_p1,
    mask_weights,
)
from secure_computation.randomness import Seed
from secure_computation.ring import Reduced, pack, unpack
from tests.secure_computation.protocols.one_page import Seeds, draws, over_the_wire, random_ring

Apply = Callable[[NDArray[np.uint32], RingElements], RingElements]
"""(W, x) -> W * x."""


def sent(reduced: Reduced) -> RingElements:
    """What the other end reads."""
    return unpack(pack(reduced), reduced.shape, reduced.bits).values


def evaluate(
    apply: Apply, weights: NDArray[np.int32], bias: RingElements, x: RingElements, *, bits: int
) -> tuple[RingElements, dict[str, RingElements]]:
    """All three roles; P0's and P1's halves together, and what was sent."""
    seeds, model_seed = Seeds.fresh(), Seed.fresh()

    def weight_mask() -> RingElements:  # at D and at P1
        return draw_weight_mask(Draws(model_seed, item="weights", step=0), weights.shape, bits=bits)

    delta = sent(mask_weights(weights, weight_mask(), bits=bits))
    rho = random_ring(x.shape)  # from s0, at D and P0
    shape = apply(delta, x).shape
    dealt = deal_linear(apply(weight_mask(), rho), p0=draws(seeds.p0), bits=bits)
    _, correction = over_the_wire(correction_layout(shape, bits=bits), dealt)
    z0 = linear_as_p0(apply(delta, rho), draws=draws(seeds.p0), bits=bits)
    own = weights.astype(np.uint32)
    u1 = correction.rings[0].values.reshape(z0.shape)
    z1 = linear_as_p1(apply(own, x - rho) + bias, correction=u1)
    return (z0 + z1) & np.uint32((1 << bits) - 1), {"delta": delta, "u1": correction.rings[0].values}


def matrix(weights: NDArray[np.uint32], x: RingElements) -> RingElements:
    product: RingElements = weights @ x
    return product


@settings(max_examples=40)
@given(bits=st.integers(3, 32), rows=st.integers(1, 5), columns=st.integers(1, 7), seed=st.integers(0, 1 << 30))
def test_matrices_in_any_ring(bits: int, rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.integers(-(1 << 15) + 1, 1 << 15, (rows, columns), dtype=np.int32)
    x = generator.integers(-(1 << 20), 1 << 20, columns)
    bias = generator.integers(-(1 << 30), 1 << 30, rows)
    z, _ = evaluate(matrix, weights, bias.astype(np.uint32), x.astype(np.uint32), bits=bits)
    np.testing.assert_array_equal(z, (weights.astype(np.int64) @ x + bias) & ((1 << bits) - 1))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Convolution2d, tuple[int, int, int]]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    size = draw(st.tuples(st.integers(5, 8), st.integers(5, 8)))
    drafted = Convolution2d(
        name="c",
        inputs=(INPUT,),
        shape=(1, 1, 1),
        weight_shape=(out, channels // groups, *kernel),
        bias=True,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=dilation,
        groups=groups,
    )
    shape = (channels, *size)
    return drafted.model_copy(update={"shape": drafted.infer((shape,))}), shape


@settings(max_examples=30)
@given(convolutions(), st.integers(8, 32), st.integers(0, 1 << 30))
def test_convolutions_with_all_attributes(
    drawn: tuple[Convolution2d, tuple[int, int, int]], bits: int, seed: int
) -> None:
    operation, shape = drawn
    generator = np.random.default_rng(seed)
    weights = generator.integers(-(1 << 14), 1 << 14, operation.weight_shape, dtype=np.int32)
    x = generator.integers(-(1 << 12), 1 << 12, shape)
    bias = generator.integers(-(1 << 20), 1 << 20, operation.shape[0])

    def apply(w: NDArray[np.uint32], value: RingElements) -> RingElements:
        return linear_map(prepare_weights(operation, w, bits=bits), value)

    z, _ = evaluate(apply, weights, bias.astype(np.uint32)[:, None, None], x.astype(np.uint32), bits=bits)
    top, left, bottom, right = operation.padding
    plain = F.conv2d(
        F.pad(torch.from_numpy(x), (left, right, top, bottom))[None],
        torch.from_numpy(weights.astype(np.int64)),
        torch.from_numpy(bias),
        stride=operation.stride,
        dilation=operation.dilation,
        groups=operation.groups,
    )[0].numpy()
    np.testing.assert_array_equal(z, plain & ((1 << bits) - 1))


def test_a_fully_connected_layer_through_the_kernels() -> None:
    operation = FullyConnected(name="fc", inputs=(INPUT,), shape=(3,), in_features=40, out_features=3, bias=True)
    generator = np.random.default_rng(0)
    weights = generator.integers(-32639, 32640, (3, 40), dtype=np.int32)
    x = generator.integers(-(1 << 11), 1 << 11, 40)

    def apply(w: NDArray[np.uint32], value: RingElements) -> RingElements:
        return linear_map(prepare_weights(operation, w, bits=28), value)

    z, _ = evaluate(apply, weights, np.zeros(3, np.uint32), x.astype(np.uint32), bits=28)
    np.testing.assert_array_equal(z, (weights.astype(np.int64) @ x) & ((1 << 28) - 1))


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("weight", [0, 1, -32639])
def test_masked_weights_and_corrections_are_uniform(bits: int, weight: int) -> None:
    """Delta at P0 and u1 at P1, for constant weights and a black image."""
    weights = np.full((4096, 2), weight, np.int32)
    _, seen = evaluate(matrix, weights, np.zeros(4096, np.uint32), np.zeros(2, np.uint32), bits=bits)
    for values in seen.values():
        ones = (values.reshape(-1, 1) >> np.arange(bits, dtype=np.uint32)) & np.uint32(1)
        assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(values.size))
        assert int(values.max()).bit_length() <= bits


def test_one_mask_feeds_several_maps_with_pads_of_their_own() -> None:
    """The same rho in two steps of one item: the corrections' difference is not A * rho - A' * rho."""
    seed = Seed.fresh()
    rho, mask = random_ring(4), random_ring((300, 4))
    corrections = [
        deal_linear(mask @ rho, p0=Draws(seed, item="i", step=step), bits=24).rings[0].values for step in (1, 2)
    ]
    assert np.count_nonzero(corrections[0] == corrections[1]) < 3


def test_a_fresh_model_seed_gives_an_independent_delta() -> None:
    """Two versions of weights that differ in one element: nothing of the difference is left in the Deltas."""
    first = np.zeros((200, 5), np.int32)
    second = first.copy()
    second[3, 4] = 1
    deltas = [
        mask_weights(weights, draw_weight_mask(Draws(Seed.fresh(), item="weights", step=0), (200, 5), bits=24), bits=24)
        for weights in (first, second)
    ]
    assert np.count_nonzero(deltas[0].values == deltas[1].values) < 3
