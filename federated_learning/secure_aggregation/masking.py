"""Vectors of ring elements, and adding and removing the masks that hide them."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from federated_learning.secure_aggregation.terms import RoundTerms
from secure_computation.randomness import Seed

UpdateArray = NDArray[np.unsignedinteger[Any]]
"""uint16 or uint32."""
_ITEM: Final = "secure-aggregation"
_CHUNK_BYTES: Final = 1 << 18
"""Masks are made and added in pieces that stay in the processor's cache."""


@dataclass(frozen=True, eq=False, repr=False)
class RingVector:
    """What one hospital adds to the sum, or the sum itself.

    update: shape (update_length,), mod 2^16 (uint16) or 2^32 (uint32): the encoded weights.
    exact: shape (exact_length,), mod 2^64 (uint64): counts and sums that must not be rounded.
    """

    update: UpdateArray
    exact: NDArray[np.uint64]

    def __repr__(self) -> str:
        return f"RingVector(<{self.update.size} and {self.exact.size} elements>)"

    @classmethod
    def zeros(cls, terms: RoundTerms) -> Self:
        """The empty sum."""
        exact = np.zeros(terms.exact_length, np.uint64)
        return cls(np.zeros(terms.update_length, np.uint16 if terms.ring_bits == 16 else np.uint32), exact)

    @classmethod
    def over(cls, terms: RoundTerms, body: bytearray | memoryview) -> Self:
        """A view of the body of a masked message (of the right length), without a copy."""
        split = 8 * terms.exact_length
        exact: NDArray[np.uint64] = np.frombuffer(body[:split], dtype="<u8")
        return cls(np.frombuffer(body[split:], dtype="<u2" if terms.ring_bits == 16 else "<u4"), exact)

    def digest(self) -> str:
        """SHA-256, hexadecimal: of a hospital's own vector, for its own memory only."""
        return hashlib.sha256(self.exact.tobytes() + self.update.tobytes()).hexdigest()

    def add(self, other: "RingVector") -> None:
        """Add in place, each part in its ring."""
        np.add(self.update, other.update, out=self.update)
        np.add(self.exact, other.exact, out=self.exact)

    def check(self, terms: RoundTerms, *, name: str) -> None:
        """Refuse a vector of another model. `name` is the hospital that holds it."""
        if (
            self.update.shape != (terms.update_length,)
            or self.exact.shape != (terms.exact_length,)
            or self.update.dtype != (np.uint16 if terms.ring_bits == 16 else np.uint32)
            or self.exact.dtype != np.uint64
        ):
            raise ConfigurationError(
                f"hospital {name} has a vector of {self.update.size} elements of {self.update.dtype} and "
                f"{self.exact.size} of {self.exact.dtype} for {terms}, which sums {terms.update_length} mod "
                f"2^{terms.ring_bits} and {terms.exact_length} mod 2^64: use the training's network and settings"
            )


def apply_mask(vector: RingVector, seed: Seed, *, add: bool) -> None:
    """Add (or subtract) the stream of `seed` to `vector` in place: uniform elements of each part's ring."""
    operation = np.add if add else np.subtract
    for label, part in (("update", vector.update), ("exact", vector.exact)):
        stream = seed.stream(item=_ITEM, step=0, label=label)
        step = _CHUNK_BYTES // part.itemsize
        for start in range(0, part.size, step):
            piece = part[start : start + step]
            mask = stream.uint8(piece.nbytes).view(part.dtype.newbyteorder("<"))
            operation(piece, mask, out=piece)
