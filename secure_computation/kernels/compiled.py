"""Loops compiled by numba. Each has a NumPy twin in `secure_computation.kernels.elementwise`, which is its reference.

Import this module through `elementwise.compiled()` only: numba takes half a second to load and may be absent.
The first call of a function compiles it (a second or so); later processes read the result from a folder that
`loop_cache` has found to be nobody else's. `elementwise.warm_up` gets this over before a session.
All arrays are contiguous; the callers in `elementwise` check shapes and allocate outputs.
"""

from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.extending
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba.core import types
from numpy.typing import NDArray

jit = numba.njit(cache=True, nogil=True, boundscheck=False)
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.extending.intrinsic
cgutils: Any = numba.core.cgutils


@jit
def pack(values: NDArray[np.uint32], bits: int, words: NDArray[np.uint32]) -> None:
    """Write elements of `bits` bits one after the other into little-endian words, the last one filled with zeros."""
    held = np.uint64(0)
    filled = np.uint64(0)
    width = np.uint64(bits)
    full = np.uint64(32)
    word = 0
    for index in range(values.size):
        held |= np.uint64(values[index]) << filled
        filled += width
        if filled >= full:
            words[word] = np.uint32(held)
            word += 1
            held >>= full
            filled -= full
    if filled > np.uint64(0):
        words[word] = np.uint32(held)


@jit
def unpack(words: NDArray[np.uint32], bits: int, values: NDArray[np.uint32]) -> None:
    """Read elements of `bits` bits; `words` has one word more than they fill."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    for index in range(values.size):
        position = index * bits
        word = position >> 5
        pair = np.uint64(words[word]) | (np.uint64(words[word + 1]) << np.uint64(32))
        values[index] = np.uint32((pair >> np.uint64(position & 31)) & mask)


_BYTES, _WORDS, _ELEMENTS = (ir.VectorType(ir.IntType(bits), count) for bits, count in ((8, 64), (64, 8), (32, 8)))
_NEXT = ir.Constant(ir.VectorType(ir.IntType(32), 8), [1, 2, 3, 4, 5, 6, 7, 7])
_GATHER, _FIELDS = "llvm.x86.avx512.permvar.qi.512", "llvm.x86.avx512.pmultishift.qb.512"


class _Eight:
    """Writes the instructions for eight elements; arrays go by the place of the argument."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._context, self.builder = context, builder
        self._types, self._arguments = signature.args, arguments

    def _point(self, array: int, at: int | None, kind: Any) -> Any:
        data = self._context.make_array(self._types[array])(self._context, self.builder, self._arguments[array]).data
        begin = ir.IntType(64)(0) if at is None else self._arguments[at]
        return self.builder.bitcast(self.builder.gep(data, [begin]), kind.as_pointer())

    def load(self, array: int, kind: Any, *, at: int | None = None) -> Any:
        return self.builder.load(self._point(array, at, kind), align=1)

    def store(self, value: Any, array: int, *, at: int) -> None:
        self.builder.store(value, self._point(array, at, value.type), align=1)

    def call(self, name: str, left: Any, right: Any) -> Any:
        kind = ir.FunctionType(_BYTES, [_BYTES] * 2)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, (left, right))


@intrinsic
def _unpack_eight(  # noqa: PLR0917 - arguments of a compiled loop go by position
    _context: Any, body: Any, at: Any, places: Any, shifts: Any, mask: Any, values: Any, index: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        eight = _Eight(context, builder, signature, arguments)
        gathered = eight.call(_GATHER, eight.load(0, _BYTES, at=1), eight.load(2, _BYTES))
        shifted = builder.lshr(builder.bitcast(gathered, _WORDS), eight.load(3, _WORDS))
        eight.store(builder.trunc(builder.and_(shifted, eight.load(4, _WORDS)), _ELEMENTS), 5, at=6)
        return context.get_dummy_value()

    return types.void(body, at, places, shifts, mask, values, index), generate


@intrinsic
def _pack_eight(  # noqa: PLR0917 - as above
    _context: Any, values: Any, index: Any, bits: Any, fields: Any, places: Any, body: Any, at: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        eight = _Eight(context, builder, signature, arguments)
        words = builder.zext(eight.load(0, _ELEMENTS, at=1), _WORDS)
        pairs = builder.or_(words, builder.shl(builder.shuffle_vector(words, words, _NEXT), eight.load(2, _WORDS)))
        pieces = eight.call(_FIELDS, eight.load(3, _BYTES), builder.bitcast(pairs, _BYTES))
        eight.store(eight.call(_GATHER, pieces, eight.load(4, _BYTES)), 5, at=6)
        return context.get_dummy_value()

    return types.void(values, index, bits, fields, places, body, at), generate


@jit
def unpack_blocks(  # noqa: PLR0917 - as above
    body: NDArray[np.uint8],
    bits: int,
    places: NDArray[np.uint8],
    shifts: NDArray[np.uint64],
    mask: NDArray[np.uint64],
    values: NDArray[np.uint32],
) -> int:
    """Read elements eight at a time, which begin and end with a byte, as long as 64 bytes are left; say how many.

    For processors with AVX-512 VBMI only: others would stop. The tables are `elementwise`'s.
    """
    blocks = min(values.size // 8, max(0, (body.size - 64 + bits) // bits))
    for block in range(blocks):
        _unpack_eight(body, block * bits, places, shifts, mask, values, block * 8)
    return 8 * blocks


@jit
def pack_blocks(  # noqa: PLR0917 - as above
    values: NDArray[np.uint32],
    bits: int,
    shifts: NDArray[np.uint64],
    fields: NDArray[np.uint8],
    places: NDArray[np.uint8],
    body: NDArray[np.uint8],
) -> int:
    """Write elements eight at a time, as long as 64 bytes are left; say how many. See `unpack_blocks`."""
    blocks = min(values.size // 8, max(0, (body.size - 64 + bits) // bits))
    for block in range(blocks):
        _pack_eight(values, block * 8, shifts, fields, places, body, block * bits)
    return 8 * blocks


@jit
def split_digits(values: NDArray[np.uint32], top: int, left: int, planes: NDArray[np.int8]) -> None:
    """Write the balanced base-256 digits of (C, H, W) into the inside of (digits, C, padded H, padded W)."""
    balance = np.uint32(0x80808080)
    channels, height, width = values.shape
    for digit in range(planes.shape[0]):
        shift = np.uint32(8 * digit)
        for channel in range(channels):
            for row in range(height):
                source = values[channel, row]
                target = planes[digit, channel, row + top, left : left + width]
                for column in range(width):
                    target[column] = np.int8(((source[column] + balance) ^ balance) >> shift)


@jit
def combine(products: NDArray[np.int32], mask: int, output: NDArray[np.uint32], first: int, last: int) -> None:
    """Set output[:, first:last] to the sum of products[s] * 2^(8 s), cut by `mask`."""
    cut = np.uint32(mask)
    for row in range(output.shape[0]):
        target = output[row, first:last]
        source = products[0, row]
        for column in range(target.size):
            target[column] = np.uint32(source[column])
        for index in range(1, products.shape[0]):
            source = products[index, row]
            shift = np.uint32(8 * index)
            for column in range(target.size):
                target[column] += np.uint32(source[column]) << shift
        for column in range(target.size):
            target[column] &= cut
