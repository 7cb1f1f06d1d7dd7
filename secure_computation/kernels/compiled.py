"""Loops compiled by numba. Each has a NumPy twin in `secure_computation.kernels.elementwise`, which is its reference.

Import this module through `elementwise.compiled()` only: numba takes half a second to load and may be absent.
The first call of a function compiles it (a second or so); later processes read the result from `__pycache__`.
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
