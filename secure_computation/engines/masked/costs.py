"""What one image costs under a masked plan: body bytes of every message, counted by a walk that sends nothing.

Where CrypTen computes, both parties send at once: that is one trip.
"""

from collections.abc import Sequence

import numpy as np

from contract.model_card import Strict
from secure_computation.engines.masked.activation import ActivationShape
from secure_computation.engines.masked.plan import InputStep, LinearStep, MaskedLowering
from secure_computation.engines.masked.walk import Compared, Move, Walk, heat_map_shape
from secure_computation.engines.masked.weights import delta_layout, linear_steps
from secure_computation.protocols import linear
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.label import LabelShape
from secure_computation.protocols.product import Pair, ProductShape
from secure_computation.protocols.relu import ReluShape
from secure_computation.protocols.truncation import TruncationShape
from secure_computation.ring import packed_bytes


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

    @property
    def online_bytes(self) -> int:
        """Both ways."""
        return self.data_owner_to_model_owner + self.model_owner_to_data_owner

    @property
    def offline_bytes(self) -> int:
        """Dealt corrections and prepared shares."""
        return self.dealer_to_model_owner + self.data_owner_to_model_owner_offline


def declared_costs(lowering: MaskedLowering) -> dict[str, Cost]:
    """Cost of each step, by its name; opening the result is counted with the step that makes it."""
    walk = _CostWalk(lowering)
    walk.run()
    if lowering.gives_label:
        return walk.costs
    output = lowering.step(lowering.output)
    opened = packed_bytes(output.shape, output.value.ring_bits)
    if lowering.heat_map is not None:
        opened += heat_map_shape(lowering.heat_map).opened.body_bytes
    walk.costs[output.name] += Cost(model_owner_to_data_owner=opened, trips=1)
    return walk.costs


def total_cost(lowering: MaskedLowering) -> Cost:
    """Cost of one image."""
    return sum(declared_costs(lowering).values(), Cost())


def largest_answer_bytes(lowering: MaskedLowering) -> int:
    """The most that the data owner sends in reply to the openings of one layer, in bytes of bodies."""
    walk = _CostWalk(lowering)
    walk.run()
    return walk.largest_answer


def masked_weight_bytes(lowering: MaskedLowering) -> int:
    """Body bytes of the masked weights, model owner to data owner, once for each version of the weights."""
    return sum(delta_layout(step).body_bytes for _, step in linear_steps(lowering))


class _CostWalk(Walk):
    """Counts instead of sending; halves are zeros without memory of their own."""

    def __init__(self, lowering: MaskedLowering) -> None:
        super().__init__(lowering)
        self.costs: dict[str, Cost] = {step.name: Cost() for step in lowering.steps}
        self.largest_answer = 0

    def input(self, step: InputStep, move: Move) -> RingElements:
        self.costs[move.step] += Cost(data_owner_to_model_owner=packed_bytes(step.shape, step.value.ring_bits), trips=1)
        return _zeros(step.shape)

    def linear(self, step: LinearStep, half: RingElements, move: Move) -> RingElements:
        layout = linear.correction_layout(step.shape, bits=step.value.ring_bits)
        self.costs[move.step] += Cost(dealer_to_model_owner=layout.body_bytes)
        return _zeros(step.shape)

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        self.largest_answer = max(self.largest_answer, shape.from_p0.body_bytes)
        self.costs[move.step] += Cost(
            dealer_to_model_owner=shape.corrections.body_bytes,
            data_owner_to_model_owner=shape.from_p0.body_bytes,
            model_owner_to_data_owner=shape.from_p1.body_bytes,
            trips=2,
        )
        return _zeros(shape.left)

    def relu(self, shape: ReluShape, half: RingElements, move: Move) -> RingElements:
        return self._comparison(shape, move)

    def relus(self, parts: Sequence[Compared]) -> list[RingElements]:
        largest = self.largest_answer
        zeros = super().relus(parts)
        # All parts are opened before the first is answered: they wait for the network together.
        self.costs[parts[0].move.step] += Cost(trips=-2 * (len(parts) - 1))
        self.largest_answer = max(largest, sum(part.shape.from_p0.body_bytes for part in parts))
        return zeros

    def truncate(self, shape: TruncationShape, half: RingElements, move: Move) -> RingElements:
        return self._comparison(shape, move)

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        opened = shape.dealing.opened_bytes
        self.costs[move.step] += Cost(
            dealer_to_model_owner=shape.corrections.body_bytes,
            data_owner_to_model_owner_offline=shape.prepared.body_bytes,
            data_owner_to_model_owner=shape.from_p0.body_bytes + opened,
            model_owner_to_data_owner=shape.from_p1.body_bytes + opened,
            trips=2 + len(shape.dealing.openings),
        )
        return _zeros((shape.count,))

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        layers = [shape.layer(index).body_bytes for index in range(len(shape.widths))]
        self.costs[move.step] += Cost(
            dealer_to_model_owner=shape.corrections.body_bytes + shape.triples.body_bytes,
            data_owner_to_model_owner_offline=shape.prepared.body_bytes,
            data_owner_to_model_owner=sum(layers),
            model_owner_to_data_owner=shape.opening.body_bytes + sum(layers) + shape.label.body_bytes,
            trips=2 * len(layers) + 1,
        )
        return _zeros(half.shape)

    def _comparison(self, shape: ReluShape | TruncationShape, move: Move) -> RingElements:
        self.largest_answer = max(self.largest_answer, shape.from_p0.body_bytes)
        self.costs[move.step] += Cost(
            dealer_to_model_owner=shape.corrections.body_bytes,
            data_owner_to_model_owner_offline=shape.prepared.body_bytes,
            data_owner_to_model_owner=shape.from_p0.body_bytes,
            model_owner_to_data_owner=shape.from_p1.body_bytes,
            trips=2,
        )
        return _zeros((shape.count,))


def _zeros(shape: tuple[int, ...]) -> RingElements:
    return np.broadcast_to(np.uint32(0), shape)
