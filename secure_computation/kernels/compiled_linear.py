"""Convolutions compiled by numba, which read the picture in place (`phases` says how it lies). See `linear`.

Import this module through `in_place.compiled()` only, as `kernels.compiled` through `elementwise`. The callers check
shapes and allocate outputs. All arrays are contiguous.

`multiply` goes tile by tile: a tile is written in the instructions of LLVM, since no loop of numba's keeps its sums in
registers.
"""

from collections.abc import Callable
from typing import Any, Final

import numba.core.cgutils
import numba.extending
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba.core import types
from numpy.typing import NDArray

jit = numba.njit(cache=True, nogil=True, boundscheck=False)
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.extending.intrinsic
cgutils: Any = numba.core.cgutils

RingElements = NDArray[np.uint32]
Integers = NDArray[np.int64]

ROWS: Final = 8
"""Outputs that one tile computes side by side."""
LANES: Final = 16
"""Places in one 512-bit register."""
_ROW_BLOCK: Final = 2048
"""Sums that stay in the first cache."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I32, LANES)


@jit
def fill_phase(picture: RingElements, start: Integers, stride: Integers, columns: int, phase: RingElements) -> None:
    """Copy every `stride`-th element of a (height, width) picture from `start` on; zeros outside the picture."""
    height, width = picture.shape
    down, across = stride
    x = start[1]
    first = min(columns, max(0, (-x + across - 1) // across))
    last = max(first, min(columns, (width - x + across - 1) // across))
    for row in range(phase.size // columns):
        y = start[0] + row * down
        target = phase[row * columns : (row + 1) * columns]
        if y < 0 or y >= height:
            target[:] = 0
            continue
        source = picture[y]
        target[:first] = 0
        target[last:] = 0
        if across == 1:
            target[first:last] = source[x + first : x + last]
        else:
            for column in range(first, last):
                target[column] = source[x + column * across]


@jit
def add_taps(
    laid_out: RingElements, weights: RingElements, phase: Integers, offset: Integers, sums: RingElements
) -> None:
    """Set `sums` to the sum of weight times run, over channels and taps."""
    sums[:] = 0
    for channel in range(weights.shape[0]):
        for tap in range(phase.size):
            source = laid_out[channel, phase[tap], offset[tap] : offset[tap] + sums.size]
            weight = weights[channel, tap]
            for index in range(sums.size):
                sums[index] += np.uint32(weight * source[index])


@jit
def convolve_groups(  # noqa: PLR0917 - arguments of a compiled loop go by position
    values: RingElements,
    weights: RingElements,
    stride: Integers,
    starts: Integers,
    phase: Integers,
    offset: Integers,
    columns: int,
    elements: int,
    mask: int,
    output: RingElements,
) -> None:
    """Each group of channels with its own weights: depthwise where a group is one channel.

    `values` (channels, height, width), `weights` (outputs, channels of a group, taps), `output` of the layer's shape;
    the others from `phases`.
    """
    outputs, group_in = weights.shape[:2]
    groups = values.shape[0] // group_in
    height, width = output.shape[1:]
    cut = np.uint32(mask)
    # The last run of a phase reads on behind it, for places that are left out.
    laid_out = np.zeros((group_in, starts.shape[0], elements + columns), np.uint32)
    block = max(1, _ROW_BLOCK // columns)
    sums = np.empty(block * columns, np.uint32)
    for out in range(outputs):
        group = out // (outputs // groups)
        if out % (outputs // groups) == 0:
            for channel in range(group_in):
                for index in range(starts.shape[0]):
                    picture = values[group * group_in + channel]
                    fill_phase(picture, starts[index], stride, columns, laid_out[channel, index, :elements])
        for first in range(0, height, block):
            last = min(height, first + block)
            total = sums[: (last - first) * columns]
            add_taps(laid_out, weights[out], phase, offset + first * columns, total)
            for row in range(first, last):
                source = total[(row - first) * columns :]
                target = output[out, row]
                for column in range(width):
                    target[column] = source[column] & cut


@jit
def split_bytes(  # noqa: PLR0917 - as above
    values: RingElements,
    lanes: Integers,
    starts: Integers,
    stride: Integers,
    columns: int,
    first: int,
    last: int,
    bytes_of: RingElements,
) -> None:
    """Lay out a picture for `multiply`: the unsigned bytes of its elements, those of four channels side by side.

    `values` (channels, height, width); `lanes` (quads, 4, 2): channel and phase of each byte of a quad; `starts`: of
    row `first` of each phase. Sets rows `first` to `last` of each phase in `bytes_of` (digits, quads, elements of a
    phase), four bytes in each word.
    """
    digits, quads, _ = bytes_of.shape
    elements = (last - first) * columns
    rows = np.empty((4, elements), np.uint32)
    low = np.uint32(0xFF)
    for quad in range(quads):
        for lane in range(4):
            channel, phase = lanes[quad, lane]
            fill_phase(values[channel], starts[phase], stride, columns, rows[lane])
        for digit in range(digits):
            target = bytes_of[digit, quad, first * columns : last * columns]
            shift = np.uint32(8 * digit)
            for index in range(elements):
                word = (rows[0, index] >> shift) & low
                word |= ((rows[1, index] >> shift) & low) << np.uint32(8)
                word |= ((rows[2, index] >> shift) & low) << np.uint32(16)
                word |= ((rows[3, index] >> shift) & low) << np.uint32(24)
                target[index] = word


@jit
def lay_out_words(  # noqa: PLR0917 - as above
    values: RingElements,
    lanes: Integers,
    starts: Integers,
    stride: Integers,
    columns: int,
    first: int,
    last: int,
    words: RingElements,
) -> None:
    """As `split_bytes` for elements that stay whole: `lanes` (channels and phases, 1, 2), `words` one run for each."""
    for index in range(lanes.shape[0]):
        channel, phase = lanes[index, 0]
        fill_phase(values[channel], starts[phase], stride, columns, words[index, first * columns : last * columns])


def _make_tile(vectors: int) -> Callable[..., None]:
    """The intrinsic for `vectors` registers of `LANES` places by `ROWS` outputs, whose sums stay in registers.

    From the result's highest place (of base 256) to its lowest: sums of bytes times signed bytes (`vpdpbusd`, which
    wraps mod 2^32), shifted on by 8 bits before the next. Whole elements have one place. Its arguments are those of
    `multiply`, after each array where to begin in its elements.
    """

    @intrinsic
    def tile(  # noqa: PLR0917 - as above
        _context: Any,
        picture: Any,
        picture_at: Any,
        weights: Any,
        weights_at: Any,
        offsets: Any,
        counts: Any,
        whole: Any,
        mask: Any,
        output: Any,
        output_at: Any,
        row_length: Any,
    ) -> Any:
        signature = types.void(
            picture, picture_at, weights, weights_at, offsets, counts, whole, mask, output, output_at, row_length
        )

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def open_array(index: int, at: Any = None) -> tuple[Any, Any]:
                array = context.make_array(signature.args[index])(context, builder, arguments[index])
                return (array.data if at is None else builder.gep(array.data, [at])), array.nitems

            _write_tile(
                builder,
                picture=open_array(0, arguments[1])[0],
                weights=open_array(2, arguments[3])[0],
                offsets=open_array(4)[0],
                counts=open_array(5),
                whole=arguments[6],
                mask=arguments[7],
                output=open_array(8, arguments[9])[0],
                row_length=arguments[10],
                vectors=vectors,
            )
            return context.get_dummy_value()

        return signature, generate

    return tile


def _write_tile(
    builder: Any,
    *,
    picture: Any,
    weights: Any,
    offsets: Any,
    counts: tuple[Any, Any],
    whole: Any,
    mask: Any,
    output: Any,
    row_length: Any,
    vectors: int,
) -> None:
    """The instructions of a tile; all arrays are pointers, `counts` also has its length."""
    dot = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), "llvm.x86.avx512.vpdpbusd.512"
    )

    def add_bytes(total: Any, pixels: Any, factor: Any) -> Any:
        return builder.call(dot, [total, pixels, factor])

    def add_whole(total: Any, pixels: Any, factor: Any) -> Any:
        return builder.add(total, builder.mul(pixels, factor))

    sums = [[cgutils.alloca_once_value(builder, _all(0)) for _ in range(vectors)] for _ in range(ROWS)]
    begin = cgutils.alloca_once_value(builder, offsets)
    with cgutils.for_range(builder, counts[1]) as place:
        for row in sums:
            for total in row:
                builder.store(builder.shl(builder.load(total), _all(8)), total)
        count = builder.load(builder.gep(counts[0], [place.index]))
        first = builder.load(begin)

        def take_steps(add: Callable[[Any, Any, Any], Any]) -> None:
            with cgutils.for_range(builder, count) as step:
                source = builder.gep(picture, [builder.load(builder.gep(first, [step.index]))])
                pixels = [builder.load(_vector_at(builder, source, index), align=4) for index in range(vectors)]
                weight = builder.gep(weights, [builder.mul(step.index, _I64(ROWS))])
                for index, row in enumerate(sums):
                    factor = _repeat(builder, builder.load(builder.gep(weight, [_I64(index)])))
                    for total, elements in zip(row, pixels, strict=True):
                        builder.store(add(builder.load(total), elements, factor), total)

        with builder.if_else(builder.trunc(whole, ir.IntType(1))) as (if_whole, otherwise):
            with if_whole:
                take_steps(add_whole)
            with otherwise:
                take_steps(add_bytes)
        builder.store(builder.gep(first, [count]), begin)
    cut = _repeat(builder, mask)
    for row_number, row in enumerate(sums):
        target = builder.gep(output, [builder.mul(row_length, _I64(row_number))])
        for index, total in enumerate(row):
            builder.store(builder.and_(builder.load(total), cut), _vector_at(builder, target, index), align=4)


def _all(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _vector_at(builder: Any, words: Any, index: int) -> Any:
    return builder.bitcast(builder.gep(words, [_I64(index * LANES)]), _VECTOR.as_pointer())


def _repeat(builder: Any, word: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, word, _I32(0)), undefined, _all(0))


_tile_1, _tile_2, _tile_3 = (_make_tile(vectors) for vectors in (1, 2, 3))


@jit
def multiply(  # noqa: PLR0917 - as above
    picture: RingElements,
    weights: RingElements,
    offsets: Integers,
    counts: Integers,
    group_rows: int,
    group_words: int,
    band: int,
    whole: int,
    mask: int,
    output: RingElements,
    first_vector: int,
    last_vector: int,
    first_row: int,
    last_row: int,
) -> None:
    """Some outputs of a layer at some places. For processors with AVX-512 VNNI only: others would stop.

    Args:
        picture: words of four bytes, from `split_bytes`, or elements, from `lay_out_words`, and `LANES` more words.
        weights: words of four signed bytes: for `ROWS` outputs at a time (digits, steps, `ROWS`); or elements.
        offsets: where each step reads in `picture`, for all digit products of the highest place, then of the next, ...
        counts: how many of these belong to each place.
        group_rows: outputs of each group of channels.
        group_words: words of `picture` from one group to the next.
        band: registers of places to take together, so that what they read stays in the second cache.
        whole: 1 if words are elements, which count in one place, else 0.
        mask: 2^bits - 1.
        output: (outputs, places), both filled up to multiples of `ROWS` and `LANES`.
        first_vector: first register of places to compute.
        last_vector: behind the last one.
        first_row: first output to compute, a multiple of `ROWS`.
        last_row: behind the last one.
    """
    rows, places = output.shape
    cut = np.uint32(mask)
    block_words = weights.size // (rows // ROWS)
    for first in range(first_vector, last_vector, band):
        last = min(last_vector, first + band)
        for row in range(first_row, last_row, ROWS):
            weights_at = row // ROWS * block_words
            picture_at = row // group_rows * group_words
            output_at = row * places
            at = first
            while at < last:
                p, o = picture_at + at * LANES, output_at + at * LANES
                if last - at in {2, 4}:
                    _tile_2(picture, p, weights, weights_at, offsets, counts, whole, cut, output, o, places)
                    at += 2
                elif last - at == 1:
                    _tile_1(picture, p, weights, weights_at, offsets, counts, whole, cut, output, o, places)
                    at += 1
                else:
                    _tile_3(picture, p, weights, weights_at, offsets, counts, whole, cut, output, o, places)
                    at += 3
