"""Messages of the masked protocols: words, bits and ring elements of one layer, in one frame body.

Each protocol declares the layout of its three messages (D -> P1 offline, P1 -> P0, P0 -> P1 online); sizes follow from
it, so what a layer costs is known beforehand and a message of any other length is refused.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.draws import Words
from secure_computation.ring import Bits, Reduced, cut_to_bits, pack, packed_bytes, unpack, unpack_bits
from secure_computation.wire import violation


@dataclass(frozen=True)
class Bundle:
    """Arrays of `count` elements each, in the order of their layout. Shows nothing of them."""

    words: tuple[Words, ...] = ()
    """Tables of bits, one word for each element. Uniform as they are: a pad covers every bit."""
    bits: tuple[Bits, ...] = ()
    rings: tuple[Reduced, ...] = ()
    body: NDArray[np.uint8] | None = field(default=None, compare=False)
    """The message's body, where the words lie in it already (see `BundleLayout.room`)."""

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

    @cached_property
    def body_bytes(self) -> int:
        """Length of the message's body."""
        return sum(self._sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        # Each table starts at a multiple of 8 bytes, so that words can be read where they lie.
        words = [-(-self.count * word.itemsize // 8) * 8 for word in self.word_types]
        bits = [packed_bytes((self.bit_arrays, self.count), 1)]
        return [*words, *bits, *(packed_bytes((self.count,), ring) for ring in self.ring_bits)]

    def room(self) -> tuple[NDArray[np.uint8], tuple[Words, ...]]:
        """An empty body, and the place of each array of words in it: large tables are written where they are sent."""
        body = np.zeros(self.body_bytes, np.uint8)
        return body, self._words_in(body)

    def _words_in(self, body: NDArray[np.uint8]) -> tuple[Words, ...]:
        offsets = np.cumsum([0, *self._sizes])
        return tuple(
            body[offset : offset + self.count * word.itemsize].view(word)
            for offset, word in zip(offsets, self.word_types, strict=False)
        )

    def pack(self, bundle: Bundle) -> NDArray[np.uint8]:
        """The message's body, uint8 of shape (body_bytes,). Raises ValueError for a bundle of another layout."""
        if (
            tuple(word.dtype for word in bundle.words) != self.word_types
            or len(bundle.bits) != self.bit_arrays
            or tuple(ring.bits for ring in bundle.rings) != self.ring_bits
        ):
            raise ValueError(f"{bundle} does not have the declared layout")
        body, words = (bundle.body, ()) if bundle.body is not None else self.room()
        for place, word in zip(words, bundle.words, strict=bool(words)):
            place[:] = word
        sizes = self._sizes
        offset = sum(sizes[: len(self.word_types)])
        parts = [*_pack_bit_arrays(bundle.bits), *(pack(ring) for ring in bundle.rings)]
        for part in parts:
            body[offset : offset + part.size] = part
            offset += part.size
        return body

    def clear_filling(self, body: NDArray[np.uint8]) -> None:
        """Make a message of any bytes, in place: the bits behind the last element of an array are zero.

        For a layout without words.
        """
        if self.word_types:
            raise ValueError("a message with words is not made of any bytes")
        end = 0
        for width, size in zip((self.bit_arrays, *self.ring_bits), self._sizes, strict=True):
            end += size
            if used := width * self.count % 8:
                body[end - 1] &= (1 << used) - 1

    def unpack(self, body: NDArray[np.uint8], *, peer: str, step: str) -> Bundle:
        """Read a message's body. Raises PeerViolation, naming peer and step, for one of another length or padding."""
        if body.size != self.body_bytes:
            raise violation(f"expected {self.body_bytes} bytes, got {body.size}", peer=peer, step=step)
        parts = np.split(body, np.cumsum(self._sizes)[:-1])
        tables, parts = parts[: len(self.word_types)], parts[len(self.word_types) :]
        for table, word in zip(tables, self.word_types, strict=True):
            if table[self.count * word.itemsize :].any():
                raise violation("bytes are set behind the last table", peer=peer, step=step)
        rings = zip(parts[1:], self.ring_bits, strict=True)
        return Bundle(
            words=tuple(word.copy() for word in self._words_in(body)),  # or they would keep all of the body
            bits=_unpack_bit_arrays(parts[0], self.bit_arrays, self.count, peer=peer, step=step),
            rings=tuple(unpack(part, (self.count,), ring, peer=peer, step=step) for part, ring in rings),
        )


def _pack_bit_arrays(arrays: tuple[Bits, ...]) -> list[NDArray[np.uint8]]:
    if not arrays:
        return []
    values = [array.values for array in arrays]
    if values[0].size % 8:  # an array ends inside a byte, where the next one begins
        values = [np.concatenate(values)]
    return [np.packbits(array, bitorder="little") for array in values]


def _unpack_bit_arrays(part: NDArray[np.uint8], arrays: int, count: int, *, peer: str, step: str) -> tuple[Bits, ...]:
    if arrays == 0:
        return ()
    if count % 8 == 0:
        rows = part.reshape(arrays, count // 8)
        return tuple(unpack_bits(row, (count,), peer=peer, step=step) for row in rows)
    return cut_to_bits(np.array(unpack_bits(part, (arrays, count), peer=peer, step=step).values))
