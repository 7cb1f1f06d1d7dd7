"""A role's half of a value whose rows may come one after another, from the top of the picture to its bottom.

P1 does not wait for the whole answer to a layer before it begins the next one. So what follows from an answer row by
row is not computed at once: it says which rows it needs, and is computed when a layer opens the part that they are in.
For every other role all rows are there from the start, and each step is computed whole.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.draws import RingElements

Element = TypeVar("Element", np.uint32, np.int64)
Extend: TypeAlias = Callable[[int, int], int]
"""(how many rows there are, how many are wanted at least) -> how many there are now."""


class Rows:
    """(channels, height, width), whose rows are those of the picture, or flat, each element a row of its own."""

    def __init__(self, array: RingElements, extend: Extend | None = None) -> None:
        """All rows of `array`, or those that `extend` fills in when they are wanted."""
        self._array = array
        self._extend = extend
        self._ready = 0 if extend is not None else self.count

    def __repr__(self) -> str:
        """Show no element."""
        return f"Rows({self._ready} of {self.count})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of it."""
        return self._array.shape

    @property
    def count(self) -> int:
        """Rows, those to come included."""
        return len(self._array[0]) if _axis(self._array) else len(self._array)

    @property
    def are_there(self) -> bool:
        """Whether nothing is to come."""
        return self._extend is None

    def require(self, stop: int) -> RingElements:
        """The array, in which rows before `stop` are filled in."""
        if self._extend is not None and stop > self._ready:
            self._ready = self._extend(self._ready, stop)
            if self._ready == self.count:
                self._extend = None  # and what it was computed from
        return self._array

    def take(self, start: int, stop: int) -> RingElements:
        """Rows from `start` up to `stop`, as a view."""
        return select(self.require(stop), start, stop)

    def whole(self) -> RingElements:
        """All of it."""
        return self.require(self.count)


def select(array: RingElements, start: int, stop: int) -> RingElements:
    """Some rows of an array, as a view."""
    return array[:, start:stop] if _axis(array) else array[start:stop]


def row_by_row(step: Callable[[list[RingElements]], RingElements], sources: Sequence[Rows]) -> Rows:
    """A step whose result has in each row what follows from the same row of its sources."""
    if all(source.are_there for source in sources) or len(sources[0].shape) != 3:
        return Rows(step([source.whole() for source in sources]))
    channels, _, width = step([source.take(0, 0) for source in sources]).shape

    def compute(start: int, stop: int) -> RingElements:
        return step([source.take(start, stop) for source in sources])

    return computed((channels, sources[0].count, width), compute)


def computed(shape: tuple[int, ...], compute: Callable[[int, int], RingElements]) -> Rows:
    """Rows that `compute(start, stop)` gives when they are wanted."""
    array = np.empty(shape, np.uint32)

    def extend(ready: int, stop: int) -> int:
        select(array, ready, stop)[:] = compute(ready, stop)
        return stop

    return Rows(array, extend)


def row_after_row(array: RingElements) -> RingElements:
    """Flat, in the order in which rows come: a row of each channel, then the next row."""
    return np.ascontiguousarray(array.swapaxes(0, 1)).reshape(-1) if _axis(array) else array.reshape(-1)


def from_row_after_row(flat: NDArray[Element], shape: tuple[int, ...]) -> NDArray[Element]:
    """The array of `shape` whose `row_after_row` is `flat`, as a view."""
    if len(shape) != 3:
        return flat.reshape(shape)
    channels, height, width = shape
    return flat.reshape(height, channels, width).swapaxes(0, 1)


def _axis(array: RingElements) -> int:
    return 1 if array.ndim == 3 else 0
