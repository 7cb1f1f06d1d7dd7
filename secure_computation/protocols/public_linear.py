"""Public-linear operations: each party applies them to its half of a masked value, without a message.

For x = x0 + x1 and a public linear map L with a constant c: P0 holds L(x0), P1 holds L(x1) + c. So every function here
takes one half; `with_constants` says whether this half carries the constants, which exactly one party's (P1's) does.
All arithmetic is mod 2^32, so mod 2^k for every ring that a value may have.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from secure_computation.network import Padding, Pair, Shape
from secure_computation.protocols.draws import RingElements


class Pool(Protocol):
    """Geometry of a sum pool (`engines.masked.plan.SumPoolStep`)."""

    @property
    def kernel(self) -> Pair: ...
    @property
    def stride(self) -> Pair: ...
    @property
    def padding(self) -> Padding: ...
    @property
    def count_include_pad(self) -> bool: ...
    @property
    def divisor(self) -> int: ...


def add(halves: Sequence[RingElements], factors: Sequence[int]) -> RingElements:
    """factors[0] * x + factors[1] * y."""
    return _scaled(halves[0], factors[0]) + _scaled(halves[1], factors[1])


def concatenate(halves: Sequence[RingElements], factors: Sequence[int]) -> RingElements:
    """factors[i] * x_i, one after the other along the first axis."""
    return np.concatenate([_scaled(half, factor) for half, factor in zip(halves, factors, strict=True)])


def offset(half: RingElements, constant: int, *, with_constants: bool) -> RingElements:
    """The sum of x and a constant."""
    return half + _constant(constant) if with_constants else half


def pad(half: RingElements, padding: Padding, constant: int, *, with_constants: bool) -> RingElements:
    """Surround each channel, (channels, height, width), by a constant. Padding is (top, left, bottom, right)."""
    if not any(padding):
        return half
    top, left, bottom, right = padding
    value = _constant(constant) if with_constants else np.uint32(0)
    return np.pad(half, ((0, 0), (top, bottom), (left, right)), constant_values=value)


def sum_pool(half: RingElements, pool: Pool) -> RingElements:
    """Sum over each window, padding counting as zeros; see `SumPoolStep` for windows that hold padding."""
    if pool.kernel == half.shape[1:] and not any(pool.padding):
        whole: RingElements = half.sum(axis=(1, 2), keepdims=True, dtype=np.uint32)
        return whole
    total = sum_windows(half, pool, pool.padding)
    if pool.count_include_pad or not any(pool.padding):
        return total
    # Whole factors by position: divisor / (cells of the window inside the picture).
    inside = sum_windows(np.ones((1, *half.shape[1:]), np.uint32), pool, pool.padding)
    return total * (np.uint32(pool.divisor) // inside)


def pools_by_rows(shape: Shape, pool: Pool) -> bool:
    """Whether rows of the result are sums over some rows of a value of `shape`, and of nothing else."""
    whole = pool.kernel[0] >= shape[1]
    return not whole and (pool.count_include_pad or not any(pool.padding))


def rows_to_pool(height: int, pool: Pool, start: int, stop: int) -> tuple[slice, Padding]:
    """Of a picture of `height` rows, those that rows `start` to `stop` of the result sum, and how to pad them."""
    top, left, _, right = pool.padding
    first = start * pool.stride[0] - top
    last = (stop - 1) * pool.stride[0] - top + pool.kernel[0]
    return slice(max(0, first), min(height, last)), (max(0, -first), left, max(0, last - height), right)


def sum_windows(values: RingElements, pool: Pool, padding: Padding) -> RingElements:
    """Columns of each window first, then its rows: fewer additions than cell by cell. `padding` replaces the pool's."""
    padded = pad(values, padding, 0, with_constants=False)
    (kernel_height, kernel_width), (stride_height, stride_width) = pool.kernel, pool.stride
    down = _sum(window_cells(padded, (kernel_height, 1), (stride_height, 1)))
    return _sum(window_cells(down, (1, kernel_width), (1, stride_width)))


def _sum(cells: list[RingElements]) -> RingElements:
    total = cells[0].copy()
    for cell in cells[1:]:
        total += cell
    return total


def window_cells(values: RingElements, kernel: Pair, stride: Pair) -> list[RingElements]:
    """For each cell of the kernel, row by row: that cell of every window, as a view (channels, rows, columns)."""
    rows = (values.shape[1] - kernel[0]) // stride[0] + 1
    columns = (values.shape[2] - kernel[1]) // stride[1] + 1
    return [
        values[:, y : y + (rows - 1) * stride[0] + 1 : stride[0], x : x + (columns - 1) * stride[1] + 1 : stride[1]]
        for y in range(kernel[0])
        for x in range(kernel[1])
    ]


def _scaled(half: RingElements, factor: int) -> RingElements:
    return half if factor == 1 else half * _constant(factor)


def _constant(value: int) -> np.uint32:
    return np.uint32(value & 0xFFFFFFFF)
