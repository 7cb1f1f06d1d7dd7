"""What a plan costs for one image under each engine, counted from shapes alone, and the limits that a party sets.

A plan of a few kilobytes may ask for terabytes, so a party counts before it deals, connects or takes memory. Bytes and
trips are exact, except for what CrypTen computes within a masked plan, which counts for the most that it may be. Times
and memory are estimates to the safe side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, assert_never

from contract.base import Strict
from contract.errors import ModelFileError
from plumbing.settings import GIBIBYTE, PlanLimits
from secure_computation.engines.crypten.lowering import CrypTenLowering, predict_cost
from secure_computation.engines.masked.plan.fixed_point import image_size
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    AddStep,
    ClipStep,
    ConcatStep,
    CrypTenStep,
    InputStep,
    LabelStep,
    LinearStep,
    MaxPoolStep,
    MultiplyStep,
    OffsetStep,
    PadStep,
    ReluStep,
    ReshapeStep,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.engines.masked.session.costs import most_it_costs
from secure_computation.engines.masked.session.step_shapes import label_shape
from secure_computation.network import (
    INPUT,
    Activation,
    Add,
    AveragePool,
    Clip,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Network,
    Pad,
    Padding,
    Relu,
    Reshape,
    Shape,
    Softmax,
)

_SECONDS_A_PRODUCT: Final = 3e-9
_SECONDS_A_BYTE: Final = 4e-9
_SECONDS_AN_ELEMENT: Final = 4e-9
_SECONDS_A_GROUP: Final = 1e-5
"""Groups of a convolution are computed one after the other."""
_RING_BYTES: Final = 4
"""Of an element in the masked engine, in memory."""
_WORD_BYTES: Final = 8
"""Of an element of CrypTen's."""
_COPIES: Final = 3
"""Of values and weights that a party has at once: its half, what comes out, and what lies between."""


_WORDS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "offline_bytes": (GIBIBYTE, "GiB before it is used"),
        "online_bytes": (GIBIBYTE, "GiB online"),
        "one_way_trips": (1, "one-way trips"),
        "elements": (1, "elements of values"),
        "processor_seconds": (1, "seconds of one core"),
        "memory_bytes": (GIBIBYTE, "GiB of memory"),
    }
)
"""Unit and words of each limit."""


class PlanCost(Strict):
    """For one image, under one engine. The fields are those of `PlanLimits`."""

    offline_bytes: int
    online_bytes: int
    one_way_trips: int
    elements: int
    processor_seconds: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What the operations of a network or the steps of a lowering ask of the machine."""

    elements: int
    products: int
    groups: int
    weights: int
    largest: int
    """Elements that the most demanding of them has in memory."""


def masked_cost(lowering: MaskedLowering) -> PlanCost:
    """Under the masked engine."""
    cost, work = most_it_costs(lowering), _masked_work(lowering)
    return _cost(
        work,
        offline_bytes=cost.offline_bytes,
        online_bytes=cost.online_bytes,
        trips=cost.trips,
        element_bytes=_RING_BYTES,
    )


def crypten_cost(network: Network, lowering: CrypTenLowering) -> PlanCost:
    """Under CrypTen's engine, if the dealing list is the network's: `require_own_dealing_list` sees to that."""
    predicted = predict_cost(network, lowering)
    return _cost(
        _network_work(network),
        offline_bytes=predicted.offline_bytes,
        online_bytes=2 * predicted.online_bytes_each_way + predicted.output_bytes,
        trips=max(predicted.online_trips, len(lowering.requests)),  # each tuple is for one opening at least
        element_bytes=_WORD_BYTES,
    )


def _cost(work: _Work, *, offline_bytes: int, online_bytes: int, trips: int, element_bytes: int) -> PlanCost:
    return PlanCost(
        offline_bytes=offline_bytes,
        online_bytes=online_bytes,
        one_way_trips=trips,
        elements=work.elements,
        processor_seconds=_SECONDS_A_PRODUCT * work.products
        + _SECONDS_A_GROUP * work.groups
        + _SECONDS_A_BYTE * (offline_bytes + online_bytes)
        + _SECONDS_AN_ELEMENT * work.elements,
        memory_bytes=2 * offline_bytes + _COPIES * element_bytes * (work.largest + work.weights),
    )


def require_within(cost: PlanCost, limits: PlanLimits, *, engine: str) -> None:
    """Raise ModelFileError, naming the setting, for the first limit that a plan's cost exceeds."""
    asked, allowed = cost.model_dump(), limits.model_dump()
    for name, limit in allowed.items():
        if asked[name] > limit:
            raise ModelFileError(
                f"by the model's plan an image takes {_words(name, asked[name])} in the engine '{engine}', more than "
                f"the {_words(name, limit)} that plan_limits.{name} allows here: use a smaller model, or raise that "
                "setting"
            )


def _words(name: str, amount: float) -> str:
    unit, words = _WORDS[name]
    return f"{amount / unit:,.2f} {words}" if unit > 1 else f"{amount:,.0f} {words}"


def values_at_once(network: Network) -> int:
    """Elements that an evaluation of one image has in memory at its fullest moment."""
    return _network_work(network).largest


def _network_work(network: Network) -> _Work:
    tally = _Tally({INPUT: network.input_shape}, last_uses=network.last_uses())
    for index, operation in enumerate(network.operations):
        match operation:
            case Convolution2d() | FullyConnected():
                tally.product(operation, operation.inputs)
            case MaxPool() | AveragePool():
                tally.pool(operation)
            case (
                Relu()
                | Clip()
                | Activation()
                | Softmax()
                | GlobalAveragePool()
                | Add()
                | Multiply()
                | Concat()
                | Pad()
                | Reshape()
            ):
                pass  # element by element
            case _ as never:
                assert_never(never)
        tally.keep(index, operation.name, operation.inputs, operation.shape)
    return tally.work()


def _masked_work(lowering: MaskedLowering) -> _Work:
    tally = _Tally({}, last_uses=lowering.last_uses())
    for index, step in enumerate(lowering.steps):
        match step:
            case LinearStep():
                tally.product(step.operation, step.inputs)
            case MaxPoolStep() | SumPoolStep():
                tally.pool(step)
            case LabelStep():
                tally.within = label_shape(step).pairs + label_shape(step).products
            case (
                InputStep()
                | AddStep()
                | MultiplyStep()
                | ConcatStep()
                | PadStep()
                | ReshapeStep()
                | OffsetStep()
                | ReluStep()
                | TruncateStep()
                | ClipStep()
                | CrypTenStep()
            ):
                pass  # element by element
            case _ as never:
                assert_never(never)
        tally.keep(index, step.name, step.inputs, step.shape)
    return tally.work()


class _Tally:
    """Adds up what operations or steps ask for, one after the other. `within`: elements between input and output."""

    def __init__(self, shapes: dict[str, Shape], *, last_uses: Mapping[str, int]) -> None:
        self.within = 0
        self._shapes = shapes
        self._last_uses = last_uses
        self._alive = self._elements = sum(math.prod(shape) for shape in shapes.values())
        self._products = self._groups = self._weights = self._largest = 0

    def product(self, layer: Convolution2d | FullyConnected, inputs: Sequence[str]) -> None:
        """A private linear map. One channel's windows are laid out; a kernel is as large as its dilation makes it."""
        source = self._shapes[inputs[0]]
        reach, each, padded = (1, 1), source[0], math.prod(source)
        if isinstance(layer, Convolution2d):
            _, each, *kernel = layer.weight_shape
            reach = (layer.dilation[0] * (kernel[0] - 1) + 1, layer.dilation[1] * (kernel[1] - 1) + 1)
            padded = _padded(source, layer.padding)
            self._groups += layer.groups
        each *= math.prod(reach)
        self._products += each * math.prod(layer.shape)
        self._weights += each * layer.shape[0]
        self.within = padded + each * math.prod(layer.shape[1:])

    def pool(self, pool: MaxPool | AveragePool | MaxPoolStep | SumPoolStep) -> None:
        """Windows along the height, then along the width. A window as large as the picture is one sum."""
        source = self._shapes[pool.inputs[0]]
        (high, wide), (rows, columns) = pool.kernel, image_size(pool.shape)
        across = source[2] + pool.padding[1] + pool.padding[3]
        windows = rows * across * high + rows * columns * wide
        self.within = _padded(source, pool.padding) + source[0] * windows

    def keep(self, index: int, name: str, inputs: Sequence[str], shape: Shape) -> None:
        """Count the value that comes out, and let go what nobody reads any more."""
        self._shapes[name] = shape
        elements = math.prod(shape)
        self._elements += elements + self.within
        self._alive += elements
        self._largest = max(self._largest, self._alive + self.within)
        self._alive -= sum(math.prod(self._shapes[one]) for one in set(inputs) if self._last_uses[one] == index)
        self.within = 0

    def work(self) -> _Work:
        """All of it."""
        return _Work(
            elements=self._elements,
            products=self._products,
            groups=self._groups,
            weights=self._weights,
            largest=self._largest,
        )


def _padded(image: Shape, padding: Padding) -> int:
    """Elements of an image with its borders, which a party lays out."""
    channels, height, width = image
    top, left, bottom, right = padding
    return channels * (height + top + bottom) * (width + left + right)
