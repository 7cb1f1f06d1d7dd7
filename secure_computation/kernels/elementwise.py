"""Packing and other loops over elements: compiled by numba where it is installed, plain NumPy elsewhere.

The functions named `..._numpy` are the specification; the compiled twins (`secure_computation.kernels.compiled`) equal
them in every bit. Each public function takes `use_compiled`: None (the default) uses the compiled twin where it can be
loaded.
"""

import functools
import importlib
import importlib.util
import logging
from types import ModuleType
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels.loop_cache import read_without_compiler, reason_to_distrust

_LOG = logging.getLogger(__name__)

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[int, int, int, int]
Band: TypeAlias = tuple[int, int, int]

_CHUNK: Final = 1 << 16
"""Elements unpacked to single bits at a time (a multiple of 8, so that each chunk fills whole bytes)."""


@functools.cache
def compiled() -> ModuleType | None:
    """Return the compiled twins, loaded at the first call, or None without numba or a place for what it compiles."""
    return load_compiled("secure_computation.kernels.compiled")


def load_compiled(name: str) -> ModuleType | None:
    """Import a module of compiled loops, or say in the log why not. None without numba or a place for its cache.

    Compiled anew in each process, loops would cost more seconds than they save in a command that answers once.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        module = importlib.import_module(name)
    except RuntimeError:  # numba's word for: no folder to write to
        _say_that_nothing_is_kept("neither this installation nor the user's cache folder can be written")
        return None
    reason = reason_to_distrust(module)
    if reason is not None:
        _say_that_nothing_is_kept(f"{reason}, and whoever writes there could run code here")
        return None
    read_without_compiler(module)
    return module


@functools.cache
def _say_that_nothing_is_kept(reason: str) -> None:
    """Once a process."""
    _LOG.warning(
        "compiled loops cannot be kept: %s; NumPy is used, which is several times slower. Set NUMBA_CACHE_DIR to a "
        "folder that nobody else can write to, nor to any folder above it",
        reason,
    )


def _twin(*, use_compiled: bool | None) -> ModuleType | None:
    return None if use_compiled is False else compiled()


@functools.cache
def processor_features() -> frozenset[str]:
    """Instructions that compiled loops may use, by LLVM's names; none if numba compiles for another processor."""
    if compiled() is None:
        return frozenset()
    import llvmlite.binding  # type: ignore[import-untyped]  # ships no types
    from numba.core import config

    if getattr(config, "CPU_NAME", None) is not None or getattr(config, "CPU_FEATURES", None) is not None:
        return frozenset()
    return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)


class _BlockTables(NamedTuple):
    """How eight elements of some bits, which fill whole bytes, lie in them: for `compiled.pack_blocks` and its twin."""

    unpack: tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]
    """Which bytes hold each element, five at most; where it begins in the first; its mask."""
    pack: tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint8]]
    """Bits; of each element and the next, where whole bytes begin; which of those make up the eight."""


@functools.cache
def _block_tables(bits: int) -> _BlockTables | None:
    """Tables for elements of 8 bits and more, of which a byte meets two at most; None without AVX-512 VBMI."""
    if bits < 8 or "avx512vbmi" not in processor_features():
        return None
    start = np.arange(8) * bits
    held = (start[:, None] >> 3) + np.minimum(np.arange(8), 4)
    first = -start % 8
    fields = first[:, None] + 8 * np.arange(8)
    position = 8 * np.arange(bits)
    element = position // bits
    places = np.zeros(64, np.uint8)
    places[:bits] = 8 * element + (position - start[element] - first[element]) // 8
    return _BlockTables(
        unpack=(
            held.astype(np.uint8).reshape(-1),
            (start % 8).astype(np.uint64),
            np.full(8, (1 << bits) - 1, np.uint64),
        ),
        pack=(np.full(8, bits, np.uint64), fields.astype(np.uint8).reshape(-1), places),
    )


def pack(values: NDArray[np.uint32], bits: int, *, use_compiled: bool | None = None) -> NDArray[np.uint8]:
    """Pack (n,) elements below 2^bits without gaps, lowest bit first: uint8 (ceil(n * bits / 8),)."""
    if bits in (8, 16, 32):
        return values.astype(f"<u{bits // 8}").view(np.uint8)
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        return pack_numpy(values, bits)
    body = np.empty((values.size * bits + 7) // 8, np.uint8)
    tables = _block_tables(bits)
    done = twin.pack_blocks(values, bits, *tables.pack, body) if tables else 0
    rest = body[done * bits // 8 :]
    words = np.empty((rest.size + 3) // 4, np.uint32)
    twin.pack(values[done:], bits, words)
    rest[:] = words.view(np.uint8)[: rest.size]
    return body


def unpack(body: NDArray[np.uint8], count: int, bits: int, *, use_compiled: bool | None = None) -> NDArray[np.uint32]:
    """Read `count` elements from their packed form, exactly ceil(count * bits / 8) bytes: uint32 (count,)."""
    if bits in (8, 16, 32):
        return body.view(f"<u{bits // 8}").astype(np.uint32)
    twin = _twin(use_compiled=use_compiled)
    if twin is None:
        return unpack_numpy(body, count, bits)
    values = np.empty(count, np.uint32)
    tables = _block_tables(bits)
    done = twin.unpack_blocks(body, bits, *tables.unpack, values) if tables else 0
    rest = body[done * bits // 8 :]
    words = np.zeros((rest.size + 3) // 4 + 1, np.uint32)
    words.view(np.uint8)[: rest.size] = rest
    twin.unpack(words, bits, values[done:])
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


def split_digits(
    values: NDArray[np.uint32], digits: int, padding: Padding, *, use_compiled: bool | None = None
) -> NDArray[np.int8]:
    """Balanced base-256 digits: value = sum of digit_i * 256^i mod 256^digits, each digit in [-128, 127].

    Args:
        values: (channels, height, width), held mod 2^32.
        digits: how many, 1 to 4; more significant ones are left out.
        padding: zeros around each channel: top, left, bottom, right.
        use_compiled: see above.

    Returns: int8 (digits, channels, top + height + bottom, left + width + right), digit 0 the lowest.
    """
    top, left, bottom, right = padding
    channels, height, width = values.shape
    planes = np.zeros((digits, channels, top + height + bottom, left + width + right), np.int8)
    twin = _twin(use_compiled=use_compiled)
    if twin is not None:
        twin.split_digits(values, top, left, planes)
        return planes
    inside = planes[:, :, top : top + height, left : left + width]
    for digit, plane in enumerate(balanced_digits_numpy(values, digits)):
        inside[digit] = plane
    return planes


def balanced_digits_numpy(values: NDArray[np.uint32], digits: int) -> NDArray[np.int8]:
    """Balanced base-256 digits of any shape: int8 (digits, ...).

    Adding 128 to every digit makes them the plain bytes of value + 0x80808080; taking 128 off a byte flips its top bit.
    """
    bytes_of = (values + np.uint32(0x80808080)) ^ np.uint32(0x80808080)
    return np.stack([(bytes_of >> np.uint32(8 * digit)).astype(np.uint8).view(np.int8) for digit in range(digits)])


def windows_to_rows(
    planes: NDArray[np.int8], rows: NDArray[np.int8], *, kernel: Pair, stride: Pair, dilation: Pair, band: Band
) -> None:
    """Lay out the windows of a convolution as the right factor of a matrix product (im2col, channels first).

    Plain NumPy, tap by tap: its strided copies were measured as quick as the best compiled loop.

    Args:
        planes: (digits, channels, padded height, padded width).
        rows: filled by this; (digits, at least channels * kernel taps, at least outputs in the band). What lies behind
            the taps and outputs is left as it was.
        kernel: height and width.
        stride: down and across.
        dilation: down and across.
        band: first output row, one behind the last output row, and outputs in a row.
    """
    digits, channels = planes.shape[:2]
    first, last, width = band
    height, taps = last - first, kernel[0] * kernel[1]
    inside = rows[:, : channels * taps, : height * width].reshape(digits, channels, taps, height, width, copy=False)
    for tap in range(taps):
        top, left = first * stride[0] + tap // kernel[1] * dilation[0], tap % kernel[1] * dilation[1]
        inside[:, :, tap] = planes[:, :, top :: stride[0], left :: stride[1]][:, :, :height, :width]


def combine(
    products: NDArray[np.int32],
    bits: int,
    output: NDArray[np.uint32],
    *,
    columns: Pair,
    use_compiled: bool | None = None,
) -> None:
    """Set a range of columns to the sum of products[s] * 2^(8 s) mod 2^bits.

    Args:
        products: (digits, rows, columns), with at least the rows of `output` and the columns of the range.
        bits: ring of the result.
        output: uint32 (rows, columns).
        columns: first column to set, and one behind the last.
        use_compiled: see above.
    """
    mask = (1 << bits) - 1
    twin = _twin(use_compiled=use_compiled)
    if twin is not None:
        twin.combine(products, mask, output, *columns)
        return
    target = output[:, columns[0] : columns[1]]
    target[:] = 0
    for index, product in enumerate(products):
        target += product[: target.shape[0], : target.shape[1]].view(np.uint32) << np.uint32(8 * index)
    target &= np.uint32(mask)


def warm_up() -> None:
    """Compile every loop, or load it, now rather than in the middle of a session."""
    values = np.ones(2, np.uint32)
    sealed = values.copy()
    sealed.setflags(write=False)
    for elements in (values, sealed):
        unpack(pack(elements, 17), 2, 17)
    split_digits(values.reshape(2, 1, 1), 2, (0, 0, 0, 0))
    combine(np.zeros((2, 2, 2), np.int32), 17, np.zeros((2, 2), np.uint32), columns=(0, 2))
