"""One item of a modality or VOI LUT sequence (PS3.3 C.11.1.1 and C.11.2.1.1), read as vendors write them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging.dicom.tags import content, numbers

_WORDS = 1 << 16
_FEWEST_BITS, _MOST_BITS = 8, 16


@dataclass(frozen=True, kw_only=True, eq=False)
class LookupTable:
    """Entries, and what its descriptor says of them."""

    entries: NDArray[np.float32] = field(repr=False)
    first: int
    """The value that is mapped to the first entry, as 16 bits without a sign: see `look_up`."""
    declared_bits: int

    @property
    def used_bits(self) -> int:
        """The depth of the entries that are there: what the largest needs, and 8 at least."""
        return max(int(self.entries.max()).bit_length(), _FEWEST_BITS)

    def look_up(self, values: NDArray[np.integer] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Values through the table; those outside take the nearest end."""
        first = self._first_of(int(np.rint(values.min())), int(np.rint(values.max())), len(self.entries))
        index = np.rint(values).astype(np.int64) - first
        return self.entries[np.clip(index, 0, len(self.entries) - 1, out=index)]

    def _first_of(self, smallest: int, largest: int, entries: int) -> int:
        """The first mapped value with its sign, which files write under either VR: where the table meets the values.

        Where it would with and without a sign, the same; where it would with neither, the nearer one.
        """
        if self.first < _WORDS >> 1:
            return self.first
        negative = self.first - _WORDS

        def common(first: int) -> int:
            return min(largest, first + entries - 1) - max(smallest, first)

        if common(negative) == common(self.first):
            return negative if smallest < 0 else self.first
        return max(negative, self.first, key=common)


def read_lookup_table(item: Dataset) -> LookupTable | None:
    """A table of 8 to 16 bits; None where its descriptor or its data make none."""
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or any(value is None or value != int(value) for value in descriptor):
        return None
    count, first, bits = (int(value or 0) for value in descriptor)
    count = count % _WORDS or _WORDS
    entries = _entries(item, count)
    if entries is None:
        return None
    return LookupTable(entries=entries.astype(np.float32), first=first % _WORDS, declared_bits=bits)


def is_empty(item: Dataset) -> bool:
    """Whether an item has tags without a descriptor or entries in them: some programs write it for no table."""
    return "LUTDescriptor" in item and not numbers(item, "LUTDescriptor") and not content(item, "LUTData")[0]


def is_depth(bits: int) -> bool:
    """Whether a descriptor may name this depth."""
    return _FEWEST_BITS <= bits <= _MOST_BITS


def _entries(item: Dataset, count: int) -> NDArray[np.unsignedinteger] | None:
    """The entries: words, or bytes packed two to a word, the first in the lower half."""
    data, little_endian = content(item, "LUTData")
    words = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if little_endian else ">u2")
    if len(words) >= count:
        return words[:count]
    if len(data) in (count, count + 1):
        packed = words.astype("<u2").view(np.uint8)
        return packed[:count] if len(packed) >= count else np.frombuffer(data, np.uint8)
    return None
