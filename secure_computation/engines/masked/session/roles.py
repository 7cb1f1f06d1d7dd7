"""What each role does at each move of the walk. The protocols themselves stand in `secure_computation.protocols`.

pass                 sends                                    receives
------------------   --------------------------------------   --------------------------------------
DealerPass           to P1: u1, corrections
DataOwnerOffline     to P1: z0 + r0
ModelOwnerOffline                                             from D and P0: all of the above
DataOwnerOnline      to P1: masked image; answers             from P1: openings
ModelOwnerOnline     to P0: openings; its output share        from P0: masked image; answers
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import MaterialSpent
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import InputStep, LinearStep, Step
from secure_computation.engines.masked.session.activation import (
    ActivationAsP0,
    ActivationAsP1,
    ActivationShape,
    deal_activation,
)
from secure_computation.engines.masked.session.rows import Rows, computed, from_row_after_row, row_after_row, select
from secure_computation.engines.masked.session.walk import Move, Walk
from secure_computation.kernels.linear import PreparedWeights, ProductByRows, linear_map
from secure_computation.material import ItemName
from secure_computation.protocols import compared_layer, label, linear, product, widening
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.compared_layer import ComparedShape, LayerAsP0, LayerAsP1
from secure_computation.protocols.dithered_truncation import (
    DitheredTruncationAsDealer,
    DitheredTruncationAsP0,
    DitheredTruncationAsP1,
    DitheredTruncationShape,
)
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.label import LabelAsP0, LabelAsP1, LabelShape
from secure_computation.protocols.product import Pair, ProductAsP0, ProductAsP1, ProductShape
from secure_computation.randomness import Seed
from secure_computation.ring import reduce_to_ring

Send: TypeAlias = Callable[[Move, BundleLayout, Bundle], None]
Receive: TypeAlias = Callable[[Move, BundleLayout], Bundle]
Meanwhile: TypeAlias = Callable[[], None]
"""What P1 does while P0 answers."""
PreparedMaps: TypeAlias = Mapping[str, PreparedWeights]
"""By the name of the linear step: A at the dealer, Delta at the data owner, W at the model owner."""

ComparisonShape: TypeAlias = ComparedShape | DitheredTruncationShape
OpenedShape: TypeAlias = ComparisonShape | ProductShape
Exchange: TypeAlias = Callable[[Iterable[tuple[Move, OpenedShape, Bundle]], Meanwhile], Iterator[Bundle]]
"""Sends P0 each opening as it is made, calls its last argument, returns; P0's answers are read when they are taken."""
ComparisonAsP0: TypeAlias = LayerAsP0 | DitheredTruncationAsP0 | ActivationAsP0 | LabelAsP0
OpenedAsP0: TypeAlias = ComparisonAsP0 | ProductAsP0
"""P0's part of one move with openings. A label is always the last."""


def find_input(lowering: MaskedLowering) -> InputStep:
    """The step that every plan begins with."""
    step = lowering.steps[0]
    assert isinstance(step, InputStep)  # checked when the plan was built
    return step


def input_mask(step: InputStep, draws: Draws) -> RingElements:
    """D and P0: rho of the image."""
    return draws.ring("input mask", step.shape, bits=step.value.ring_bits)


class DealerPass(Walk):
    """D: follows the masks that it knows and sends P1 what completes its shares. For an unknown mask, zeros stand."""

    def __init__(
        self, lowering: MaskedLowering, masks: PreparedMaps, *, p0: Seed, p1: Seed, item: ItemName, send: Send
    ) -> None:
        """Deal one item. `masks`: A of each linear step."""
        super().__init__(lowering)
        self._masks = masks
        self._seeds = (p0, p1)
        self._item = item
        self._send = send

    def _draws(self, move: Move) -> tuple[Draws, Draws]:
        p0, p1 = (Draws(seed, item=self._item, step=move.number) for seed in self._seeds)
        return p0, p1

    def input(self, step: InputStep, move: Move) -> RingElements:
        return input_mask(step, self._draws(move)[0])

    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        return linear_map(self._masks[step.name], half)

    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        bits = step.value.ring_bits
        bundle = linear.deal_linear(part, p0=self._draws(move)[0], bits=bits)
        self._send(move, linear.correction_layout(step.shape, bits=bits), bundle)
        return _nothing(step.shape)

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        p0, p1 = self._draws(move)
        correction, output_mask = product.deal_product(shape, halves, p0=p0, p1=p1)
        self._send(move, shape.corrections, correction)
        return output_mask

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        p0, p1 = self._draws(move)
        self._send(move, shape.corrections, compared_layer.deal_layer(shape, p0=p0, p1=p1))
        return compared_layer.draw_output_mask(shape, p0)

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        p0, p1 = self._draws(move)
        part = DitheredTruncationAsDealer(shape, p0)
        if shape.wide:
            self._send(move, shape.corrections, part.deal(p1))
        return part.output_mask

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        (p0, p1), step = self._seeds, move.number
        self._send(move, shape.corrections, deal_activation(shape, p0=p0, p1=p1, item=self._item, step=step))
        return widening.draw_output_mask(shape.widening, self._draws(move)[0])

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        p0, p1 = self._draws(move)
        corrections, triples = label.deal_label(shape, p0=p0, p1=p1)
        self._send(move, shape.corrections, corrections)
        self._send(products, shape.triples, triples)
        return _nothing(half.shape)


@dataclass(frozen=True, kw_only=True)
class PreparedDataOwner:
    """All that P0 needs online, made before the image exists. Used for one image."""

    unspent_input_mask: list[RingElements] = field(repr=False)
    """rho of the image; empty once an image was masked."""
    layers: tuple[tuple[Move, OpenedAsP0], ...] = field(repr=False)
    output_share: RingElements = field(repr=False)
    """Zeros where the output is a label."""
    heat_map_share: RingElements | None = field(repr=False)
    """Where the plan opens one: all of P0's half comes out of its seed."""

    def spend_input_mask(self) -> RingElements:
        """Give rho, once: under one mask, two images would show P1 their difference. Raises MaterialSpent."""
        try:
            return self.unspent_input_mask.pop()
        except IndexError:
            raise MaterialSpent("this material has masked an image before; start a new session") from None


class DataOwnerOffline(Walk):
    """P0, offline: its half of everything, for it is fixed by masks. Sends P1 its hidden share at each comparison."""

    def __init__(
        self, lowering: MaskedLowering, deltas: PreparedMaps, *, seed: Seed, item: ItemName, send: Send
    ) -> None:
        """Prepare one item. `deltas`: Delta of each linear step."""
        super().__init__(lowering)
        self._deltas = deltas
        self._seed = seed
        self._item = item
        self._send = send
        self._input_mask: RingElements | None = None
        self._layers: list[tuple[Move, OpenedAsP0]] = []

    def prepare(self) -> PreparedDataOwner:
        """Walk the plan and keep what the online phase needs."""
        output = self.run()
        assert self._input_mask is not None  # the first step is the input
        return PreparedDataOwner(
            unspent_input_mask=[self._input_mask],
            layers=tuple(self._layers),
            output_share=output,
            heat_map_share=self.heat_map,
        )

    def _draws(self, move: Move) -> Draws:
        return Draws(self._seed, item=self._item, step=move.number)

    def input(self, step: InputStep, move: Move) -> RingElements:
        self._input_mask = input_mask(step, self._draws(move))
        return self._input_mask

    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        return linear_map(self._deltas[step.name], half)

    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        return linear.linear_as_p0(part, draws=self._draws(move), bits=step.value.ring_bits)

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        part = ProductAsP0(shape, self._draws(move), halves)
        self._layers.append((move, part))
        return part.output_mask

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        return self._compare(shape, LayerAsP0(shape, self._draws(move)), half, move)

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        part = DitheredTruncationAsP0(shape, self._draws(move))
        if shape.wide:
            return self._compare(shape, part, half, move)
        self._send(move, shape.prepared, part.prepare(half))
        return part.output_mask

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        part = ActivationAsP0(shape, self._seed, item=self._item, step=move.number)
        return self._compare(shape, part, half, move)

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        return self._compare(shape, LabelAsP0(shape, self._draws(move)), half, move)

    def _compare(
        self,
        shape: ComparisonShape | ActivationShape | LabelShape,
        part: ComparisonAsP0,
        half: RingElements,
        move: Move,
    ) -> RingElements:
        self._send(move, shape.prepared, part.prepare(half))
        self._layers.append((move, part))
        return part.output_mask


@dataclass(frozen=True, kw_only=True)
class ModelOwnerItem:
    """P1's material of one item, by move."""

    corrections: dict[Move, Bundle] = field(repr=False)
    prepared: dict[Move, Bundle] = field(repr=False)
    """What P0 hid and sent."""

    def spend_correction(self, move: Move) -> Bundle:
        """Give what D dealt for a move, once. Raises MaterialSpent."""
        return _spend(self.corrections, move)

    def spend_prepared(self, move: Move) -> Bundle:
        """Give what P0 hid for a move, once. Raises MaterialSpent."""
        return _spend(self.prepared, move)


def _spend(kept: dict[Move, Bundle], move: Move) -> Bundle:
    try:
        return kept.pop(move)
    except KeyError:
        raise MaterialSpent("this material was used for an image before; start a new session") from None


class ModelOwnerOffline(Walk):
    """P1, offline: receives at each move what D and P0 send. Computes nothing: zeros stand for every half."""

    def __init__(self, lowering: MaskedLowering, *, from_dealer: Receive, from_data_owner: Receive) -> None:
        """Collect one item."""
        super().__init__(lowering)
        self._from_dealer = from_dealer
        self._from_data_owner = from_data_owner
        self._corrections: dict[Move, Bundle] = {}
        self._prepared: dict[Move, Bundle] = {}

    def collect(self) -> ModelOwnerItem:
        """Walk the plan and keep what arrives."""
        self.run()
        return ModelOwnerItem(corrections=self._corrections, prepared=self._prepared)

    def input(self, step: InputStep, move: Move) -> RingElements:
        return _nothing(step.shape)

    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        return _nothing(step.shape)

    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        layout = linear.correction_layout(step.shape, bits=step.value.ring_bits)
        self._corrections[move] = self._from_dealer(move, layout)
        return part

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        self._corrections[move] = self._from_dealer(move, shape.corrections)
        return _nothing(shape.left)

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        return self._compare(shape, move)

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        if shape.wide:
            return self._compare(shape, move)
        self._prepared[move] = self._from_data_owner(move, shape.prepared)
        return _nothing((shape.count,))

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        return self._compare(shape, move)

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        self._compare(shape, move)
        self._corrections[products] = self._from_dealer(products, shape.triples)
        return _nothing(half.shape)

    def _compare(self, shape: ComparisonShape | ActivationShape | LabelShape, move: Move) -> RingElements:
        self._corrections[move] = self._from_dealer(move, shape.corrections)
        self._prepared[move] = self._from_data_owner(move, shape.prepared)
        return _nothing((shape.count,))


def _nothing_meanwhile() -> None:
    return


def _nothing(shape: tuple[int, ...]) -> RingElements:
    return np.broadcast_to(np.uint32(0), shape)


def input_layout(step: InputStep) -> BundleLayout:
    """P0 -> P1, online: x - rho."""
    return BundleLayout(count=step.elements, ring_bits=(step.value.ring_bits,))


def output_layout(lowering: MaskedLowering) -> BundleLayout:
    """P1 -> P0, output: P1's share of the logits."""
    step = lowering.step(lowering.output)
    return BundleLayout(count=step.elements, ring_bits=(step.value.ring_bits,))


def mask_image(step: InputStep, image: NDArray[np.int64], prepared: PreparedDataOwner) -> Bundle:
    """P0, online: v = x - rho. `image`: the integers of the plan, in the input's shape. Raises MaterialSpent."""
    masked = image.astype(np.uint32) - prepared.spend_input_mask()
    return Bundle(rings=(reduce_to_ring(masked.reshape(-1), step.value.ring_bits),))


class ModelOwnerOnline(Walk):
    """P1, online: the real evaluation, on masked values."""

    with_constants = True

    def __init__(
        self,
        lowering: MaskedLowering,
        weights: PreparedMaps,
        biases: Mapping[str, RingElements],
        item: ModelOwnerItem,
        *,
        seed: Seed,
        name: ItemName,
        image: Bundle,
        exchange: Exchange,
        activate: Callable[[Move, ActivationAsP1, RingElements], RingElements],
    ) -> None:
        """Evaluate on `image` (v = x - rho).

        `activate` plays a layer that CrypTen computes, from P1's half of x to its half of y.
        """
        super().__init__(lowering)
        self.label_to_open: tuple[Move, LabelAsP1] | None = None
        """Where the output is a label: P1's part of it, which takes the half of the logits that `run` returns."""
        self._weights = weights
        self._biases = biases
        self._item = item
        self._seed = seed
        self._name = name
        self._image = image
        self._exchange = exchange
        self._activate_with = activate
        self._answered = Rows(np.empty(0, np.uint32))
        """Of the layer of comparisons before: P0's answer to it is read while the next one is opened."""

    def run(self, on_step: Callable[[Step], None] | None = None) -> RingElements:
        """See `Walk`. P0's last answer has then been read."""
        result = super().run(on_step)
        self._answered.whole()
        return result

    def _draws(self, move: Move) -> Draws:
        return Draws(self._seed, item=self._name, step=move.number)

    def input(self, step: InputStep, move: Move) -> RingElements:
        return self._image.rings[0].values.reshape(step.shape)

    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        return self.linear_rows(step, Rows(half)).whole()

    def linear_rows(self, step: LinearStep, half: Rows) -> Rows:
        product, bias = ProductByRows(self._weights[step.name]), self._biases[step.name]

        def compute(start: int, stop: int) -> RingElements:
            return product.multiply(half.require(product.rows_needed(stop, half.count)), start, stop) + bias

        return computed(step.shape, compute)

    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        return self.correct_rows(step, Rows(part), move).whole()

    def correct_rows(self, step: Step, part: Rows, move: Move) -> Rows:
        u1 = self._item.spend_correction(move).rings[0].values.reshape(step.shape)
        return computed(
            step.shape,
            lambda start, stop: linear.linear_as_p1(part.take(start, stop), correction=select(u1, start, stop)),
        )

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        self._answered.whole()
        part = ProductAsP1(shape, self._draws(move), self._item.spend_correction(move))
        (answer,) = self._exchange([(move, shape, part.open(*halves))], part.multiply)
        return part.finish(answer)

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        return self.compare_rows(shape, Rows(half), move).whole()

    def compare_rows(self, shape: ComparedShape, half: Rows, move: Move) -> Rows:
        """Open all parts, each as soon as its rows are there; the answers are read when they are wanted.

        Of the layer before, the answer to one part is read before, so that each layer takes its two trips, and all are
        read before this layer's.
        """
        before, part = self._answered, LayerAsP1(shape, *self._material(move))
        before.require(min(1, before.count))
        row_elements = shape.count // half.count

        def openings() -> Iterator[tuple[Move, ComparedShape, Bundle]]:
            for elements, shape_of_part in zip(shape.parts, shape.shapes_of_parts, strict=True):
                rows = half.take(elements.start // row_elements, elements.stop // row_elements)
                yield move, shape_of_part, part.open(row_after_row(rows))
            before.whole()

        answers, parts = self._exchange(openings(), part.release), iter(shape.parts)
        array = np.empty(half.shape, np.uint32)

        def extend(ready: int, stop: int) -> int:
            while ready < stop:
                y, elements = part.finish(next(answers)), next(parts)
                first, ready = ready, elements.stop // row_elements
                rows = select(array, first, ready)
                rows[:] = from_row_after_row(y, rows.shape)
            return ready

        self._answered = Rows(array, extend)
        return self._answered

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        if not shape.wide:
            prepared = self._item.spend_prepared(move)
            return DitheredTruncationAsP1(shape, self._draws(move), None, prepared).truncate(half)
        self._answered.whole()
        part = DitheredTruncationAsP1(shape, *self._material(move))
        (answer,) = self._exchange([(move, shape, part.open(half))], _nothing_meanwhile)
        return part.finish(answer)

    def _material(self, move: Move) -> tuple[Draws, Bundle, Bundle]:
        return self._draws(move), self._item.spend_correction(move), self._item.spend_prepared(move)

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        self._answered.whole()
        corrections, prepared = self._item.spend_correction(move), self._item.spend_prepared(move)
        part = ActivationAsP1(shape, self._seed, corrections, prepared, item=self._name, step=move.number)
        return self._activate_with(move, part, half)

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        self._answered.whole()
        corrections, triples = self._item.spend_correction(move), self._item.spend_correction(products)
        part = LabelAsP1(shape, self._draws(move), corrections, triples, self._item.spend_prepared(move))
        self.label_to_open = (move, part)
        return half
