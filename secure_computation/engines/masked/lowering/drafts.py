"""Steps to be: what the lowering knows of a step before its scales, rings and layouts are chosen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from fractions import Fraction
from typing import Final

from contract.errors import ModelFileError
from secure_computation.engines.masked.lowering.calibration import RealRange
from secure_computation.engines.masked.plan.fixed_point import count_window_cells
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
    Softmax,
)

LARGEST_FACTOR: Final = 1 << 20
"""The most by which a value is multiplied to meet another at one scale."""
_FINER_BESIDE_CRYPTEN: Final = 3
_MOST_ACTIVATION_BITS: Final = 13
"""Products have 32 bits: still finer activations would take bits from the weights, and make the error larger."""
_CRYPTEN_SHARE: Final = 0.01
"""From this share of CrypTen's elements among all that are not linear, its traffic exceeds that of the others."""


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """What each layer of one network should get, as `allot` finds it; the lowering takes what is nearest and fits."""

    scales: Mapping[str, float]
    """Integer per real of each value of the network, should it be rounded."""
    levels: Mapping[str, float]
    """Of each private product: the largest |integer weight|, at most."""
    sign_cuts: Mapping[str, int]
    """Of each ReLU and clip, in dithered arithmetic: low bits of the truncated value that the comparison leaves out."""


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
    allotment: Allotment | None = None
    """Bits for each layer, in place of all of the above but the headroom."""

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


def refine_beside_crypten(network: Network, precision: Precision) -> Precision:
    """Use more bits if CrypTen computes so much that a few bits of everything else cost little in comparison.

    Smooth functions leave most values far below the largest, so that bits of the largest are few for most.
    """
    smooth = sum(math.prod(one.shape) for one in network.operations if isinstance(one, Activation | Softmax))
    others = sum(math.prod(one.shape) for one in network.operations if isinstance(one, Relu | Clip | MaxPool))
    if precision.allotment or smooth == 0 or smooth < _CRYPTEN_SHARE * (smooth + others):
        return precision
    return precision.finer(_FINER_BESIDE_CRYPTEN)


class Added(Enum):
    """What a step does that no operation of the network asks for."""

    INPUT = auto()
    TRUNCATE = auto()
    OFFSET = auto()


@dataclass(kw_only=True, eq=False)
class Draft:
    """One step to be. `scale` of a fine value is set when the truncation behind it is drafted."""

    name: str
    operation: Operation | Added
    """What the step does: the network's operation with its attributes. A closed set: every match on it is complete."""
    inputs: tuple["Draft", ...]
    shape: AnyShape
    range: RealRange
    fine: bool = False
    scale: Fraction | None = None
    shift: int = 0
    sign_cut_bits: int = 0
    """Of a ReLU, in dithered arithmetic: see `ReluStep`."""
    rounds: str | None = None
    """The value of the network of which this step cuts bits off."""
    rounding: int = 0
    narrow: bool = False
    """Of a max pool: its ring is small, and only a comparison may read it."""
    not_negative: bool = False
    readers: list["Draft"] = field(default_factory=list)

    def known_scale(self) -> Fraction:
        """The scale, once set."""
        assert self.scale is not None, self.name
        return self.scale

    @property
    def magnitude(self) -> Fraction:
        """Largest |real value| over the calibration images; 1 if all are 0, so that one can divide by it."""
        return Fraction(self.range.magnitude) or Fraction(1)

    @property
    def factors(self) -> tuple[int, ...]:
        """What brings each input of a sum or concatenation to the common scale."""
        ratios = [self.known_scale() / source.known_scale() for source in self.inputs]
        assert all(ratio.denominator == 1 for ratio in ratios)
        return tuple(ratio.numerator for ratio in ratios)

    @property
    def weight_scale(self) -> float:
        """Integer weight per real weight of a private product."""
        return float(self.known_scale() / self.inputs[0].known_scale())

    @property
    def divisor(self) -> int:
        """By how much a sum pool's integers exceed the mean; 1 for every other step. Raises ModelFileError."""
        if isinstance(self.operation, GlobalAveragePool):
            return math.prod(self.inputs[0].shape[1:])
        if not isinstance(self.operation, AveragePool):
            return 1
        pool = self.operation
        divisor = math.lcm(*count_window_cells(pool, self.inputs[0].shape))
        if divisor > LARGEST_FACTOR and any(pool.padding) and not pool.count_include_pad:
            raise ModelFileError(
                f"average pool '{self.name}' divides by too many different counts: export it with "
                "count_include_pad=True"
            )
        return divisor
