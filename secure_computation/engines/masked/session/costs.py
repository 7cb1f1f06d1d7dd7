"""What one image costs under a masked plan: body bytes of every message, from the steps' shapes alone.

Takes no memory that grows with the plan's values: a party counts before it trusts a plan. Where CrypTen computes, both
parties send at once: that is one trip.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final, assert_never

from contract.base import Strict
from contract.model_card import Arithmetic
from contract.ticket import MAX_IMAGES
from secure_computation.crypten_bridge.dealing import ELEMENT_BYTES
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
from secure_computation.engines.masked.session.corrections import find_corrected
from secure_computation.engines.masked.session.step_shapes import (
    activation_shape,
    heat_map_shape,
    label_shape,
    max_pool_levels,
    positive_part_shape,
    relu_shape,
    truncation_shape,
)
from secure_computation.engines.masked.session.weights import delta_layout, linear_steps
from secure_computation.network import Shape
from secure_computation.protocols import linear
from secure_computation.protocols.compared_layer import ComparedShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.label import LabelShape
from secure_computation.protocols.product import ProductShape
from secure_computation.protocols.truncation import TruncationShape
from secure_computation.ring import packed_bytes

_MOST_DEALT_BYTES: Final = 480
"""Dealt for one element of what CrypTen computes, where its function and its range ask for most."""
_MOST_OPENED_BYTES: Final = 896
"""Opened for one such element, in each direction."""
_MOST_OPENINGS: Final = 24
"""One-way trips of a function; of a softmax so many more for each doubling of its channels:"""
_OPENINGS_A_DOUBLING: Final = 11

ANSWERS_BYTES: Final = 64 << 20
"""P1 sends all openings of a move before it reads the first answer. P0 may write its answers meanwhile, so they must
fit what a transport takes in unread (`channel.bridge.INBOUND_BYTES`, 128 MiB): else both could wait for each other."""

MATERIAL_BYTES: Final = 4 << 30
"""What the items of one session may take at P1, all of which arrive before the first image is shared."""


class Cost(Strict):
    """Bytes of message bodies, without frame headers, and one-way trips on the way from image to result."""

    dealer_to_model_owner: int = 0
    """Offline."""
    data_owner_to_model_owner_offline: int = 0
    data_owner_to_model_owner: int = 0
    """Online."""
    model_owner_to_data_owner: int = 0
    """Online."""
    trips: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Cost of both."""
        mine, others = self.model_dump(), other.model_dump()
        return Cost(**{name: mine[name] + others[name] for name in mine})

    def times(self, factor: int) -> "Cost":
        """Cost of so many."""
        return Cost(**{name: factor * amount for name, amount in self.model_dump().items()})

    @property
    def online_bytes(self) -> int:
        """Both ways."""
        return self.data_owner_to_model_owner + self.model_owner_to_data_owner

    @property
    def offline_bytes(self) -> int:
        """Dealt corrections and prepared shares."""
        return self.dealer_to_model_owner + self.data_owner_to_model_owner_offline


def declared_costs(lowering: MaskedLowering) -> dict[str, Cost]:
    """Cost of each step, by its name; opening the result is counted with the step that makes it.

    A step that CrypTen computes is counted by a dry run of it, which loads CrypTen.
    """
    return _costs(lowering, _activation_cost)


def total_cost(lowering: MaskedLowering) -> Cost:
    """Cost of one image."""
    return sum(declared_costs(lowering).values(), Cost())


def most_it_costs(lowering: MaskedLowering) -> Cost:
    """As `total_cost`, but without CrypTen: its steps count for the most that they may cost."""
    return sum(_costs(lowering, _most_of_an_activation).values(), Cost())


def largest_answer_bytes(lowering: MaskedLowering) -> int:
    """The most that the data owner sends in reply to the openings of one layer, in bytes of bodies."""
    shapes = {step.name: step.shape for step in lowering.steps}
    return max(
        (
            layer.data_owner_to_model_owner
            for step in lowering.steps
            for layer in _layers(step, [shapes[name] for name in step.inputs], lowering.arithmetic)
        ),
        default=0,
    )


def masked_weight_bytes(lowering: MaskedLowering) -> int:
    """Body bytes of the masked weights, model owner to data owner, once for each version of the weights."""
    return sum(delta_layout(step).body_bytes for _, step in linear_steps(lowering))


def most_images(lowering: MaskedLowering) -> int:
    """The most images that a session may have, at least 1: public, and the same at every party."""
    material = max(1, total_cost(lowering).offline_bytes)
    answer = max(1, largest_answer_bytes(lowering))
    return max(1, min(MAX_IMAGES, ANSWERS_BYTES // answer, MATERIAL_BYTES // material))


_CountActivation = Callable[[CrypTenStep], Cost]


def _costs(lowering: MaskedLowering, count_activation: _CountActivation) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    shapes: dict[str, Shape] = {}
    corrected = find_corrected(lowering)
    for step in lowering.steps:
        sources = [shapes[name] for name in step.inputs]
        costs[step.name] = _step_cost(step, sources, lowering.arithmetic, count_activation)
        if step.name in corrected:
            layout = linear.correction_layout(step.shape, bits=step.value.ring_bits)
            costs[step.name] += Cost(dealer_to_model_owner=layout.body_bytes)
        shapes[step.name] = step.shape
    if not lowering.gives_label:
        output = lowering.step(lowering.output)
        opened = packed_bytes(output.shape, output.value.ring_bits)
        if lowering.heat_map is not None:
            opened += heat_map_shape(lowering.heat_map, lowering.arithmetic).opened.body_bytes
        costs[output.name] += Cost(model_owner_to_data_owner=opened, trips=1)
    return costs


def _step_cost(step: Step, sources: list[Shape], arithmetic: Arithmetic, count_activation: _CountActivation) -> Cost:
    match step:
        case InputStep():
            return Cost(data_owner_to_model_owner=packed_bytes(step.shape, step.value.ring_bits), trips=1)
        case CrypTenStep():
            return count_activation(step)
        case LabelStep():
            return _label_cost(label_shape(step))
        case ReluStep() | TruncateStep() | MaxPoolStep() | ClipStep() | MultiplyStep():
            return sum(_layers(step, sources, arithmetic), Cost())
        case LinearStep() | AddStep() | ConcatStep() | SumPoolStep() | PadStep() | ReshapeStep() | OffsetStep():
            return Cost()  # each party by itself, but for corrections
        case _ as never:
            assert_never(never)


def _layers(step: Step, sources: list[Shape], arithmetic: Arithmetic) -> Iterator[Cost]:
    """Cost of each layer of a step that P0 answers at once: a max pool has several, most steps have one or none."""
    match step:
        case ReluStep():
            yield _comparison_cost(relu_shape(step, arithmetic))
        case ClipStep():
            yield _comparison_cost(positive_part_shape(step, step.shape, arithmetic))
        case MaxPoolStep():
            for count in max_pool_levels(step, sources[0]):
                yield _comparison_cost(positive_part_shape(step, (count,), arithmetic))
        case TruncateStep():
            yield _truncation_cost(truncation_shape(step, arithmetic))
        case MultiplyStep():
            shape = ProductShape(left=sources[0], right=sources[1], ring_bits=step.value.ring_bits)
            yield Cost(
                dealer_to_model_owner=shape.corrections.body_bytes,
                data_owner_to_model_owner=shape.from_p0.body_bytes,
                model_owner_to_data_owner=shape.from_p1.body_bytes,
                trips=2,
            )
        case InputStep() | LinearStep() | CrypTenStep() | LabelStep():
            pass  # counted by `_step_cost`: no layer of comparisons
        case AddStep() | ConcatStep() | SumPoolStep() | PadStep() | ReshapeStep() | OffsetStep():
            pass  # each party by itself
        case _ as never:
            assert_never(never)


def _truncation_cost(shape: TruncationShape | DitheredTruncationShape) -> Cost:
    if isinstance(shape, DitheredTruncationShape) and not shape.wide:
        return Cost(data_owner_to_model_owner_offline=shape.prepared.body_bytes)
    return _comparison_cost(shape)


def _comparison_cost(shape: ComparedShape | DitheredTruncationShape) -> Cost:
    sent = [(1, shape)]
    if isinstance(shape, ComparedShape) and shape.part_count:
        # All parts are opened before the first is answered: they wait for the network together.
        whole, rest = divmod(shape.count, shape.part_count)
        sent = [(whole, shape.part(shape.part_count)), (1, shape.part(rest))]
    return Cost(
        dealer_to_model_owner=shape.corrections.body_bytes,
        data_owner_to_model_owner_offline=shape.prepared.body_bytes,
        data_owner_to_model_owner=sum(times * part.from_p0.body_bytes for times, part in sent),
        model_owner_to_data_owner=sum(times * part.from_p1.body_bytes for times, part in sent),
        trips=2,
    )


def _activation_cost(step: CrypTenStep) -> Cost:
    shape = activation_shape(step)
    return _cost_beside_crypten(
        step,
        correction_bytes=shape.dealing.correction_elements * ELEMENT_BYTES,
        opened_bytes=shape.dealing.opened_bytes,
        openings=len(shape.dealing.openings),
    )


def _most_of_an_activation(step: CrypTenStep) -> Cost:
    doublings = math.ceil(math.log2(step.shape[0])) if step.function == "softmax" else 0
    return _cost_beside_crypten(
        step,
        correction_bytes=_MOST_DEALT_BYTES * step.elements,
        opened_bytes=_MOST_OPENED_BYTES * step.elements,
        openings=_MOST_OPENINGS + doublings * _OPENINGS_A_DOUBLING,
    )


def _cost_beside_crypten(step: CrypTenStep, *, correction_bytes: int, opened_bytes: int, openings: int) -> Cost:
    widening = activation_shape(step).widening
    return Cost(
        dealer_to_model_owner=widening.correction_elements * ELEMENT_BYTES + correction_bytes,
        data_owner_to_model_owner_offline=widening.prepared.body_bytes,
        data_owner_to_model_owner=widening.from_p0.body_bytes + opened_bytes,
        model_owner_to_data_owner=widening.from_p1.body_bytes + opened_bytes,
        trips=2 + openings,
    )


def _label_cost(shape: LabelShape) -> Cost:
    layers = [shape.layer(index).body_bytes for index in range(len(shape.widths))]
    return Cost(
        dealer_to_model_owner=shape.corrections.body_bytes + shape.triples.body_bytes,
        data_owner_to_model_owner_offline=shape.prepared.body_bytes,
        data_owner_to_model_owner=sum(layers),
        model_owner_to_data_owner=shape.opening.body_bytes + sum(layers) + shape.label.body_bytes,
        trips=2 * len(layers) + 1,
    )
