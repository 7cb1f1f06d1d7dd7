"""Steps to be: what the lowering knows of a step before its scales, rings and layouts are chosen."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Protocol

from contract.errors import ModelFileError
from secure_computation.engines.masked.lowering.calibration import RealRange
from secure_computation.engines.masked.lowering.scales import common_scale
from secure_computation.network import (
    Activation,
    AnyShape,
    AveragePool,
    Clip,
    GlobalAveragePool,
    MaxPool,
    Network,
    Operation,
    Pad,
    Padding,
    Pair,
    Relu,
    Shape,
    Softmax,
)

LARGEST_FACTOR: Final = 1 << 20
"""By which values are multiplied to meet at one scale."""
_FINER_BESIDE_CRYPTEN: Final = 3
_MOST_ACTIVATION_BITS: Final = 13
"""Products have 32 bits: still finer activations would take bits from the weights, and make the error larger."""
_CRYPTEN_SHARE: Final = 0.01
"""From this share of CrypTen's elements among all that are not linear, its traffic exceeds that of the others."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How finely to compute. More bits: smaller error, wider rings, more traffic."""

    activation_bits: int = 10
    """Bits, without sign, of the largest activation over the calibration images, in the layer with most elements."""
    small_layer_bits: int = 3
    """Up to so many more in smaller layers: they cost less."""
    weight_bits: int = 11
    """Bits, without sign, of the largest weight of each layer, at most."""
    guard_bits: int = 0
    """Weights get no more bits than to keep their rounding this far below that of the activations."""
    headroom_bits: int = 2
    """By how many bits an image may exceed the calibration before a value leaves its ring."""

    def finer(self, bits: int) -> "Precision":
        """More bits of everything; the activations of no layer go beyond _MOST_ACTIVATION_BITS."""
        activation_bits = max(self.activation_bits, min(self.activation_bits + bits, _MOST_ACTIVATION_BITS))
        return Precision(
            activation_bits=activation_bits,
            small_layer_bits=max(0, min(self.small_layer_bits, _MOST_ACTIVATION_BITS - activation_bits)),
            weight_bits=self.weight_bits + bits,
            guard_bits=self.guard_bits + bits,
            headroom_bits=self.headroom_bits,
        )


def finer_beside_crypten(network: Network, precision: Precision) -> Precision:
    """Finer, where CrypTen computes so much that a few bits of everything else cost little in comparison.

    Smooth functions leave most values far below the largest, so that bits of the largest are few for most.
    """
    smooth = sum(math.prod(one.shape) for one in network.operations if isinstance(one, Activation | Softmax))
    others = sum(math.prod(one.shape) for one in network.operations if isinstance(one, Relu | Clip | MaxPool))
    if smooth == 0 or smooth < _CRYPTEN_SHARE * (smooth + others):
        return precision
    return precision.finer(_FINER_BESIDE_CRYPTEN)


@dataclass(kw_only=True, eq=False)
class Draft:
    """One step to be. `scale` of a fine value is set when the truncation behind it is drafted."""

    name: str
    kind: str
    inputs: tuple["Draft", ...]
    shape: AnyShape
    range: RealRange
    fine: bool
    operation: Operation | None = None
    scale: Fraction | None = None
    shift: int = 0
    rounding: int = 0
    narrow: bool = False
    """Of a max pool: its ring is small, and only a comparison may read it."""
    not_negative: bool = False
    readers: list["Draft"] = field(default_factory=list)

    def known_scale(self) -> Fraction:
        """The scale, once set."""
        assert self.scale is not None, self.name
        return self.scale


class Windows(Protocol):
    """Geometry of an average pool, in a network or in a lowering."""

    @property
    def shape(self) -> Shape: ...
    @property
    def kernel(self) -> Pair: ...
    @property
    def stride(self) -> Pair: ...
    @property
    def padding(self) -> Padding: ...
    @property
    def count_include_pad(self) -> bool: ...


def divisor_of(draft: Draft) -> int:
    """By how much a sum pool's integers exceed the mean; 1 for every other step."""
    operation = draft.operation
    if isinstance(operation, GlobalAveragePool):
        return math.prod(draft.inputs[0].shape[1:])
    if not isinstance(operation, AveragePool):
        return 1
    divisor = math.lcm(*_window_sizes(operation, draft.inputs[0].shape))
    if divisor > LARGEST_FACTOR and any(operation.padding) and not operation.count_include_pad:
        raise ModelFileError(
            f"average pool '{draft.name}' divides by too many different counts: export it with count_include_pad=True"
        )
    return divisor


def divides_by_every_window(pool: Windows, source: Shape, divisor: int) -> bool:
    """Whether a sum over each window, brought to this divisor, is `divisor` times the mean."""
    sizes = _window_sizes(pool, source)
    if pool.count_include_pad or not any(pool.padding):
        return all(divisor == size for size in sizes)
    return all(divisor % size == 0 for size in sizes)


def _window_sizes(pool: Windows, source: Shape) -> Iterator[int]:
    """How many values each kind of window counts, some of them more than once."""
    if pool.count_include_pad or not any(pool.padding):
        yield math.prod(pool.kernel)
        return
    heights, widths = (
        _cells_inside(count, size, kernel=kernel, stride=stride, before=before)
        for count, size, kernel, stride, before in zip(
            image_size(pool.shape), image_size(source), pool.kernel, pool.stride, pool.padding[:2], strict=True
        )
    )
    yield from (height * width for height in heights for width in widths)


def _cells_inside(count: int, size: int, *, kernel: int, stride: int, before: int) -> set[int]:
    """How many cells of a window lie in a picture of `size` cells, along one axis: of the windows at its two ends."""
    first_inside = min(count, -(-before // stride))
    first_beyond = max(first_inside, (size + before - kernel) // stride + 1)
    at_the_ends = (*range(first_inside), *range(min(first_beyond, count), count))
    inside = {min(index * stride - before + kernel, size) - max(index * stride - before, 0) for index in at_the_ends}
    return inside | ({kernel} if first_inside < min(first_beyond, count) else set())


def image_size(shape: Shape) -> tuple[int, int]:
    """Height and width of an image's shape."""
    _, height, width = shape
    return height, width


def pad_constant(operation: Pad, scale: float) -> int:
    """The integer that a padding step writes."""
    return round(operation.value * scale)


def clip_limit(operation: Clip, scale: float) -> int:
    """The integer at which a clip cuts; at least 1."""
    return max(1, round(operation.high * scale))


def behind(draft: Draft) -> tuple[dict[Draft, int], list[Fraction], list[Draft]]:
    """What a fine value without a scale depends on, through public-linear steps without a scale.

    Returns the products that have no scale yet, with the growth of scale on the way; the scales, as seen at `draft`, of
    all values that have one; and the steps in between, in order of evaluation, `draft` last.
    """
    products: dict[Draft, int] = {}
    settled: list[Fraction] = []
    between: dict[Draft, None] = {}

    to_visit = [(draft, 1, False)]  # no recursion: a network may have thousands of steps one behind the other
    while to_visit:
        value, growth, sources_done = to_visit.pop()
        if sources_done:
            between[value] = None
        elif value.scale is not None:
            settled.append(value.scale * growth)
        elif value.kind == "linear":
            products.setdefault(value, growth)
        elif value not in between:
            to_visit.append((value, growth, True))
            to_visit.extend((source, growth * divisor_of(value), False) for source in reversed(value.inputs))
    return products, settled, list(between)


def magnitude_of(draft: Draft) -> Fraction:
    return Fraction(draft.range.magnitude) or Fraction(1)


def scale_from_inputs(draft: Draft) -> None:
    """Set the scale at which the inputs of a public-linear step meet. Raises ModelFileError where they cannot."""
    scales = [source.known_scale() for source in draft.inputs]
    draft.scale = common_scale(scales) * divisor_of(draft)
    if max(draft.scale / scale for scale in scales) > LARGEST_FACTOR * divisor_of(draft):
        raise ModelFileError(
            f"'{draft.name}' joins values of too different magnitude: scale the branches alike and train again"
        )
