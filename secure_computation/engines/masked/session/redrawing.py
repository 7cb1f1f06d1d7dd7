"""P0's item drawn from its seed once more: by P0 for an item in stock, by D to state the right answers of a decoy."""

import numpy as np

from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import LinearStep, Step
from secure_computation.engines.masked.session.roles import DataOwnerOffline, PreparedDataOwner
from secure_computation.engines.masked.session.walk import Move
from secure_computation.material import ItemName
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import RingElements
from secure_computation.randomness import Seed


def redraw_data_owner(lowering: MaskedLowering, *, seed: Seed, item: ItemName) -> PreparedDataOwner:
    """All that P0 needs online, except its shares of the output, which are zeros: they depend on masked weights."""
    return _DrawnAgain(lowering, {}, seed=seed, item=item, send=_send_nothing).prepare()


class _DrawnAgain(DataOwnerOffline):
    """P0's walk without its linear maps: what it needs online does not depend on them, except for the output share."""

    def linear(self, step: LinearStep, half: RingElements) -> RingElements:
        del half
        return np.broadcast_to(np.uint32(0), step.shape)

    def correct(self, step: Step, part: RingElements, move: Move) -> RingElements:
        del step, move
        return part


def _send_nothing(move: Move, layout: BundleLayout, bundle: Bundle) -> None:
    """All of it was sent when the item was made."""
    del move, layout, bundle
