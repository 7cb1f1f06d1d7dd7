"""Linear maps that read the picture where it lies, by compiled loops (`compiled_linear`); `linear` says when.

`TiledProduct` uses the processor's product of four unsigned by four signed bytes (`vpdpbusd` of AVX-512 VNNI). With
x = sum x_i 256^i in plain bytes and W = sum w_j 256^j in balanced digits, only products with i + j < ceil(k / 8) matter
mod 2^k. If that makes more than `_MOST_BYTE_PRODUCTS` of them, as for weights that fill the ring, it multiplies whole
32-bit integers. All sums wrap mod 2^32, so no layer is too long. `GroupedProduct` multiplies 32-bit integers too.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels import elementwise
from secure_computation.kernels.phases import Geometry, Phases, cut_into_phases

RingElements = NDArray[np.uint32]

_QUAD: Final = 4
"""Bytes that each lane sums at a time."""
_MOST_BYTE_PRODUCTS: Final = 4
"""For each product of a weight and an element, before whole elements are quicker."""
_BYTE_PRODUCT: Final = 0.21
"""What one costs, in products of whole elements."""
ROWS, LANES = 8, 16
"""Of a tile: outputs and places (`compiled_linear.ROWS` and `LANES`)."""
_BAND_BYTES: Final = 1 << 19
"""Of the picture, read for all outputs before the next: half of a second cache of 1 MiB."""
_LEAST_FOR_THREADS: Final = 1 << 22
"""Products of a layer below which threads cost more than they save."""


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled loops, loaded at the first call, or None without numba or a place for what it compiles."""
    return elementwise.load_compiled("secure_computation.kernels.compiled_linear")


def loops() -> ModuleType:
    """The compiled loops, for callers that know that they are there."""
    module = compiled()
    assert module is not None
    return module


def can_tile(shape: Geometry) -> bool:
    """Whether this machine and `TiledProduct` can serve a layer: without groups, or with groups that fill its tiles."""
    group_in, group_out = shape.channels // shape.groups, shape.outputs // shape.groups
    fits = shape.groups == 1 or (group_out % ROWS == 0 and group_in % _QUAD == 0)
    return fits and "avx512vnni" in elementwise.processor_features()


@dataclass(frozen=True)
class GroupedProduct:
    """Weights (outputs, channels of a group, taps) in a ring; each group of channels has its own."""

    shape: Geometry
    bits: int
    phases: Phases
    weights: RingElements = field(repr=False)

    @classmethod
    def prepare(cls, shape: Geometry, weights: NDArray[np.int32], bits: int) -> "GroupedProduct":
        """`weights` in the layer's shape."""
        laid_out = weights.view(np.uint32).reshape(shape.outputs, shape.channels // shape.groups, -1)
        return cls(shape, bits, cut_into_phases(shape), laid_out)

    def multiply(self, values: RingElements) -> RingElements:
        """`values`: (channels, height, width), held mod 2^32. Returns (outputs, height, width)."""
        return self.multiply_rows(values, 0, self.shape.output_size[0])

    def rows_read(self, stop: int) -> int:
        """See `Geometry.rows_read`."""
        return self.shape.rows_read(stop)

    def by_rows(self) -> "GroupedProduct":
        """One product whose picture comes row by row: it keeps nothing from one to the next."""
        return self

    def multiply_rows(self, values: RingElements, start: int, stop: int) -> RingElements:
        """Rows `start` to `stop` of the product; `values` need be there as far as they read."""
        shape, phases = self.shape, self.phases
        output = np.empty((shape.outputs, stop - start, shape.output_size[1]), np.uint32)
        starts = phases.starts_of_row(start * shape.stride[0])
        elements = phases.elements - (shape.output_size[0] - stop + start) * phases.columns
        loops().convolve_groups(
            seal(values), self.weights, np.array(shape.stride), starts, phases.phase, phases.offset, phases.columns,
            elements, (1 << self.bits) - 1, output,
        )  # fmt: skip
        return output


@dataclass(frozen=True)
class TiledProduct:
    """Weights in the order in which tiles read them, in balanced digits or whole, with the tables that tiles follow."""

    shape: Geometry
    bits: int
    threads: int
    phases: Phases
    whole: bool
    """Whether elements are multiplied whole."""
    lanes: NDArray[np.int64]
    """(quads, 4, 2): channel and phase of each byte of a quad, group by group. Of whole elements, (runs, 1, 2)."""
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    """These two as `compiled_linear.multiply` wants them."""
    words: RingElements = field(repr=False)

    @classmethod
    def prepare(cls, shape: Geometry, weights: RingElements, count: int, bits: int, threads: int) -> "TiledProduct":
        """`weights`: (outputs, weights of one output), of `count` digits each."""
        places = _digits_by_place(bits, count)
        whole = sum(len(place) for place in places) > _MOST_BYTE_PRODUCTS
        if whole:
            places = [[0]]
        phases = cut_into_phases(shape)
        unit = 1 if whole else _QUAD
        lanes = _choose_lanes(shape, phases, unit)
        steps, step, lane = _find_steps(shape, phases, unit)
        padded = fill_up(shape.outputs, ROWS)
        # Whole weights are put in their places before they are cut into digits: a quarter of the elements to move.
        source = np.full(steps.size * unit, weights.shape[1])
        source[step * unit + lane] = np.arange(weights.shape[1])
        filled = np.zeros((padded, weights.shape[1] + 1), np.uint32)  # what stands in no place reads the last, a zero
        filled[: shape.outputs, :-1] = weights
        placed = filled.take(source, axis=1).reshape(padded // ROWS, ROWS, steps.size, unit).transpose(0, 2, 1, 3)
        words = np.ascontiguousarray(placed)
        if not whole:
            tiles = elementwise.balanced_digits_numpy(words, count).swapaxes(0, 1)
            words = np.ascontiguousarray(tiles).view(np.uint32)
        digit_words = lanes.shape[0] * phases.elements
        return cls(
            shape=shape,
            bits=bits,
            threads=threads_for(shape.terms * padded * phases.elements, threads),
            phases=phases,
            whole=whole,
            lanes=lanes,
            offsets=np.concatenate([steps + digit * digit_words for place in places for digit in place]),
            counts=np.array([len(place) * steps.size for place in places]),
            words=words.reshape(-1),
        )

    def multiply(self, values: RingElements) -> RingElements:
        """As `GroupedProduct.multiply`; what it returns is a view of a larger array."""
        return self.by_rows().multiply_rows(values, 0, self.shape.output_size[0])

    def by_rows(self) -> "TiledRows":
        """One product whose picture comes row by row."""
        return TiledRows(self)


class TiledRows:
    """One product, computed from the top of the picture to its bottom: each row of the picture is laid out once."""

    def __init__(self, product: TiledProduct) -> None:
        """Take memory for picture and output."""
        self._product = product
        shape, phases = product.shape, product.phases
        digits, runs = 1 if product.whole else _ring_bytes(product.bits), product.lanes.shape[0]
        self._picture = np.empty(digits * runs * phases.elements + LANES, np.uint32)
        self._body = self._picture[:-LANES].reshape(digits, runs, phases.elements)
        self._laid_out = 0
        places = shape.output_size[0] * phases.columns
        self._output = np.empty((fill_up(shape.outputs, ROWS), fill_up(places, LANES)), np.uint32)

    def rows_read(self, stop: int) -> int:
        """See `Geometry.rows_read`."""
        return self._product.shape.rows_read(stop)

    def multiply_rows(self, values: RingElements, start: int, stop: int) -> RingElements:
        """As `GroupedProduct.multiply_rows`, for rows that follow those computed before. A view of a larger array."""
        product, shape, phases = self._product, self._product.shape, self._product.phases
        (height, width), columns = shape.output_size, phases.columns
        self._lay_out(values, phases.elements // columns - height + stop)
        digits, runs, elements = self._body.shape
        multiply_tiles(
            self._picture,
            product.words,
            (product.offsets, product.counts),
            self._output,
            # The last register may reach into rows that are not laid out; it is computed again with them.
            vectors=(start * columns // LANES, -(-stop * columns // LANES)),
            groups=shape.groups,
            group_words=runs // shape.groups * elements,
            band=max(3, _BAND_BYTES // (4 * digits * runs * LANES)),
            whole=product.whole,
            bits=product.bits,
            threads=product.threads,
        )
        rows = self._output[: shape.outputs, start * columns : stop * columns]
        return rows.reshape(shape.outputs, stop - start, columns)[:, :, :width]

    def _lay_out(self, values: RingElements, stop: int) -> None:
        """Rows of each phase up to `stop`."""
        product, first = self._product, self._laid_out
        starts = product.phases.starts_of_row(first * product.shape.stride[0])
        stride, columns = np.array(product.shape.stride), product.phases.columns
        where = (seal(values), product.lanes, starts, stride, columns, first, stop)
        if product.whole:
            loops().lay_out_words(*where, self._body[0])
        else:
            loops().split_bytes(*where, self._body)
        self._laid_out = stop


def multiply_tiles(
    picture: RingElements,
    words: RingElements,
    tables: tuple[NDArray[np.int64], NDArray[np.int64]],
    output: RingElements,
    *,
    vectors: tuple[int, int],
    groups: int,
    group_words: int,
    band: int,
    whole: bool,
    bits: int,
    threads: int,
) -> None:
    """Run `compiled_linear.multiply`, which names the arguments, on one thread or several. `tables`: its two."""
    rows = output.shape[0]
    run = functools.partial(
        loops().multiply, picture, words, *tables, rows // groups, group_words, band, int(whole), (1 << bits) - 1,
        output, *vectors,
    )  # fmt: skip
    if threads == 1:
        run(0, rows)
        return
    cuts = [rows // ROWS * index // threads * ROWS for index in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, cuts[:-1], cuts[1:]))


def threads_for(products: int, threads: int) -> int:
    """How many of these threads are worth while."""
    return threads if products > _LEAST_FOR_THREADS else 1


def _choose_lanes(shape: Geometry, phases: Phases, unit: int) -> NDArray[np.int64]:
    """Within a group phase by phase; the group's last word is filled up with bytes that meet no weight."""
    group_in = shape.channels // shape.groups
    count = group_in * phases.starts.shape[0]
    place = np.minimum(np.arange(fill_up(count, unit)), count - 1)
    channel = np.arange(shape.groups)[:, None] * group_in + place % group_in
    lanes = np.stack((channel, np.broadcast_to(place // group_in, channel.shape)), axis=-1)
    return np.ascontiguousarray(lanes).reshape(-1, unit, 2)


def _find_steps(
    shape: Geometry, phases: Phases, unit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each step reads, in words of the lowest digit; and the step and lane of each weight of an output."""
    group_in = shape.channels // shape.groups
    place = phases.phase[None, :] * group_in + np.arange(group_in)[:, None]
    reads = place // unit * phases.elements + phases.offset
    steps, step = np.unique(reads.reshape(-1), return_inverse=True)
    return steps, step.reshape(-1), (place % unit).reshape(-1)


def cost_of_product(bits: int, count: int) -> tuple[float, float]:
    """Of an element and a weight of `count` digits, and of reading the weight, by tiles: 1 for whole elements."""
    products = sum(len(place) for place in _digits_by_place(bits, count))
    return (1.0, 1.0) if products > _MOST_BYTE_PRODUCTS else (products * _BYTE_PRODUCT, count / 4)


def _digits_by_place(bits: int, count: int) -> list[list[int]]:
    """Digit i of the picture times digit j of the weights counts in place i + j: i by place, from the highest down."""
    return [[place - j for j in range(min(place + 1, count))] for place in reversed(range(_ring_bytes(bits)))]


def seal(values: RingElements) -> RingElements:
    """A read-only view: numba compiles a loop for each kind of array, so that all are made of one kind."""
    sealed = np.ascontiguousarray(values).view()
    sealed.setflags(write=False)
    return sealed


def fill_up(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


def _ring_bytes(bits: int) -> int:
    return fill_up(bits, 8) // 8
