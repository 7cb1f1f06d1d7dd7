"""Steps to be: what the lowering knows of a step before its scales, rings and layouts are chosen."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from contract.errors import ModelFileError
from secure_computation.engines.masked.calibration import RealRange
from secure_computation.engines.masked.scales import common_scale
from secure_computation.network import (
    Activation,
    AnyShape,
    AveragePool,
    Clip,
    GlobalAveragePool,
    MaxPool,
    Network,
    Operation,
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


def divisor_of(draft: Draft) -> int:
    """By how much a sum pool's integers exceed the mean; 1 for every other step."""
    operation = draft.operation
    if isinstance(operation, GlobalAveragePool):
        return math.prod(draft.inputs[0].shape[1:])
    if not isinstance(operation, AveragePool):
        return 1
    if operation.count_include_pad or not any(operation.padding):
        return math.prod(operation.kernel)
    top, left, *_ = operation.padding
    (height, width), (rows, columns) = image_size(draft.inputs[0].shape), image_size(operation.shape)
    inside = [
        {_cells(index * stride - before, kernel, size) for index in range(count)}
        for count, stride, before, kernel, size in (
            (rows, operation.stride[0], top, operation.kernel[0], height),
            (columns, operation.stride[1], left, operation.kernel[1], width),
        )
    ]
    divisor = math.lcm(*(a * b for a in inside[0] for b in inside[1]))
    if divisor > LARGEST_FACTOR:
        raise ModelFileError(
            f"average pool '{draft.name}' divides by too many different counts: export it with count_include_pad=True"
        )
    return divisor


def image_size(shape: Shape) -> tuple[int, int]:
    """Height and width of an image's shape."""
    _, height, width = shape
    return height, width


def _cells(start: int, kernel: int, size: int) -> int:
    return min(start + kernel, size) - max(start, 0)


def behind(draft: Draft) -> tuple[dict[Draft, int], list[Fraction], list[Draft]]:
    """What a fine value without a scale depends on, through public-linear steps without a scale.

    Returns the products that have no scale yet, with the growth of scale on the way; the scales, as seen at `draft`, of
    all values that have one; and the steps in between, in order of evaluation, `draft` last.
    """
    products: dict[Draft, int] = {}
    settled: list[Fraction] = []
    between: dict[Draft, None] = {}

    def visit(value: Draft, growth: int) -> None:
        if value.scale is not None:
            settled.append(value.scale * growth)
        elif value.kind == "linear":
            products.setdefault(value, growth)
        elif value not in between:
            for source in value.inputs:
                visit(source, growth * divisor_of(value))
            between[value] = None

    visit(draft, 1)
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
