"""The one walk through a masked plan that every role takes, in the same order, on its own half of each value.

A role says what it does where randomness or the peer is needed (`input`, `correct`, `multiply`, `compare`, `truncate`,
`activate`, `label`); each of those seven is a *move* with a number, by which all roles draw from their seeds and name
their messages. A max pool is several moves. `linear` multiplies by what the role knows of the weights; everything else
is public-linear and happens here.

Halves are `Rows`: P1's may still be on their way. A role that has all of them at once computes every step whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
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
from secure_computation.engines.masked.session.rows import Rows, computed, from_row_after_row, row_after_row, row_by_row
from secure_computation.engines.masked.session.step_shapes import (
    activation_shape,
    label_shape,
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
        """This role's half of what a layer with comparisons makes, row after row: a ReLU, an exact truncation."""

    def linear_rows(self, step: LinearStep, half: Rows) -> Rows:
        """`linear`, for a role whose rows may be on their way."""
        return Rows(self.linear(step, half.whole()))

    def correct_rows(self, step: Step, part: Rows, move: Move) -> Rows:
        """`correct`, for a role whose rows may be on their way."""
        return Rows(self.correct(step, part.whole(), move))

    def compare_rows(self, shape: ComparedShape, half: Rows, move: Move) -> Rows:
        """`compare`, for a role whose rows may be on their way."""
        result = self.compare(shape, row_after_row(half.whole()), move)
        return Rows(from_row_after_row(result, half.shape))

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
        halves: dict[str, Rows] = {}
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
            self.heat_map = halves[self._lowering.heat_map.name].whole()
        return halves[self._lowering.output].whole()

    def _move(self) -> Move:
        self._moves += 1
        return Move(self._moves - 1, self._at)

    def _step(self, step: Step, halves: list[Rows]) -> Rows:
        half = self._perform(step, halves)
        return self.correct_rows(step, half, self._move()) if step.name in self._corrected else half

    def _perform(self, step: Step, halves: list[Rows]) -> Rows:  # noqa: C901, PLR0911, PLR0912 - a closed set
        match step:
            case InputStep():
                return Rows(self.input(step, self._move()))
            case LinearStep():
                return self.linear_rows(step, halves[0])
            case AddStep():
                return row_by_row(lambda rows: public_linear.add(rows, step.factors), halves)
            case MultiplyStep():
                left, right = (half.whole() for half in halves)
                shape = ProductShape(left=left.shape, right=right.shape, ring_bits=step.value.ring_bits)
                return Rows(self.multiply(shape, (left, right), self._move()))
            case ConcatStep():
                return row_by_row(lambda rows: public_linear.concatenate(rows, step.factors), halves)
            case SumPoolStep():
                return self._sum_pool(step, halves[0])
            case PadStep():
                half, constant = halves[0].whole(), step.constant
                return Rows(public_linear.pad(half, step.padding, constant, with_constants=self.with_constants))
            case ReshapeStep():
                return Rows(halves[0].whole().reshape(step.shape))
            case OffsetStep():
                return row_by_row(
                    lambda rows: public_linear.offset(rows[0], step.offset, with_constants=self.with_constants), halves
                )
            case ReluStep():
                return self.compare_rows(relu_shape(step, self._lowering.arithmetic), halves[0], self._move())
            case TruncateStep():
                return self._truncate(step, halves[0])
            case MaxPoolStep():
                return Rows(self._max_pool(step, halves[0].whole()))
            case ClipStep():
                return self._clip(step, halves[0])
            case CrypTenStep():
                flat = self.activate(activation_shape(step), halves[0].whole().reshape(-1), self._move())
                return Rows(flat.reshape(step.shape))
            case LabelStep():
                labelled = label_shape(step)
                return Rows(self.label(labelled, halves[0].whole(), self._move(), self._move()))
            case _ as never:
                assert_never(never)

    def _sum_pool(self, step: SumPoolStep, half: Rows) -> Rows:
        if half.are_there or not public_linear.pools_by_rows(half.shape, step):
            return Rows(public_linear.sum_pool(half.whole(), step))

        def compute(start: int, stop: int) -> RingElements:
            part, padding = public_linear.rows_to_pool(half.shape[1], step, start, stop)
            return public_linear.sum_windows(half.take(part.start, part.stop), step, padding)

        return computed(step.shape, compute)

    def _truncate(self, step: TruncateStep, half: Rows) -> Rows:
        shape = truncation_shape(step, self._lowering.arithmetic)
        if isinstance(shape, DitheredTruncationShape):
            return Rows(self.truncate(shape, half.whole().reshape(-1), self._move()).reshape(step.shape))
        return self.compare_rows(shape, half, self._move())

    def _positive_part(self, difference: Rows, step: MaxPoolStep | ClipStep) -> Rows:
        """The half of ReLU(difference), without truncation."""
        shape = positive_part_shape(step, difference.shape, self._lowering.arithmetic)
        return self.compare_rows(shape, difference, self._move())

    def _clip(self, step: ClipStep, half: Rows) -> Rows:
        """min(x, limit) = limit - ReLU(limit - x)."""
        limit = np.uint32(step.limit if self.with_constants else 0)
        positive = self._positive_part(row_by_row(lambda rows: limit - rows[0], [half]), step)
        return row_by_row(lambda rows: limit - rows[0], [positive])

    def _max_pool(self, step: MaxPoolStep, half: RingElements) -> RingElements:
        """Columns of each window first, then its rows: a 3 x 3 window takes 4 comparisons, 8 if taken cell by cell."""
        padded = public_linear.pad(half, step.padding, step.padding_constant, with_constants=self.with_constants)
        (kernel_height, kernel_width), (stride_height, stride_width) = step.kernel, step.stride
        down = self._largest(public_linear.window_cells(padded, (kernel_height, 1), (stride_height, 1)), step)
        return self._largest(public_linear.window_cells(down, (1, kernel_width), (1, stride_width)), step)

    def _largest(self, cells: list[RingElements], step: MaxPoolStep) -> RingElements:
        """Maximum by a tree of max(a, b) = b + ReLU(a - b); each level is one move, of all its differences, flat."""
        while len(cells) > 1:
            pairs = len(cells) // 2
            left, right = np.stack(cells[0 : 2 * pairs : 2]), np.stack(cells[1 : 2 * pairs : 2])
            positive = self._positive_part(Rows((left - right).reshape(-1)), step).whole()
            cells = [*(right + positive.reshape(right.shape)), *cells[2 * pairs :]]
        return cells[0]
