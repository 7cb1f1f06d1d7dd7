"""Convolutions of 3 x 3 with a half or a quarter of the products, exactly, in Z_2^k: Winograd's minimal filtering.

Outputs of a convolution are coefficients of a product of polynomials, which follows from its values at enough points. A
tile of `size` x `size` outputs takes (size + 2)^2 products for 9 size^2: with points 0, 1, -1 and infinity (size 2) 16
for 36, with 2 and -2 besides (size 4) 36 for 144. With the matrices A, B, G of Lavin and Gray,

    Y = A^T [ (G w G^T) . (B^T x B) ] A          entry by entry, summed over the channels; A and B of integers

G has fractions: its denominator is 2 for size 2, and 24 = 8 * 3 for size 4. Taken 2 or 8 times, with an inverse of 3
mod 2^32, it has none, and the sum is 4 Y or 64 Y mod 2^32. This gives Y mod 2^30 or mod 2^26 by a shift, with no
rounding anywhere: what holds for fractions with odd denominators holds in Z_2^32. So size 2 serves rings of up to 30
bits, size 4 of up to 26.

The products for each point are a matrix product over channels, which `in_place`'s tiles compute, elements whole; lanes
are the tiles of the picture.

Sources: Winograd, "Arithmetic complexity of computations", 1980; Lavin, Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016.
"""

import functools
from dataclasses import dataclass, field
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels import elementwise
from secure_computation.kernels.in_place import (
    LANES,
    ROWS,
    can_tile,
    cost_of_product,
    fill_up,
    multiply_tiles,
    seal,
    threads_for,
)
from secure_computation.kernels.phases import Geometry

RingElements = NDArray[np.uint32]

_LEAST_CHANNELS: Final = 16
"""On either side, below which transforms cost more than products save."""
_WEIGHT_READ: Final = 10
"""What reading a weight from memory costs, in products."""
_WORTH: Final = 0.8
"""Of the time that the products take as they stand: for less gain, transformed weights take too much memory."""
_SHIFT: Final = {2: 2, 4: 6}
"""By size of a tile: the sums are 2 to this times the outputs."""


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled loops, loaded at the first call, or None without numba or a place for what it compiles."""
    return elementwise.load_compiled("secure_computation.kernels.compiled_winograd")


def _loops() -> ModuleType:
    module = compiled()
    assert module is not None  # or `choose_size` would have found none
    return module


def choose_size(shape: Geometry, bits: int, digits: int) -> int | None:
    """The best size of tiles for a layer, or None if its products are better computed as they stand.

    `digits`: of a weight, as `in_place.TiledProduct` would take them.
    """
    plain = (shape.kernel, shape.stride, shape.dilation, shape.groups) == ((3, 3), (1, 1), (1, 1), 1)
    if not plain or min(shape.channels, shape.outputs) < _LEAST_CHANNELS or not can_tile(shape):
        return None
    height, width = shape.output_size
    best = None
    per_product, read = cost_of_product(bits, digits)
    least = _WORTH * 9 * (per_product * fill_up(height * (width + 2), LANES) + read * _WEIGHT_READ)
    for size, shift in _SHIFT.items():
        rows, columns = _grid(shape, size)
        cost = (size + 2) ** 2 * (fill_up(rows * columns, LANES) + _WEIGHT_READ)
        if bits <= 32 - shift and cost < least:
            best, least = size, cost
    return best


def _grid(shape: Geometry, size: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    height, width = shape.output_size
    return -(-height // size), -(-width // size)


@dataclass(frozen=True)
class WinogradProduct:
    """Weights in a ring, transformed, in the order in which `in_place`'s tiles read them."""

    shape: Geometry
    bits: int
    threads: int
    size: int
    """Of a tile, in outputs."""
    words: RingElements = field(repr=False)

    @classmethod
    def prepare(cls, shape: Geometry, weights: RingElements, size: int, bits: int, threads: int) -> "WinogradProduct":
        """`weights`: (outputs, weights of one output), of two channels or more."""
        rows, terms = fill_up(shape.outputs, ROWS), shape.channels
        filled = weights
        if rows > shape.outputs:
            filled = np.concatenate([weights, np.zeros((rows - shape.outputs, 9 * terms), np.uint32)])
        placed = np.ascontiguousarray(filled.reshape(rows // ROWS, ROWS, terms, 9).transpose(3, 0, 2, 1))
        words = np.empty(((size + 2) ** 2, rows * terms), np.uint32)
        _loops().transform_weights(size, placed.reshape(9, -1), words)
        lanes = fill_up(int(np.prod(_grid(shape, size))), LANES)
        return cls(shape, bits, threads_for(words.size * lanes, threads), size, words)

    def multiply(self, values: RingElements) -> RingElements:
        """As `GroupedProduct.multiply`."""
        return self.multiply_tile_rows(values, 0, _grid(self.shape, self.size)[0])

    def multiply_tile_rows(self, values: RingElements, first: int, last: int) -> RingElements:
        """The rows of outputs in some rows of tiles; `values` need be there as far as these read."""
        shape, size, loops = self.shape, self.size, _loops()
        points, grid = (size + 2) ** 2, (last - first, _grid(shape, size)[1])
        height, width = min(shape.output_size[0], last * size) - first * size, shape.output_size[1]
        lanes = fill_up(grid[0] * grid[1], LANES)
        top, left = shape.padding[0] - first * size, shape.padding[1]
        picture = np.empty(points * shape.channels * lanes + LANES, np.uint32)
        loops.transform_picture(
            seal(values), size, top, left, *grid, lanes, picture[:-LANES].reshape(points, -1)
        )  # fmt: skip
        sums = np.empty((points * fill_up(shape.outputs, ROWS), lanes), np.uint32)
        multiply_tiles(
            picture,
            self.words.reshape(-1),
            (np.arange(shape.channels) * lanes, np.array([shape.channels])),
            sums,
            vectors=(0, lanes // LANES),
            groups=points,
            group_words=shape.channels * lanes,
            band=lanes // LANES,
            whole=True,
            bits=32,
            threads=self.threads,
        )
        elements = shape.outputs * height * width
        output = np.empty(elements + size * LANES, np.uint32)
        loops.transform_back(
            sums.reshape(points, -1),
            size,
            _SHIFT[size],
            (1 << self.bits) - 1,
            grid[1],
            lanes,
            height,
            width,
            output,
        )
        return output[:elements].reshape(shape.outputs, height, width)

    def by_rows(self) -> "WinogradRows":
        """One product whose picture comes row by row."""
        return WinogradRows(self)


class WinogradRows:
    """One product, computed from the top of the picture to its bottom: each row of tiles once."""

    def __init__(self, product: WinogradProduct) -> None:
        """Take memory for the output."""
        self._product = product
        rows, columns = _grid(product.shape, product.size)
        # A row of so few tiles would take as long as all.
        self._unit = product.size if rows * columns > LANES else rows * product.size
        self._tile_rows = 0
        self._output = np.empty((product.shape.outputs, *product.shape.output_size), np.uint32)

    def rows_read(self, stop: int) -> int:
        """See `Geometry.rows_read`. Rows of tiles are computed whole."""
        return self._product.shape.rows_read(fill_up(stop, self._unit))

    def multiply_rows(self, values: RingElements, start: int, stop: int) -> RingElements:
        """As `GroupedProduct.multiply_rows`, for rows that follow those computed before. A view of a larger array."""
        size = self._product.size
        last = fill_up(stop, self._unit) // size
        if last > self._tile_rows:
            rows = self._product.multiply_tile_rows(values, self._tile_rows, last)
            self._output[:, self._tile_rows * size : last * size] = rows
            self._tile_rows = last
        return self._output[:, start:stop]
