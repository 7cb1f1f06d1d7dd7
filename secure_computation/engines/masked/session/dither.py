"""By what each layer of a dithered plan rounds, from both seeds of an item: for comparing a session with the reference.

Nobody who takes part can compute it: P0 has one seed, P1 the other, and D, which has both, deals before there is an
image. So this is for tests, and for all three roles in one process.
"""

from collections import defaultdict

import numpy as np

from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.reference import Dither, Dithers, Integers
from secure_computation.engines.masked.plan.steps import InputStep, LinearStep, ReluStep, Step, TruncateStep
from secure_computation.engines.masked.session.activation import ActivationShape
from secure_computation.engines.masked.session.walk import Move, Walk
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.protocols.compared_layer import ComparedShape
from secure_computation.protocols.dithered_relu import DitheredReluShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.label import LabelShape
from secure_computation.protocols.opening import draw_mask
from secure_computation.protocols.product import Pair, ProductShape


def compute_dithers(lowering: MaskedLowering, seeds: DealtSeeds, item: ItemName) -> Dithers:
    """What `reference.evaluate` rounds by to equal the session that spent this item."""
    found = _DitherPass(lowering, seeds, item)
    found.run()

    def dither_of(step: ReluStep | TruncateStep) -> Dither:
        rounding, sign = (
            np.concatenate(parts).reshape(step.shape) for parts in zip(*found.parts[step.name], strict=True)
        )
        return Dither(rounding, sign)

    return dither_of


class _DitherPass(Walk):
    """Walks a plan with zeros for every half and keeps, by step, the dithers of each part in order."""

    def __init__(self, lowering: MaskedLowering, seeds: DealtSeeds, item: ItemName) -> None:
        super().__init__(lowering)
        self.parts: dict[str, list[tuple[Integers, Integers]]] = defaultdict(list)
        self._seeds = seeds
        self._item = item

    def _masks(self, move: Move, shape: ComparedShape | DitheredTruncationShape, p1_bits: int) -> list[Integers]:
        """r0 and r1."""
        return [
            draw_mask(Draws(seed, item=self._item, step=move.number), shape.count, bits=bits).astype(np.int64)
            for seed, bits in ((self._seeds.data_owner, shape.ring_bits), (self._seeds.model_owner, p1_bits))
        ]

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        if isinstance(shape, DitheredReluShape):
            r0, r1 = self._masks(move, shape, shape.opened_bits)
            rounding = r0 % (1 << shape.truncated_bits)
            sign = ((r0 >> shape.truncated_bits) + r1) % (1 << shape.sign_cut_bits)
            self.parts[move.step].append((rounding, sign))
        return half

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        r0, _ = self._masks(move, shape, 1)
        self.parts[move.step].append((r0 % (1 << shape.truncated_bits), np.zeros(shape.count, np.int64)))
        return half

    def input(self, step: InputStep, move: Move) -> RingElements:
        return np.zeros(step.shape, np.uint32)

    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        return np.zeros(step.shape, np.uint32)

    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        return part

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        return halves[0]

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        return half

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        return half
