"""Ring elements and bits on their way to a wire: reduced by construction, packed to the last bit.

The wire rule of the masked protocol: whatever leaves a party is reduced to the ring of its tensor, or its upper bits
would tell what the arithmetic did (an uncut output share would give away row sums of weights). Arithmetic runs mod 2^32
in uint32 arrays, where multiples of 2^k wrap away. A `Reduced` is made by `reduce_to_ring` alone, and `pack` takes
nothing else, so a value that was not cut has no way to the wire.

Packed form: element i fills the bits i*k to (i+1)*k - 1 of the body, counted from the lowest bit of the first byte; the
last byte is filled up with zeros. A `Bits` is packed the same way with k = 1. For k = 8, 16, 24 and 32 this is the
plain little-endian layout; for 17 to 31 bits it saves up to a third of what whole bytes would take
(docs/performance.md has the times).
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels import elementwise
from secure_computation.wire import violation

MAX_RING_BITS: Final = 32

Shape: TypeAlias = tuple[int, ...]
Buffer: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]
"""A frame's body; as an array, one-dimensional uint8."""

_MAKER: Final = object()


class _Reduced:
    """A read-only array of elements below 2^bits, shown to nobody by accident."""

    __slots__ = ("bits", "values")

    bits: int

    def __init__(self, values: NDArray[Any], bits: int, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError(f"{type(self).__name__} is made by reduce_to_ring, reduce_to_bits or an unpack function")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "bits", bits)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} does not change")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bits={self.bits}, shape={self.shape})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("shares are not serialised; pack them into a frame")

    @property
    def shape(self) -> Shape:
        """Shape of the array."""
        shape: Shape = self.values.shape  # type: ignore[attr-defined]  # an annotation here would shadow the subclasses'
        return shape


class Reduced(_Reduced):
    """Elements of Z_2^bits: `values` is a read-only uint32 array with every element below 2^bits."""

    __slots__ = ()
    values: NDArray[np.uint32]


class Bits(_Reduced):
    """Single bits: `values` is a read-only uint8 array of 0 and 1."""

    __slots__ = ()
    values: NDArray[np.uint8]


def reduce_to_ring(values: NDArray[Any], bits: int) -> Reduced:
    """Cut integers to Z_2^bits.

    Args:
        values: any shape; uint32 or int32, held mod 2^32 (or 64-bit integers, whose low bits count).
        bits: size of the ring, 1 to 32.

    Returns: a copy, so that later arithmetic on `values` does not reach it.
    Raises: ValueError for another dtype or size of ring.
    """
    _check_bits(bits)
    if values.dtype == np.int32:
        values = values.view(np.uint32)
    elif values.dtype in (np.dtype(np.int64), np.dtype(np.uint64)):
        values = values.astype(np.uint32)
    elif values.dtype != np.uint32:
        raise ValueError(f"ring elements are integers of 32 or 64 bits, not {values.dtype}")
    return Reduced(np.asarray(values & _mask(bits)), bits, _MAKER)


def reduce_to_bits(values: NDArray[np.uint8]) -> Bits:
    """Take the lowest bit of each uint8. Raises ValueError for another dtype."""
    if values.dtype != np.uint8:
        raise ValueError(f"bits are held in uint8, not {values.dtype}")
    return Bits(np.asarray(values & np.uint8(1)), 1, _MAKER)


def cut_to_ring(values: NDArray[np.uint32], bits: int) -> Reduced:
    """As `reduce_to_ring`, without a copy: `values` itself is cut, and the caller gives it up."""
    _check_bits(bits)
    if values.dtype != np.uint32:
        raise ValueError(f"ring elements to cut in place are uint32, not {values.dtype}")
    values &= _mask(bits)
    return Reduced(values, bits, _MAKER)


def cut_to_bits(values: NDArray[np.uint8]) -> tuple[Bits, ...]:
    """As `reduce_to_bits` for each row of (arrays, count), without a copy: the caller gives `values` up."""
    if values.dtype != np.uint8:
        raise ValueError(f"bits are held in uint8, not {values.dtype}")
    values &= np.uint8(1)
    return tuple(Bits(row, 1, _MAKER) for row in values)


def signed(values: Reduced) -> NDArray[np.int32]:
    """Representatives in [-2^(bits-1), 2^(bits-1)), as int32 of the same shape."""
    shift = MAX_RING_BITS - values.bits
    return np.asarray((values.values << np.uint32(shift)).view(np.int32) >> np.int32(shift))


def packed_bytes(shape: Shape, bits: int) -> int:
    """Length of the packed form of an array of `shape` in Z_2^bits (bits = 1 for `Bits`)."""
    return (math.prod(shape) * bits + 7) // 8


def pack(values: Reduced) -> NDArray[np.uint8]:
    """Packed form for a wire: uint8 of shape (packed_bytes(shape, bits),)."""
    return elementwise.pack(values.values.reshape(-1), values.bits)


def unpack(buffer: Buffer, shape: Shape, bits: int, *, peer: str = "the peer", step: str = "unpack") -> Reduced:
    """Read the packed form of an array of `shape` in Z_2^bits.

    Raises: PeerViolation, naming `peer` and `step`, for a buffer of another length or bits set behind the last element.
    """
    _check_bits(bits)
    body = _checked_body(buffer, shape, bits, peer=peer, step=step)
    return Reduced(elementwise.unpack(body, math.prod(shape), bits).reshape(shape), bits, _MAKER)


def pack_bits(values: Bits) -> NDArray[np.uint8]:
    """Packed form for a wire, eight bits in a byte: uint8 of shape (packed_bytes(shape, 1),)."""
    return np.packbits(values.values.reshape(-1), bitorder="little")


def unpack_bits(buffer: Buffer, shape: Shape, *, peer: str = "the peer", step: str = "unpack") -> Bits:
    """Read the packed form of bits of `shape`. Raises: as `unpack`."""
    body = _checked_body(buffer, shape, 1, peer=peer, step=step)
    return Bits(np.unpackbits(body, count=math.prod(shape), bitorder="little").reshape(shape), 1, _MAKER)


def _checked_body(buffer: Buffer, shape: Shape, bits: int, *, peer: str, step: str) -> NDArray[np.uint8]:
    body = np.ascontiguousarray(buffer) if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.uint8)
    wanted = packed_bytes(shape, bits)
    if body.shape != (wanted,) or body.dtype != np.uint8:
        raise violation(f"expected {wanted} packed bytes, got {body.nbytes}", peer=peer, step=step)
    used = math.prod(shape) * bits % 8
    if used and int(body[-1]) >> used:
        raise violation("bits are set behind the last packed element", peer=peer, step=step)
    return body


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_RING_BITS:
        raise ValueError(f"a ring has 1 to {MAX_RING_BITS} bits, not {bits}")


def _mask(bits: int) -> np.uint32:
    return np.uint32((1 << bits) - 1)
