"""Loops compiled by numba. Each has a NumPy twin in `secure_computation.kernels.elementwise`, which is its reference.

Import this module through `elementwise.compiled()` only: numba takes half a second to load and may be absent.
The first call of a function compiles it (a second or so); later processes read the result from a folder that
`loop_cache` has found to be nobody else's. `elementwise.warm_up` gets this over before a session.
All arrays are contiguous; the callers in `elementwise` check shapes and allocate outputs.
"""

import numba
import numpy as np
from numpy.typing import NDArray

jit = numba.njit(cache=True, nogil=True, boundscheck=False)


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
