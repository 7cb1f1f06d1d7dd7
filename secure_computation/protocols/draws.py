"""What a party draws from its dealt seed in one step of one item. D draws the same, so it need not be sent."""

import numpy as np
from numpy.typing import NDArray

from secure_computation.randomness import Seed

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

    def __repr__(self) -> str:
        """Show nothing but where this is."""
        return f"Draws(step {self._step})"

    def _take(self, label: str, byte_count: int) -> NDArray[np.uint8]:
        if label in self._used:
            raise RuntimeError(f"the stream '{label}' of step {self._step} was drawn before; a stream is used once")
        self._used.add(label)
        return self._seed.stream(item=self._item, step=self._step, label=label).uint8(byte_count)

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
