"""What a party draws from its dealt seed in one step of one item. D draws the same, so it need not be sent."""

import numpy as np
from numpy.typing import NDArray

from secure_computation.randomness import RandomStream, Seed

RingElements = NDArray[np.uint32]
BitArray = NDArray[np.uint8]
"""0 or 1 in each element."""
Words = NDArray[np.unsignedinteger]
"""One small table of bits in each element: uint8, uint16, uint32 or uint64."""


class Draws:
    """Streams `G(seed, item, step, label)`. Each label is drawn once, by the rule that a stream is never repeated."""

    __slots__ = ("_item", "_seed", "_step", "_used")

    def __init__(self, seed: Seed, *, item: str, step: int) -> None:
        """Bind a seed to one step of one item of material."""
        self._seed = seed
        self._item = item
        self._step = step
        self._used: set[str] = set()

    @property
    def step(self) -> int:
        """The step that these belong to."""
        return self._step

    def __repr__(self) -> str:
        """Show nothing but where this is."""
        return f"Draws(step {self._step})"

    def in_blocks(self) -> "BlockDraws":
        """Draw the streams that are still untouched, block after block of a layer's elements."""
        return BlockDraws(self)

    def open_stream(self, label: str) -> RandomStream:
        """Open a stream for good."""
        if label in self._used:
            raise RuntimeError(f"the stream '{label}' of step {self._step} was drawn before; a stream is used once")
        self._used.add(label)
        return self._seed.stream(item=self._item, step=self._step, label=label)

    def _take(self, label: str, byte_count: int) -> NDArray[np.uint8]:
        return self.open_stream(label).uint8(byte_count)

    def ring(self, label: str, shape: int | tuple[int, ...], *, bits: int) -> RingElements:
        """Uniform elements of the ring of `bits` bits."""
        count = int(np.prod(shape))
        elements = self._take(label, 4 * count).view("<u4").reshape(shape)
        return elements & np.uint32((1 << bits) - 1) if bits < 32 else elements

    def bits(self, label: str, count: int) -> BitArray:
        """Uniform bits."""
        return np.unpackbits(self._take(label, (count + 7) // 8), count=count)

    def words(self, label: str, count: int, dtype: np.dtype[np.unsignedinteger]) -> Words:
        """Uniform words."""
        return self._take(label, count * dtype.itemsize).view(dtype.newbyteorder("<"))


class BlockDraws(Draws):
    """Draws that read each stream on where the last call ended, so that a layer is worked through in blocks.

    Equal to drawing the whole layer at once if every block but the last has a multiple of 8 elements.
    """

    __slots__ = ("_expanded", "_streams", "_whole")

    def __init__(self, whole: Draws) -> None:
        """Share the record of used streams with `whole`."""
        self._whole = whole
        self._step = whole.step
        self._streams: dict[str, RandomStream] = {}
        self._expanded: dict[str, NDArray[np.uint8]] = {}

    def in_blocks(self) -> "BlockDraws":
        """These are."""
        return self

    def without_streams(self) -> "BlockDraws":
        """The same without what is open or was drawn ahead, for whoever draws no more: it is not drawn again."""
        return BlockDraws(self._whole)

    def open_stream(self, label: str) -> RandomStream:
        """Open a stream for good."""
        return self._whole.open_stream(label)

    def expand(self, label: str, byte_count: int) -> None:
        """Draw the first bytes of a stream ahead, while there is nothing else to do."""
        self._expanded[label] = self._stream(label).uint8(byte_count)

    def _stream(self, label: str) -> RandomStream:
        if label not in self._streams:
            self._streams[label] = self.open_stream(label)
        return self._streams[label]

    def _take(self, label: str, byte_count: int) -> NDArray[np.uint8]:
        ahead = self._expanded.get(label)
        if ahead is None:
            return self._stream(label).uint8(byte_count)
        if ahead.size < byte_count:
            raise RuntimeError(f"the stream '{label}' of step {self._step} was drawn ahead too short")
        self._expanded[label] = ahead[byte_count:]
        return ahead[:byte_count]
