"""From updates and counts to ring elements and back.

Updates are clipped to a public limit and rounded to a public grid, both by tensor, and summed mod 2^16 (or 2^32). What
rounding cuts off is kept by the hospital and added to its next update (error feedback, Seide et al. 2014; Karimireddy
et al. 2019). What clipping cuts off is dropped: the next local training starts from weights that lack it and finds it
again, so that adding it as well would count it twice. Counts and sums go beside, exactly, mod 2^64.

docs/secure-aggregation.md, "Numbers in the ring", has the formula, and why no sum leaves the ring.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log2, prod, sqrt
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.errors import ComputationFailed, ConfigurationError
from federated_learning.secure_aggregation.masking import UpdateArray
from federated_learning.secure_aggregation.terms import MAX_HOSPITALS

FloatArray = NDArray[np.float32]
Element = TypeVar("Element", bound=np.generic)
_CHUNK: Final = 1 << 15
_EXACT_RANGE: Final = (1 << 62) // MAX_HOSPITALS
HEADROOM: Final = 1.5
"""A limit is this many times what the last round's largest elements ask for."""
LARGEST: Final = "largest"
"""Name of the exact field in which the hospitals' largest elements are summed, one for each tensor."""
LARGEST_BITS: Final = 40
SMALLEST_LIMIT: Final = 1e-9


def compute_weight(examples: int) -> int:
    """The weight of a hospital's updates: its number of examples, rounded to a power of two.

    Parts of an update follow from no image (weight decay of what no gradient reaches), so that a sum without a hospital
    tells its weight. A power of two tells little more than how many binary digits its number of examples has.
    """
    return 1 << round(log2(examples))


@dataclass(frozen=True)
class ExactField:
    """A sum that must not be rounded: its shape, and how many binary digits after the point are kept (0 for counts)."""

    shape: tuple[int, ...]
    fractional_bits: int = 0


@dataclass(frozen=True, kw_only=True)
class VectorLayout:
    """Which tensors lie where in a RingVector: `update` by name and shape, `exact` by name, both in the given order."""

    update: Mapping[str, tuple[int, ...]]
    exact: Mapping[str, ExactField]
    ring_bits: Literal[16, 32] = 16

    def __post_init__(self) -> None:
        """Keep copies that nobody changes."""
        object.__setattr__(self, "update", MappingProxyType(dict(self.update)))
        object.__setattr__(self, "exact", MappingProxyType(dict(self.exact)))
        for name, field in self.exact.items():
            if not 0 <= field.fractional_bits <= 40:
                raise ConfigurationError(f"sum '{name}' keeps 0 to 40 binary digits, not {field.fractional_bits}")

    @cached_property
    def update_length(self) -> int:
        """Elements of the update part."""
        return sum(prod(shape) for shape in self.update.values())

    @cached_property
    def exact_length(self) -> int:
        """Elements of the exact part."""
        return sum(prod(field.shape) for field in self.exact.values())

    @property
    def largest(self) -> int:
        """M: the encoded value of an element at its limit when one hospital has all examples."""
        return (1 << (self.ring_bits - 1)) - 1 - MAX_HOSPITALS // 2

    def slices(self) -> dict[str, slice]:
        """Where each tensor lies in the update part."""
        found, start = {}, 0
        for name, shape in self.update.items():
            found[name] = slice(start, start + prod(shape))
            start += prod(shape)
        return found

    def split(self, flat: NDArray[Element]) -> dict[str, NDArray[Element]]:
        """The tensors of an update part, as views."""
        return {name: flat[where].reshape(self.update[name]) for name, where in self.slices().items()}

    def rounding_bound(self, limit: float, *, hospitals: int) -> float:
        """The largest error of an element of a decoded sum of so many hospitals, without clipping.

        Half a grid step for each hospital, and half a per cent more for the arithmetic of float32.
        """
        return 0.5025 * hospitals * limit / self.largest


@dataclass(frozen=True, eq=False, repr=False)
class EncodedUpdate:
    """`update`: what is masked and sent. `residual`: (update_length,) float32, for the hospital's next update.

    The hospital takes over the residual when its vector was in the sum, and not otherwise. `largest`: (tensors,)
    float64, the largest absolute value of each tensor, before clipping: it is summed beside, and the next limits follow
    from the sums.
    """

    update: UpdateArray
    residual: FloatArray
    largest: NDArray[np.float64]

    def __repr__(self) -> str:
        return f"EncodedUpdate(<{self.update.size} elements>)"


@dataclass(frozen=True, kw_only=True)
class UpdateEncoding:
    """Encodes one round's updates. Everything here is public and the same at all hospitals.

    limits: for each tensor, what an element is clipped to (absolute value, in units of the weights).
    weight_total: W, the weights of all hospitals of the training together.
    """

    layout: VectorLayout
    limits: Mapping[str, float]
    weight_total: int

    def __post_init__(self) -> None:
        """Refuse limits that do not fit the layout."""
        if set(self.limits) != set(self.layout.update):
            raise ConfigurationError("each tensor of the update needs one limit: the coordinator runs another network")
        if not all(SMALLEST_LIMIT <= limit < 1e30 for limit in self.limits.values()):
            raise ConfigurationError(f"limits of updates lie between {SMALLEST_LIMIT} and 1e30")
        if self.weight_total < 1:
            raise ConfigurationError("the weights of all hospitals together are positive")

    def encode(
        self,
        update: Mapping[str, FloatArray],
        *,
        hospital: str,
        weight: int,
        residual: FloatArray | None = None,
    ) -> EncodedUpdate:
        """Encode new minus global weights (float32, shapes of the layout) of a hospital with this weight.

        Raises ComputationFailed, naming hospital and tensor, for values that are not finite; ConfigurationError for
        other tensors than the layout's.
        """
        self.check(update, hospital=hospital, weight=weight)
        length = self.layout.update_length
        if residual is not None and (residual.shape != (length,) or residual.dtype != np.float32):
            raise ConfigurationError(f"hospital {hospital} kept the rest of another network's update: remove its file")
        encoded: UpdateArray = np.empty(length, np.uint16 if self.layout.ring_bits == 16 else np.uint32)
        left = np.empty(length, np.float32)
        largest = [
            self._encode_tensor(
                np.ravel(update[name]),
                None if residual is None else residual[where],
                encoded=encoded[where],
                left=left[where],
                limit=self.limits[name],
                weight=weight,
            )
            for name, where in self.layout.slices().items()
        ]
        return EncodedUpdate(encoded, left, np.array(largest, np.float64))

    def _encode_tensor(
        self,
        values: FloatArray,
        before: FloatArray | None,
        *,
        encoded: UpdateArray,
        left: FloatArray,
        limit: float,
        weight: int,
    ) -> float:
        """Fill `encoded` and `left`; the largest absolute value."""
        factor = weight / self.weight_total * self.layout.largest / limit
        # float32 holds every element of the small ring exactly; the large one needs float64.
        wide = np.float32 if self.layout.ring_bits == 16 else np.float64
        signed = encoded.view(np.int16 if self.layout.ring_bits == 16 else np.int32)
        buffers: NDArray[np.floating[Any]] = np.empty((2, min(_CHUNK, values.size)), wide)
        largest = 0.0
        for start in range(0, values.size, _CHUNK):
            piece = slice(start, start + _CHUNK)
            whole, grid = buffers[:, : values[piece].size]
            whole[:] = values[piece]
            if before is not None:
                whole += before[piece]
            here = float(np.abs(whole, out=grid).max())
            largest = max(largest, here)
            if here > limit:
                np.clip(whole, -limit, limit, out=whole)
            np.multiply(whole, wide(factor), out=grid)
            np.rint(grid, out=grid)
            signed[piece] = grid
            grid *= wide(1 / factor)
            np.subtract(whole, grid, out=left[piece], casting="same_kind")
        return largest

    def check(self, update: Mapping[str, FloatArray], *, hospital: str, weight: int) -> None:
        """Raise what `encode` raises for an update that it refuses."""
        if not 1 <= weight <= self.weight_total:
            raise ConfigurationError(
                f"hospital {hospital} has weight {weight}, of {self.weight_total} in the training: its data changed "
                "since the hospitals counted. Start the training again"
            )
        if {name: value.shape for name, value in update.items()} != dict(self.layout.update):
            raise ConfigurationError(
                f"hospital {hospital} has an update with other tensors or shapes than the training's network: use "
                "the same architecture, classes and channels"
            )
        for name, value in update.items():
            if value.dtype != np.float32:
                raise ConfigurationError(f"hospital {hospital}: tensor '{name}' is {value.dtype}, not float32")
            if not np.isfinite(value).all():
                raise ComputationFailed(
                    f"hospital {hospital}: the update of tensor '{name}' holds values that are not finite: local "
                    "training diverged. Lower the learning rate or look at its data; the round goes on without it"
                )

    def decode(self, total: UpdateArray) -> dict[str, FloatArray]:
        """The weighted mean of all hospitals' updates from the sum, in which missing ones count as zero."""
        signed = total.view(np.int16 if self.layout.ring_bits == 16 else np.int32)
        wide = np.float32 if self.layout.ring_bits == 16 else np.float64
        mean = {}
        for name, part in self.layout.split(signed).items():
            scaled: NDArray[np.floating[Any]] = part.astype(wide)
            scaled *= self.limits[name] / self.layout.largest
            mean[name] = scaled.astype(np.float32, copy=False)
        return mean


def encode_exact(
    layout: VectorLayout, values: Mapping[str, NDArray[np.int64] | NDArray[np.float64]], *, hospital: str
) -> NDArray[np.uint64]:
    """Encode counts and sums (int64 as they are, float64 rounded to the field's binary digits).

    Raises ComputationFailed, naming hospital and sum, for values that are not finite or could overflow a sum of 64.
    """
    if {name: value.shape for name, value in values.items()} != {name: f.shape for name, f in layout.exact.items()}:
        raise ConfigurationError(f"hospital {hospital} has other counts and sums than the training: same settings?")
    parts = []
    for name, field in layout.exact.items():
        value = np.ravel(values[name])
        room = _EXACT_RANGE >> field.fractional_bits
        if not np.isfinite(value).all() or (value.size and float(np.abs(value.astype(np.float64)).max()) >= room):
            raise ComputationFailed(
                f"hospital {hospital}: sum '{name}' is not finite or too large to be added up: look at its data"
            )
        if value.dtype.kind in "iu":
            scaled = value.astype(np.int64) << field.fractional_bits
        else:
            scaled = np.rint(np.ldexp(value, field.fractional_bits)).astype(np.int64)
        parts.append(scaled.view(np.uint64))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def decode_exact(layout: VectorLayout, total: NDArray[np.uint64]) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
    """The sums: int64 if a field has no fractional bits, float64 otherwise."""
    signed, start = total.view(np.int64), 0
    sums: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {}
    for name, field in layout.exact.items():
        part = signed[start : start + prod(field.shape)].reshape(field.shape)
        sums[name] = part if field.fractional_bits == 0 else np.ldexp(part.astype(np.float64), -field.fractional_bits)
        start += prod(field.shape)
    return sums


def compute_norm(update: Mapping[str, FloatArray]) -> float:
    """Euclidean, over all tensors together."""
    return sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in update.values()))


def first_limits(weights: Mapping[str, FloatArray], *, floor: float = 0.25) -> dict[str, float]:
    """Limits for the first round, from the public initial weights: each tensor's largest element, or `floor`.

    Generous on purpose: clipping slows the first rounds, a coarse grid in one round costs little.
    """
    return {name: max(float(np.abs(value).max(initial=0.0)), floor) for name, value in weights.items()}


def largest_field(update: Mapping[str, tuple[int, ...]]) -> dict[str, ExactField]:
    """The exact field for `EncodedUpdate.largest`, to be put into a layout with these tensors."""
    return {LARGEST: ExactField((len(update),), LARGEST_BITS)}


def next_limits(limits: Mapping[str, float], largest: NDArray[np.float64], *, hospitals: int) -> dict[str, float]:
    """Limits for the next round, from the sums of the hospitals' largest elements (in the order of `limits`).

    Up to four hospitals, none is clipped unless it moves half as far again as all of them together did; more hospitals
    share four times their mean. Not from the mean update: if hospitals pull in different directions it vanishes, and
    single updates do not. Limits rise at once and fall to no less than half in a round.
    """
    if largest.shape != (len(limits),):
        raise ConfigurationError("the sums of largest elements are of another network than the limits")
    wanted = HEADROOM * min(1.0, 4 / hospitals) * largest
    return {
        name: float(min(max(want, limit / 2, SMALLEST_LIMIT), 1e29))
        for (name, limit), want in zip(limits.items(), wanted, strict=True)
    }
