"""Whether a masked lowering computes its network: compared value by value, so that a plan holds one model, not two.

The network is what weights, the other engine and reports go by; the lowering is what the masked engine runs. Each value
of either is given a number by what it is computed from, the same for the same function of the image:

- truncations, rounding terms and wider rings leave a value what it is; only its form changes;
- a ReLU of what is never negative is that value;
- the ReLU of a max pool is the max pool of the ReLU: a lowering compares the fewer elements;
- a pool over the whole picture has one window, whatever its stride.

Scales are followed as well: each step must make the scale that it declares, with the network's own constants.
"""

import math
from collections.abc import Mapping
from typing import assert_never

from secure_computation.engines.masked.plan.fixed_point import divides_by_every_window, quantise_limit, quantise_padding
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    AddStep,
    ClipStep,
    ConcatStep,
    CrypTenStep,
    HeatMapStep,
    InputStep,
    LabelStep,
    LinearStep,
    MaxPoolStep,
    MultiplyStep,
    OffsetStep,
    PadStep,
    ReluStep,
    ReshapeStep,
    Step,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.network import (
    INPUT,
    NO_PADDING,
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
    Operation,
    Pad,
    Relu,
    Reshape,
    Shape,
    Softmax,
)

_SAME_SCALE = 1e-9


def require_same_network(network: Network, lowering: MaskedLowering) -> None:
    """Raise ValueError, naming the step, unless `lowering` computes the output of `network` and nothing else."""
    values = _Values(network)
    made = _follow(lowering, {operation.name: operation for operation in network.operations}, values)
    if made[lowering.output] != values.named[network.output]:
        raise ValueError("the masked lowering's output is not the network's")
    _require_features(lowering, made, values)
    read = {name for step in lowering.steps for name in step.inputs} | {lowering.output, lowering.steps[-1].name}
    unread = [step.name for step in lowering.steps if step.name not in read]
    if unread:
        raise ValueError(f"the masked lowering's step '{unread[0]}' is never used")


def _follow(lowering: MaskedLowering, operations: Mapping[str, Operation], values: "_Values") -> dict[str, int]:
    """The number of each step's value, by its name."""
    steps: dict[str, Step] = {}
    made: dict[str, int] = {}
    for step in lowering.steps:
        try:
            made[step.name] = _of_step(step, operations.get(step.name), [made[name] for name in step.inputs], values)
            _require_scale(step, [steps[name] for name in step.inputs])
        except ValueError as error:
            raise ValueError(f"the masked lowering's step '{step.name}' is not the network's: {error}") from error
        steps[step.name] = step
    return made


class _Values:
    """Numbers of values, by what they are computed from."""

    def __init__(self, network: Network) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._made: list[tuple[object, ...]] = []
        self._shapes: list[Shape] = []
        self._not_negative: set[int] = set()
        self._relus: dict[int, int] = {}
        """Of max pools that were asked for."""
        self.input_shape = network.input_shape
        self.named = {INPUT: self.number((INPUT,), network.input_shape)}
        """Of the network's values, by name."""
        for operation in network.operations:
            self.named[operation.name] = self._of_operation(operation)

    def number(self, made: tuple[object, ...], shape: Shape, *, not_negative: bool = False) -> int:
        """The number of a value that is made so."""
        number = self._numbers.setdefault(made, len(self._made))
        if number == len(self._made):
            self._made.append(made)
            self._shapes.append(shape)
            if not_negative:
                self._not_negative.add(number)
        return number

    def made(self, number: int) -> tuple[object, ...]:
        """How a value is made."""
        return self._made[number]

    def _are_not_negative(self, *numbers: int) -> bool:
        return self._not_negative.issuperset(numbers)

    def relu(self, source: int) -> int:
        pools: list[int] = []  # a loop: a hostile network may have thousands, one behind the other
        while source not in self._not_negative and source not in self._relus and self._made[source][0] == "max_pool":
            pools.append(source)
            inner = self._made[source][1]
            assert isinstance(inner, int)
            source = inner
        result = source if source in self._not_negative else self._relus.get(source)
        if result is None:
            result = self.number(("relu", source), self._shapes[source], not_negative=True)
        for pool in reversed(pools):
            _, _, *geometry = self._made[pool]
            result = self.number(("max_pool", result, *geometry), self._shapes[pool], not_negative=True)
            self._relus[pool] = result
        return result

    def clip(self, source: int, high: float) -> int:
        """Of a value that is not negative."""
        if source not in self._not_negative:
            raise ValueError("it clips what may be negative")
        return self.number(("clip", source, high), self._shapes[source], not_negative=True)

    def smooth(self, source: int, function: str) -> int:
        return self.number((function, source), self._shapes[source])

    def max_pool(self, source: int, pool: MaxPool | MaxPoolStep) -> int:
        made = ("max_pool", source, pool.kernel, pool.stride, pool.padding)
        return self.number(made, pool.shape, not_negative=self._are_not_negative(source))

    def average(self, source: int, pool: AveragePool | SumPoolStep) -> int:
        kernel, stride, count_include_pad = pool.kernel, pool.stride, pool.count_include_pad
        if not any(pool.padding):
            count_include_pad = True
            stride = kernel if kernel == self._shapes[source][1:] else stride
        made = ("average", source, kernel, stride, pool.padding, count_include_pad)
        return self.number(made, pool.shape, not_negative=self._are_not_negative(source))

    def global_average(self, source: int, shape: Shape) -> int:
        whole = self._shapes[source][1:]
        made = ("average", source, whole, whole, NO_PADDING, True)
        return self.number(made, shape, not_negative=self._are_not_negative(source))

    def join(self, kind: str, sources: list[int], shape: Shape) -> int:
        """A sum, product or concatenation."""
        return self.number((kind, *sources), shape, not_negative=self._are_not_negative(*sources))

    def pad(self, source: int, operation: Pad) -> int:
        not_negative = self._are_not_negative(source) and operation.value >= 0
        return self.number(
            ("pad", source, operation.padding, operation.value), operation.shape, not_negative=not_negative
        )

    def reshape(self, source: int, shape: Shape) -> int:
        return self.number(("reshape", source, shape), shape, not_negative=self._are_not_negative(source))

    def linear(self, source: int, operation: Convolution2d | FullyConnected) -> int:
        return self.number(("linear", source, operation.name), operation.shape)

    def _of_operation(self, operation: Operation) -> int:  # noqa: C901, PLR0911 - a closed set
        """The number of what an operation makes of named values."""
        sources = [self.named[name] for name in operation.inputs]
        source = sources[0]
        match operation:
            case Convolution2d() | FullyConnected():
                return self.linear(source, operation)
            case Relu():
                return self.relu(source)
            case Clip():
                return self.clip(self.relu(source), operation.high)
            case Activation():
                return self.smooth(source, operation.function)
            case Softmax():
                return self.smooth(source, "softmax")
            case MaxPool():
                return self.max_pool(source, operation)
            case AveragePool():
                return self.average(source, operation)
            case GlobalAveragePool():
                return self.global_average(source, operation.shape)
            case Add() | Multiply() | Concat():
                return self.join(operation.kind, sources, operation.shape)
            case Pad():
                return self.pad(source, operation)
            case Reshape():
                return self.reshape(source, operation.shape)
            case _ as never:
                assert_never(never)


def _of_step(  # noqa: C901, PLR0911, PLR0912 - a closed set
    step: Step, operation: Operation | None, sources: list[int], values: _Values
) -> int:
    """The number of what a step makes. `operation`: the network's of the same name, which holds the constants."""
    match step:
        case InputStep():
            if step.shape != values.input_shape:
                raise ValueError("it has another shape")
            return values.named[INPUT]
        case HeatMapStep():
            return values.number(("heat map", sources[0], step.weights_of), step.shape)
        case LinearStep():
            if operation != step.operation or sources[0] != values.named[step.operation.inputs[0]]:
                raise ValueError("it has other attributes, or reads another value")
            return values.linear(sources[0], step.operation)
        case TruncateStep() | OffsetStep() | LabelStep():
            return sources[0]
        case ReluStep():
            return values.relu(sources[0])
        case ClipStep():
            if not isinstance(operation, Clip) or step.limit != quantise_limit(operation, step.value.scale):
                raise ValueError("it clips at another value")
            return values.clip(sources[0], operation.high)
        case CrypTenStep():
            return values.smooth(sources[0], step.function)
        case MaxPoolStep():
            return values.max_pool(sources[0], step)
        case SumPoolStep():
            return values.average(sources[0], step)
        case AddStep() | MultiplyStep() | ConcatStep():
            return values.join(step.kind, sources, step.shape)
        case PadStep():
            if not isinstance(operation, Pad) or step.constant != quantise_padding(operation, step.value.scale):
                raise ValueError("it pads with another value")
            return values.pad(sources[0], operation)
        case ReshapeStep():
            return values.reshape(sources[0], step.shape)
        case _ as never:
            assert_never(never)


def _require_scale(step: Step, sources: list[Step]) -> None:
    """Raise ValueError unless the step's integers, over the scale that it declares, are the values it stands for."""
    scale = step.value.scale
    expected = [source.value.scale for source in sources]
    match step:
        case InputStep() | MultiplyStep() | CrypTenStep() | LabelStep():
            return  # free, or looked at when the step was made
        case LinearStep():
            expected = [one * step.weight_scale for one in expected]
        case AddStep() | ConcatStep():
            expected = [one * factor for one, factor in zip(expected, step.factors, strict=True)]
        case SumPoolStep():
            if not divides_by_every_window(step, sources[0].shape, step.divisor):
                raise ValueError("its divisor is not that of its windows")
            expected = [one * step.divisor for one in expected]
        case ReluStep() | TruncateStep():
            expected = [one / (1 << step.shift) for one in expected]
        case MaxPoolStep() | ClipStep() | PadStep() | ReshapeStep() | OffsetStep():
            pass
        case _ as never:
            assert_never(never)
    if not all(math.isclose(one, scale, rel_tol=_SAME_SCALE) for one in expected):
        raise ValueError("it makes another scale than it declares")


def _require_features(lowering: MaskedLowering, made: dict[str, int], values: _Values) -> None:
    """Raise ValueError unless a heat map reads what the head's average pool reads."""
    if lowering.heat_map is None:
        return
    step = lowering.step(lowering.heat_map.inputs[0])
    assert isinstance(step, HeatMapStep)
    head = lowering.step(step.weights_of)
    way = values.made(made[head.inputs[0]])
    while way[0] in {"reshape", "average"}:
        if way[1] == made[step.inputs[0]]:
            return
        assert isinstance(way[1], int)
        way = values.made(way[1])
    raise ValueError("the heat map does not read what the head averages")
