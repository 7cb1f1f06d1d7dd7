"""Messages of the masked protocols: words, bits and ring elements of one layer, in one frame body.

Each protocol declares the layout of its three messages (D -> P1 offline, P1 -> P0, P0 -> P1 online); sizes follow from
it, so what a layer costs is known beforehand and a message of any other length is refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.draws import Words
from secure_computation.ring import Bits, Reduced, pack, packed_bytes, reduce_to_bits, unpack, unpack_bits
from secure_computation.wire import violation


@dataclass(frozen=True)
class Bundle:
    """Arrays of `count` elements each, in the order of their layout. Shows nothing of them."""

    words: tuple[Words, ...] = ()
    """Tables of bits, one word for each element. Uniform as they are: a pad covers every bit."""
    bits: tuple[Bits, ...] = ()
    rings: tuple[Reduced, ...] = ()

    def __repr__(self) -> str:
        """Say how many arrays there are."""
        return f"Bundle({len(self.words)} words, {len(self.bits)} bits, {len(self.rings)} rings)"


@dataclass(frozen=True, kw_only=True)
class BundleLayout:
    """Which arrays a message holds. Public."""

    count: int
    word_types: tuple[np.dtype[np.unsignedinteger], ...] = ()
    bit_arrays: int = 0
    ring_bits: tuple[int, ...] = ()

    @property
    def body_bytes(self) -> int:
        """Length of the message's body."""
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        # Each table starts at a multiple of 8 bytes, so that words can be read where they lie.
        words = [-(-self.count * word.itemsize // 8) * 8 for word in self.word_types]
        bits = [packed_bytes((self.bit_arrays, self.count), 1)]
        return [*words, *bits, *(packed_bytes((self.count,), ring) for ring in self.ring_bits)]

    def pack(self, bundle: Bundle) -> NDArray[np.uint8]:
        """The message's body, uint8 of shape (body_bytes,). Raises ValueError for a bundle of another layout."""
        if (
            tuple(word.dtype for word in bundle.words) != self.word_types
            or len(bundle.bits) != self.bit_arrays
            or tuple(ring.bits for ring in bundle.rings) != self.ring_bits
        ):
            raise ValueError(f"{bundle} does not have the declared layout")
        body = np.zeros(self.body_bytes, np.uint8)
        parts = [word.view(np.uint8) for word in bundle.words]
        parts.append(_pack_bit_arrays(bundle.bits))
        parts += [pack(ring) for ring in bundle.rings]
        offset = 0
        for part, size in zip(parts, self._sizes(), strict=True):
            body[offset : offset + part.size] = part
            offset += size
        return body

    def unpack(self, body: NDArray[np.uint8], *, peer: str, step: str) -> Bundle:
        """Read a message's body. Raises PeerViolation, naming peer and step, for one of another length or padding."""
        if body.size != self.body_bytes:
            raise violation(f"expected {self.body_bytes} bytes, got {body.size}", peer=peer, step=step)
        cuts = np.cumsum(self._sizes())[:-1]
        parts = np.split(body, cuts)
        words = len(self.word_types)
        rings = zip(parts[words + 1 :], self.ring_bits, strict=True)
        return Bundle(
            words=tuple(
                part.view(word)[: self.count] for part, word in zip(parts[:words], self.word_types, strict=True)
            ),
            bits=_unpack_bit_arrays(parts[words], self.bit_arrays, self.count, peer=peer, step=step),
            rings=tuple(unpack(part, (self.count,), ring, peer=peer, step=step) for part, ring in rings),
        )


def _pack_bit_arrays(arrays: tuple[Bits, ...]) -> NDArray[np.uint8]:
    if not arrays:
        return np.empty(0, np.uint8)
    return np.packbits(np.concatenate([array.values for array in arrays]), bitorder="little")


def _unpack_bit_arrays(part: NDArray[np.uint8], arrays: int, count: int, *, peer: str, step: str) -> tuple[Bits, ...]:
    if arrays == 0:
        return ()
    together = unpack_bits(part, (arrays, count), peer=peer, step=step).values
    return tuple(reduce_to_bits(together[index]) for index in range(arrays))
