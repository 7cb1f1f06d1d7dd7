"""Loops of `winograd`, compiled by numba. Import this module through `winograd.compiled()` only.

The callers check shapes and allocate outputs. All arrays are contiguous; arithmetic is mod 2^32. A grid of tiles is its
rows and columns, and `lanes` those of one channel: at least one for each tile, a multiple of `LANES`.

The transforms are written in the instructions of LLVM, with the matrices as constants: no loop of numba's keeps a tile
in registers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numba
import numba.extending
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba.core import types
from numpy.typing import NDArray

jit = numba.njit(cache=True, nogil=True, boundscheck=False)
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.extending.intrinsic

RingElements = NDArray[np.uint32]
Matrix: TypeAlias = Sequence[Sequence[int]]

LANES: Final = 16
"""In one 512-bit register."""
_LANE_BLOCK: Final = 256
"""Lanes that are transformed together: what is read for them stays in the first caches."""
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I32, LANES)

# The matrices of `winograd`, which says where they come from, by the size of a tile.
PICTURE: Final[dict[int, Matrix]] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
"""B^T."""
BACK: Final[dict[int, Matrix]] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
"""A^T."""
_THIRD: Final = pow(3, -1, 2**32)
WEIGHTS: Final[dict[int, Matrix]] = {
    2: ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)),
    4: tuple(
        tuple(entry * _THIRD % 2**32 for entry in row)
        for row in ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
    ),
}
"""2 G, and 8 G: 24 G divided by 3 mod 2^32."""


def _make_transform(matrix: Matrix) -> Callable[..., None]:
    """The intrinsic for target = matrix * source * matrix^T in `LANES` lanes from a place on in each array.

    Source (columns^2, its lanes), target (rows^2, its lanes); both are followed by the number of their lanes.
    """
    rows, columns = len(matrix), len(matrix[0])

    @intrinsic
    def transform(  # noqa: PLR0917 - arguments of a compiled loop go by position
        _context: Any, source: Any, source_lanes: Any, source_at: Any, target: Any, target_lanes: Any, target_at: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            read = _Lines(context, builder, signature, arguments, 0)
            write = _Lines(context, builder, signature, arguments, 3)
            half = []
            for column in range(columns):
                line = [read.load(row * columns + column, _VECTOR) for row in range(columns)]
                half.append([_combine(builder, factors, line) for factors in matrix])
            for row in range(rows):
                line = [half[column][row] for column in range(columns)]
                for column, factors in enumerate(matrix):
                    write.store(row * rows + column, _combine(builder, factors, line))
            return context.get_dummy_value()

        return types.void(source, source_lanes, source_at, target, target_lanes, target_at), generate

    return transform


class _Lines:
    """Lines of an argument's array, whose length and whose first element to look at are the next two arguments."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any, index: int) -> None:
        self._builder = builder
        self._data = context.make_array(signature.args[index])(context, builder, arguments[index]).data
        self._length, self._at = arguments[index + 1], arguments[index + 2]

    def _point(self, line: int, kind: Any, begin: int) -> Any:
        place = self._builder.add(self._builder.mul(self._length, _I64(line)), self._at)
        element = self._builder.gep(self._data, [self._builder.add(place, _I64(begin))])
        return self._builder.bitcast(element, kind.as_pointer())

    def load(self, line: int, kind: Any, *, begin: int = 0) -> Any:
        return self._builder.load(self._point(line, kind, begin), align=4)

    def store(self, line: int, value: Any) -> None:
        self._builder.store(value, self._point(line, value.type, 0), align=4)


def _combine(builder: Any, factors: Sequence[int], vectors: Sequence[Any]) -> Any:
    """The sum of factor times vector; LLVM makes shifts of powers of two."""
    terms = [
        builder.mul(vector, ir.Constant(_VECTOR, [factor % 2**32] * LANES))
        for factor, vector in zip(factors, vectors, strict=True)
        if factor != 0
    ]
    return functools.reduce(builder.add, terms)


def _make_spread(size: int) -> Callable[..., None]:
    """The intrinsic that deals a row of a picture out to tiles: line i gets `LANES` elements from i on, by `size`."""

    @intrinsic
    def spread(  # noqa: PLR0917 - as above
        _context: Any, source: Any, width: Any, source_at: Any, target: Any, target_lanes: Any, target_at: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            read = _Lines(context, builder, signature, arguments, 0)
            write = _Lines(context, builder, signature, arguments, 3)
            run = ir.VectorType(_I32, LANES * size)
            every = ir.Constant(_VECTOR, [lane * size for lane in range(LANES)])
            for index in range(size + 2):
                elements = read.load(0, run, begin=index)
                write.store(index, builder.shuffle_vector(elements, ir.Constant(run, ir.Undefined), every))
            return context.get_dummy_value()

        return types.void(source, width, source_at, target, target_lanes, target_at), generate

    return spread


def _make_gather(size: int) -> Callable[..., None]:
    """The intrinsic that puts one row of `LANES` tiles together: `size` lines of `source`, shifted, cut, one by one."""

    @intrinsic
    def gather(  # noqa: PLR0917 - as above
        _context: Any,
        source: Any,
        source_lanes: Any,
        source_at: Any,
        target: Any,
        width: Any,
        target_at: Any,
        shift: Any,
        mask: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            read = _Lines(context, builder, signature, arguments, 0)
            drop, cut = (_repeat(builder, argument) for argument in arguments[6:])
            run = functools.reduce(
                functools.partial(_join, builder),
                [builder.and_(builder.lshr(read.load(index, _VECTOR), drop), cut) for index in range(size)],
            )
            places = [lane + index * LANES for lane in range(LANES) for index in range(size)]
            order = ir.Constant(ir.VectorType(_I32, LANES * size), places)
            row = builder.shuffle_vector(run, ir.Constant(run.type, ir.Undefined), order)
            _Lines(context, builder, signature, arguments, 3).store(0, row)
            return context.get_dummy_value()

        return types.void(source, source_lanes, source_at, target, width, target_at, shift, mask), generate

    return gather


def _join(builder: Any, left: Any, right: Any) -> Any:
    """One vector behind the other."""
    count = left.type.count + right.type.count
    if right.type.count < left.type.count:  # only vectors of one length can be shuffled
        fill = ir.Constant(ir.VectorType(_I32, left.type.count), [min(i, LANES - 1) for i in range(left.type.count)])
        right = builder.shuffle_vector(right, ir.Constant(right.type, ir.Undefined), fill)
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_I32, count), list(range(count))))


def _repeat(builder: Any, word: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, builder.trunc(word, _I32), _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_VECTOR, [0] * LANES))


_weights_2, _weights_4 = _make_transform(WEIGHTS[2]), _make_transform(WEIGHTS[4])
_picture_2, _picture_4 = _make_transform(PICTURE[2]), _make_transform(PICTURE[4])
_back_2, _back_4 = _make_transform(BACK[2]), _make_transform(BACK[4])
_spread_2, _spread_4 = _make_spread(2), _make_spread(4)
_gather_2, _gather_4 = _make_gather(2), _make_gather(4)


@jit
def transform_weights(size: int, taps: RingElements, words: RingElements) -> None:
    """`taps` (9, weights of one tap, at least `LANES`) become `words` (points, the same)."""
    lanes = taps.shape[1]
    for begin in range(0, lanes, LANES):
        at = min(begin, lanes - LANES)
        if size == 2:
            _weights_2(taps, lanes, at, words, lanes, at)
        else:
            _weights_4(taps, lanes, at, words, lanes, at)


@jit
def transform_picture(  # noqa: PLR0917 - as above
    values: RingElements, size: int, top: int, left: int, rows: int, columns: int, lanes: int, words: RingElements
) -> None:
    """`values` (channels, height, width), with `top` and `left` zeros before, become `words` (points, all lanes).

    `top` is negative where the first row of tiles lies so far down in the picture.
    """
    channels, height, width = values.shape
    together = max(1, _LANE_BLOCK // lanes)
    length = together * lanes + LANES  # a row of tiles is written with what lies behind it, which the next one covers
    tiles = np.zeros(((size + 2) ** 2, length), np.uint32)
    # The picture with its margins; a row of tiles is read with what lies behind it.
    across = size * columns + 2
    padded = np.zeros((size * rows + 2) * across + size * LANES + 2, np.uint32)
    for first in range(0, channels, together):
        last = min(channels, first + together)
        for channel in range(first, last):
            for y in range(max(0, -top), min(height, size * rows + 2 - top)):
                begin = (y + top) * across + left
                padded[begin : begin + width] = values[channel, y]
            for row in range(rows):
                for down in range(size + 2):
                    target = tiles[down * (size + 2) : (down + 1) * (size + 2)]
                    source_at = (row * size + down) * across
                    target_at = (channel - first) * lanes + row * columns
                    for column in range(0, columns, LANES):
                        if size == 2:
                            _spread_2(padded, 0, source_at + column * 2, target, length, target_at + column)
                        else:
                            _spread_4(padded, 0, source_at + column * 4, target, length, target_at + column)
        for at in range(0, (last - first) * lanes, LANES):
            if size == 2:
                _picture_2(tiles, length, at, words, channels * lanes, first * lanes + at)
            else:
                _picture_4(tiles, length, at, words, channels * lanes, first * lanes + at)


@jit
def transform_back(  # noqa: PLR0917 - as above
    sums: RingElements,
    size: int,
    shift: int,
    mask: int,
    columns: int,
    lanes: int,
    height: int,
    width: int,
    output: RingElements,
) -> None:
    """`sums` (points, lanes of at least the outputs) become `output`, shifted and cut.

    `output`: (outputs * height * width,) and `size * LANES` elements more; a row is written with what lies behind it.
    """
    outputs = (output.size - size * LANES) // (height * width)
    together = max(1, _LANE_BLOCK // lanes)
    length = together * lanes + LANES
    tiles = np.empty((size * size, length), np.uint32)
    for first in range(0, outputs, together):
        last = min(outputs, first + together)
        for at in range(0, (last - first) * lanes, LANES):
            if size == 2:
                _back_2(sums, sums.shape[1], first * lanes + at, tiles, length, at)
            else:
                _back_4(sums, sums.shape[1], first * lanes + at, tiles, length, at)
        for out in range(first, last):
            for y in range(height):
                source = tiles[y % size * size : (y % size + 1) * size]
                source_at = (out - first) * lanes + y // size * columns
                target_at = (out * height + y) * width
                for column in range(0, columns, LANES):
                    if size == 2:
                        _gather_2(source, length, source_at + column, output, 0, target_at + column * 2, shift, mask)
                    else:
                        _gather_4(source, length, source_at + column, output, 0, target_at + column * 4, shift, mask)
