"""Public-linear operations: the halves' results add up to the operation on the sum; P1's half alone has constants."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.engines.masked.plan.steps import FixedValue, SumPoolStep
from secure_computation.protocols import public_linear
from secure_computation.protocols.draws import RingElements
from tests.secure_computation.protocols.one_page import Integers, random_ring

Half = Callable[[RingElements, bool], RingElements]
"""One party's part: its half of the value, and whether it carries constants."""

seeds = st.integers(0, 1 << 30)
images = st.tuples(st.integers(1, 3), st.integers(4, 8), st.integers(4, 8))
constants = st.integers(-(1 << 31) + 1, (1 << 31) - 1)


def together(operation: Half, x: Integers) -> RingElements:
    """P0's result and P1's, added."""
    x0 = random_ring(x.shape)
    mine = operation(x0, False)
    return mine + operation(x.astype(np.uint32) - x0, True)


def check(operation: Half, x: Integers, wanted: Integers) -> None:
    np.testing.assert_array_equal(together(operation, x), wanted.astype(np.uint32))
    zeros = np.zeros(x.shape, np.uint32)
    assert not operation(zeros, False).any(), "P0's half carries a constant"


def values(shape: tuple[int, ...], seed: int) -> Integers:
    return np.random.default_rng(seed).integers(-(1 << 31), 1 << 31, shape)


@settings(max_examples=30)
@given(images, st.tuples(*[st.integers(1, (1 << 31) - 1)] * 2), seeds)
def test_add_and_concatenate(shape: tuple[int, int, int], factors: tuple[int, int], seed: int) -> None:
    x, y = values(shape, seed), values(shape, seed + 1)
    x0, y0 = random_ring(shape), random_ring(shape)
    x1, y1 = x.astype(np.uint32) - x0, y.astype(np.uint32) - y0
    total = public_linear.add([x0, y0], factors) + public_linear.add([x1, y1], factors)
    np.testing.assert_array_equal(total, (x * factors[0] + y * factors[1]).astype(np.uint32))
    joined = public_linear.concatenate([x0, y0], factors) + public_linear.concatenate([x1, y1], factors)
    np.testing.assert_array_equal(joined, np.concatenate([x * factors[0], y * factors[1]]).astype(np.uint32))


@settings(max_examples=30)
@given(images, constants, seeds)
def test_offset(shape: tuple[int, int, int], constant: int, seed: int) -> None:
    x = values(shape, seed)
    check(lambda half, is_p1: public_linear.offset(half, constant, with_constants=is_p1), x, x + constant)


@settings(max_examples=30)
@given(images, st.tuples(*[st.integers(0, 3)] * 4), constants, seeds)
def test_pad(shape: tuple[int, int, int], padding: tuple[int, int, int, int], constant: int, seed: int) -> None:
    x = values(shape, seed)
    top, left, bottom, right = padding
    check(
        lambda half, is_p1: public_linear.pad(half, padding, constant, with_constants=is_p1),
        x,
        np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=constant),
    )


@st.composite
def pools(draw: st.DrawFn) -> tuple[SumPoolStep, tuple[int, int, int]]:
    shape = draw(images)
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    inset = [draw(st.integers(0, side - 1)) for side in (*kernel, *kernel)]
    step = SumPoolStep(
        name="pool",
        inputs=("x",),
        shape=(1, 1, 1),
        value=FixedValue(ring_bits=32, scale=1.0, calibrated_bits=1, worst_case_bits=1),
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=(inset[0], inset[1], inset[2], inset[3]),
        count_include_pad=draw(st.booleans()),
        divisor=int(np.lcm.reduce(np.arange(1, kernel[0] * kernel[1] + 1))),
    )
    return step.model_copy(update={"shape": step.infer((shape,))}), shape


@settings(max_examples=50)
@given(pools(), seeds)
def test_sum_pool_is_the_average_times_its_divisor(drawn: tuple[SumPoolStep, tuple[int, int, int]], seed: int) -> None:
    step, shape = drawn
    x = np.random.default_rng(seed).integers(-(1 << 10), 1 << 10, shape)
    top, left, bottom, right = step.padding
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom))
    inside = F.pad(torch.ones((1, *shape[1:]), dtype=torch.int64), (left, right, top, bottom))
    sums, cells = (
        part.unfold(1, step.kernel[0], step.stride[0]).unfold(2, step.kernel[1], step.stride[1]).sum(dim=(-2, -1))
        for part in (padded, inside)
    )
    if step.count_include_pad or not any(step.padding):
        wanted = sums
    else:
        wanted = sums * (step.divisor // cells)
        assert bool((step.divisor % cells == 0).all())
    check(lambda half, _: public_linear.sum_pool(half, step), x, wanted.numpy())


def test_global_pool_sums_the_picture() -> None:
    x = values((3, 5, 4), 1)
    step = SumPoolStep(
        name="gap",
        inputs=("x",),
        shape=(3, 1, 1),
        value=FixedValue(ring_bits=32, scale=1.0, calibrated_bits=1, worst_case_bits=1),
        kernel=(5, 4),
        stride=(1, 1),
        divisor=20,
    )
    check(lambda half, _: public_linear.sum_pool(half, step), x, x.sum(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize(("kernel", "stride"), [((3, 1), (2, 1)), ((1, 3), (1, 2)), ((2, 2), (2, 2)), ((4, 5), (1, 1))])
def test_window_cells_are_the_windows(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    x = np.arange(2 * 6 * 7, dtype=np.uint32).reshape(2, 6, 7)
    cells = public_linear.window_cells(x, kernel, stride)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    np.testing.assert_array_equal(np.stack(cells, axis=-1), windows.reshape(*windows.shape[:3], -1))
