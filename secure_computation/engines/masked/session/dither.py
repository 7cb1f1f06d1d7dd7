"""By what each layer of a dithered plan rounds, from seeds and Delta: for comparing a session with the reference.

Nobody who takes part can compute all of it: P0 has one seed, P1 the other, and D, which has both, lacks Delta. So this
is for tests, and for all three roles in one process.
"""

import numpy as np

from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.reference import Dither, Dithers, Integers
from secure_computation.engines.masked.plan.steps import ReluStep, TruncateStep
from secure_computation.engines.masked.session.roles import DataOwnerOffline, PreparedMaps
from secure_computation.engines.masked.session.rows import from_row_after_row
from secure_computation.engines.masked.session.walk import Move
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.compared_layer import ComparedShape
from secure_computation.protocols.dithered_relu import DitheredReluShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.opening import draw_mask, find_dither


def compute_dithers(lowering: MaskedLowering, seeds: DealtSeeds, item: ItemName, deltas: PreparedMaps) -> Dithers:
    """What `reference.evaluate` rounds by to equal the session that spent this item. `deltas`: Delta of each map."""
    found = _DitherPass(lowering, seeds, item, deltas)
    found.prepare()

    def dither_of(step: ReluStep | TruncateStep) -> Dither:
        rounding, sign = found.dithers[step.name]
        if isinstance(step, ReluStep):  # its layer draws row after row
            return Dither(from_row_after_row(rounding, step.shape), from_row_after_row(sign, step.shape))
        return Dither(rounding.reshape(step.shape), sign.reshape(step.shape))

    return dither_of


class _DitherPass(DataOwnerOffline):
    """P0's walk, which sends nothing and keeps, by step, its dithers in the order in which they are drawn."""

    def __init__(self, lowering: MaskedLowering, seeds: DealtSeeds, item: ItemName, deltas: PreparedMaps) -> None:
        super().__init__(lowering, deltas, seed=seeds.data_owner, item=item, send=_send_nothing)
        self.dithers: dict[str, tuple[Integers, Integers]] = {}
        self._p1 = seeds.model_owner
        self._name = item

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        if isinstance(shape, DitheredReluShape):
            p1 = Draws(self._p1, item=self._name, step=move.number)
            r0, r1 = (draw_mask(one, shape.count, bits=shape.opened_bits) for one in (self._draws(move), p1))
            self._note(move, shape, half, sign=(r0 + r1) & np.uint32((1 << shape.sign_cut_bits) - 1))
        return super().compare(shape, half, move)

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        self._note(move, shape, half, sign=np.zeros(shape.count, np.uint32))
        return super().truncate(shape, half, move)

    def _note(
        self, move: Move, shape: ComparedShape | DitheredTruncationShape, half: RingElements, sign: RingElements
    ) -> None:
        rounding = find_dither(half, shape.truncated_bits)
        self.dithers[move.step] = (rounding.astype(np.int64), sign.astype(np.int64))


def _send_nothing(move: Move, layout: BundleLayout, bundle: Bundle) -> None:
    del move, layout, bundle
