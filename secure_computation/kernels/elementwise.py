"""Packing and other loops over elements: compiled by numba where it is installed, plain NumPy elsewhere.

The functions named `..._numpy` are the specification; the compiled twins (`secure_computation.kernels.compiled`) equal
them in every bit. Each public function takes `use_compiled`: None (the default) uses the compiled twin where it can be
loaded.
"""

import functools
import importlib.util
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHUNK: Final = 1 << 16
"""Elements unpacked to single bits at a time (a multiple of 8, so that each chunk fills whole bytes)."""


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled twins, loaded at the first call, or None without numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    from secure_computation.kernels import compiled as module

    return module


def _twin(*, use_compiled: bool | None) -> ModuleType | None:
    return None if use_compiled is False else compiled()


def pack(values: NDArray[np.uint32], bits: int, *, use_compiled: bool | None = None) -> NDArray[np.uint8]:
    """Pack (n,) elements below 2^bits without gaps, lowest bit first: uint8 (ceil(n * bits / 8),)."""
    if bits in (8, 16, 32):
        return values.astype(f"<u{bits // 8}").view(np.uint8)
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        return pack_numpy(values, bits)
    words = np.empty((values.size * bits + 31) // 32, np.uint32)
    twin.pack(values, bits, words)
    return words.view(np.uint8)[: (values.size * bits + 7) // 8]


def unpack(body: NDArray[np.uint8], count: int, bits: int, *, use_compiled: bool | None = None) -> NDArray[np.uint32]:
    """Read `count` elements from their packed form, exactly ceil(count * bits / 8) bytes: uint32 (count,)."""
    if bits in (8, 16, 32):
        return body.view(f"<u{bits // 8}").astype(np.uint32)
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        return unpack_numpy(body, count, bits)
    words = np.zeros((body.size + 3) // 4 + 1, np.uint32)
    words.view(np.uint8)[: body.size] = body
    values = np.empty(count, np.uint32)
    twin.unpack(words, bits, values)
    return values


def pack_numpy(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Pack through single bits, chunk by chunk."""
    chunks = [
        np.packbits(_to_bits(values[start : start + _CHUNK])[:, :bits], bitorder="little")
        for start in range(0, values.size, _CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, np.uint8)


def unpack_numpy(body: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint32]:
    """Unpack through single bits, chunk by chunk."""
    values = np.empty(count, "<u4")
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        part = body[start * bits // 8 : (start + size) * bits // 8 + 1]
        wide = np.zeros((size, 32), np.uint8)
        wide[:, :bits] = np.unpackbits(part, count=size * bits, bitorder="little").reshape(size, bits)
        values[start : start + size] = np.packbits(wide, bitorder="little").view("<u4")
    return values.astype(np.uint32, copy=False)


def _to_bits(values: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return np.unpackbits(values.astype("<u4", copy=False).view(np.uint8), bitorder="little").reshape(-1, 32)
