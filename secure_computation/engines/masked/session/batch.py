"""How many images a session of a plan may have: public, and the same at every party."""

from typing import Final

from contract.ticket import MAX_IMAGES
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.costs import largest_answer_bytes, total_cost

ANSWERS_BYTES: Final = 64 << 20
"""P1 sends all openings of a move before it reads the first answer. P0 may write its answers meanwhile, so they must
fit what a transport takes in unread (`channel.bridge.INBOUND_BYTES`, 128 MiB): else both could wait for each other."""

MATERIAL_BYTES: Final = 4 << 30
"""What the items of one session may take at P1, all of which arrive before the first image is shared."""


def most_images(lowering: MaskedLowering) -> int:
    """The most images of one session, at least 1."""
    material = max(1, total_cost(lowering).offline_bytes)
    answer = max(1, largest_answer_bytes(lowering))
    return max(1, min(MAX_IMAGES, ANSWERS_BYTES // answer, MATERIAL_BYTES // material))
