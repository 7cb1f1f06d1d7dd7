"""The one walk through a masked plan that every role takes, in the same order, on its own half of each value.

A role says what it does where randomness or the peer is needed (`input`, `correct`, `multiply`, `compare`, `truncate`,
`activate`, `label`); each of those seven is a *move* with a number, by which all roles draw from their seeds and name
their messages. A max pool, a clip and a large layer of comparisons are several moves. `linear` multiplies by what the
role knows of the weights; everything else is public-linear and happens here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np

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
    Step,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.engines.masked.session.activation import ActivationShape
from secure_computation.engines.masked.session.corrections import find_corrected
from secure_computation.engines.masked.session.step_shapes import (
    activation_shape,
    label_shape,
    parts_of,
    positive_part_shape,
    relu_shape,
    truncation_shape,
)
from secure_computation.protocols import public_linear
from secure_computation.protocols.compared_layer import ComparedShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.label import LabelShape
from secure_computation.protocols.product import Pair, ProductShape


@dataclass(frozen=True)
class Move:
    """One move: its number says which streams of a seed it draws from, its step's name what messages say."""

    number: int
    step: str

    def __str__(self) -> str:
        """Name of the move on the wire and in errors."""
        return f"{self.step} ({self.number})"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A part of a layer, which one move compares."""

    move: Move
    shape: ComparedShape
    half: RingElements = field(repr=False)
    """Flat."""


class Walk(ABC):
    """One role's pass. Halves are uint32 arrays in the network's shapes."""

    with_constants: bool = False
    """Whether this role's half carries public constants: P1's does, nobody else's."""

    def __init__(self, lowering: MaskedLowering) -> None:
        """Walk `lowering` from its first step."""
        self._lowering = lowering
        self._corrected = find_corrected(lowering)
        self._moves = 0
        self._at = ""
        self.heat_map: RingElements | None = None
        """Once `run` has ended: this role's half of the heat map, where the plan opens one."""

    @abstractmethod
    def input(self, step: InputStep, move: Move) -> RingElements:
        """This role's half of the image."""

    @abstractmethod
    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        """This role's part of W * x + b, before it is corrected: A * x at D, Delta * x at P0, W * x + b at P1."""

    @abstractmethod
    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        """This role's half of the value of `step`, of which D has no part any more: see `protocols.linear`."""

    @abstractmethod
    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        """This role's half of x * y, in the shape of x."""

    @abstractmethod
    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        """This role's half of what a layer with comparisons makes, flat: a ReLU, or an exact truncation."""

    def compare_all(self, parts: Sequence[Compared]) -> list[RingElements]:
        """`compare` every part of one layer. A role that would wait between them does better than one by one."""
        return [self.compare(part.shape, part.half, part.move) for part in parts]

    @abstractmethod
    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        """This role's half of floor((z + t) / 2^f), flat."""

    @abstractmethod
    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        """This role's half of a smooth function of x that CrypTen computes, flat."""

    @abstractmethod
    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        """Begin to open the label of logits. `products` names what is dealt for products; it draws nothing.

        What this returns is no half of a value: the label's bits are XOR-shared, and the session opens them.
        """

    def run(self, on_step: Callable[[Step], None] | None = None) -> RingElements:
        """Walk the whole plan; return this role's half of the output. Halves go as soon as they are unused.

        `on_step` is called before each step.
        """
        halves: dict[str, RingElements] = {}
        last_uses = self._lowering.last_uses()
        for index, step in enumerate(self._lowering.steps):
            if on_step is not None:
                on_step(step)
            self._at = step.name
            halves[step.name] = self._step(step, [halves[name] for name in step.inputs])
            for name in set(step.inputs):
                if last_uses[name] == index and name != self._lowering.output:
                    del halves[name]
        if self._lowering.heat_map is not None:
            self.heat_map = halves[self._lowering.heat_map.name]
        return halves[self._lowering.output]

    def _move(self) -> Move:
        self._moves += 1
        return Move(self._moves - 1, self._at)

    def _step(self, step: Step, halves: list[RingElements]) -> RingElements:
        half = self._perform(step, halves)
        return self.correct(step, half, self._move()) if step.name in self._corrected else half

    def _perform(self, step: Step, halves: list[RingElements]) -> RingElements:  # noqa: C901, PLR0911, PLR0912 - a closed set
        match step:
            case InputStep():
                return self.input(step, self._move())
            case LinearStep():
                return self.linear(step, halves[0])
            case AddStep():
                return public_linear.add(halves, step.factors)
            case MultiplyStep():
                left, right = halves
                shape = ProductShape(left=left.shape, right=right.shape, ring_bits=step.value.ring_bits)
                return self.multiply(shape, (left, right), self._move())
            case ConcatStep():
                return public_linear.concatenate(halves, step.factors)
            case SumPoolStep():
                return public_linear.sum_pool(halves[0], step)
            case PadStep():
                return public_linear.pad(halves[0], step.padding, step.constant, with_constants=self.with_constants)
            case ReshapeStep():
                return halves[0].reshape(step.shape)
            case OffsetStep():
                return public_linear.offset(halves[0], step.offset, with_constants=self.with_constants)
            case ReluStep():
                return self._relu(step, halves[0])
            case TruncateStep():
                return self._truncate(step, halves[0])
            case MaxPoolStep():
                return self._max_pool(step, halves[0])
            case ClipStep():
                return self._clip(step, halves[0])
            case CrypTenStep():
                return self._activate(step, halves[0])
            case LabelStep():
                labelled = label_shape(step)
                return self.label(labelled, halves[0], self._move(), self._move())
            case _ as never:
                assert_never(never)

    def _relu(self, step: ReluStep, half: RingElements) -> RingElements:
        shape = relu_shape(step, self._lowering.arithmetic)
        return self._in_parts(shape, half.reshape(-1)).reshape(step.shape)

    def _in_parts(self, shape: ComparedShape, half: RingElements) -> RingElements:
        """`compare` a layer, which may be several moves."""
        parts = [
            Compared(move=self._move(), shape=replace(shape, count=part.stop - part.start), half=half[part])
            for part in parts_of(shape.count)
        ]
        halves = self.compare_all(parts)
        return halves[0] if len(halves) == 1 else np.concatenate(halves)

    def _truncate(self, step: TruncateStep, half: RingElements) -> RingElements:
        shape, flat = truncation_shape(step, self._lowering.arithmetic), half.reshape(-1)
        if isinstance(shape, DitheredTruncationShape):
            return self.truncate(shape, flat, self._move()).reshape(step.shape)
        return self.compare(shape, flat, self._move()).reshape(step.shape)

    def _activate(self, step: CrypTenStep, half: RingElements) -> RingElements:
        return self.activate(activation_shape(step), half.reshape(-1), self._move()).reshape(step.shape)

    def _positive_part(self, difference: RingElements, step: MaxPoolStep | ClipStep) -> RingElements:
        """The half of ReLU(difference), without truncation."""
        shape = positive_part_shape(step, difference.size, self._lowering.arithmetic)
        return self._in_parts(shape, difference.reshape(-1)).reshape(difference.shape)

    def _clip(self, step: ClipStep, half: RingElements) -> RingElements:
        """min(x, limit) = limit - ReLU(limit - x)."""
        limit = np.uint32(step.limit if self.with_constants else 0)
        return limit - self._positive_part(limit - half, step)

    def _max_pool(self, step: MaxPoolStep, half: RingElements) -> RingElements:
        """Columns of each window first, then its rows: a 3 x 3 window takes 4 comparisons, 8 if taken cell by cell."""
        padded = public_linear.pad(half, step.padding, step.padding_constant, with_constants=self.with_constants)
        (kernel_height, kernel_width), (stride_height, stride_width) = step.kernel, step.stride
        down = self._largest(public_linear.window_cells(padded, (kernel_height, 1), (stride_height, 1)), step)
        return self._largest(public_linear.window_cells(down, (1, kernel_width), (1, stride_width)), step)

    def _largest(self, cells: list[RingElements], step: MaxPoolStep) -> RingElements:
        """Maximum by a tree of max(a, b) = b + ReLU(a - b); each level is one move."""
        while len(cells) > 1:
            pairs = len(cells) // 2
            left, right = np.stack(cells[0 : 2 * pairs : 2]), np.stack(cells[1 : 2 * pairs : 2])
            winners = right + self._positive_part(left - right, step)
            cells = [*winners, *cells[2 * pairs :]]
        return cells[0]
