"""Heat map: P0 learns the class activation map of an image, truncated, and nothing else; P1 learns nothing.

For a head of global average pool and fully connected layer: the layer's weights W, applied at every place of the last
feature map x, give one picture for each class, z = W * x without bias (Zhou et al. 2016); the mean over a picture is
the class's logit less its bias. A composition of what stands on other pages: a private linear map, a narrow truncation
of f bits, and an opening. P0 holds rho of x, fixed before the input is known, P1 holds v = x - rho.

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    once for each model version
    A' from the model seed     Delta'                          <--    A' from the model seed; Delta' = W - A'
    offline, for each item (`linear`; `truncation` or `dithered_truncation`)
    u1 = A' * rho - t                                          -->    u1
    (exact: what a truncation deals)                           -->    corrections
                               z0 + r0                         -->
    online (exact: the truncation's opening and answer; dithered: nothing is sent)
    output
                                                               <--    y - rho', cut to its ring of k_out bits
                               y = floor(z / 2^f), or the dithered one

The share of the map goes with that of the logits. In exact arithmetic, two messages are added to those of the plan.

Two masks hide one W. P0 holds Delta = W - A of the fully connected layer and Delta' = W - A' of this one. A and A' are
drawn from different streams, so that the two are independent one-time pads: (Delta, Delta') is uniform, and the same
for every W. What must not happen, one mask on two different W, cannot: A' belongs to this step and to the version of
the weights, like every other mask. x keeps its one mask rho and feeds two maps; each has a t of its own.

What is opened, and to whom: what every truncation opens; the map to P0. Its own half is rho', from its seed, so
P1's last message follows from the map: y - rho', and P0's view can be made from the map alone. P1 receives no output.

It is truncated before it is opened because an exact one is a linear system for W: with it, a data owner that deviates
learns the last layer in a handful of queries, and even a truncated one tells more than logits (docs/threat-model.md).
Only for models whose owner allows it, and never with labels only.

Source: Zhou et al. 2016, "Learning deep features for discriminative localization"; docs/protocol.md, "Output".
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.linear import correction_layout
from secure_computation.protocols.truncation import TruncationShape
from secure_computation.ring import reduce_to_ring, signed


@dataclass(frozen=True, kw_only=True)
class HeatMapShape:
    """The public parameters of one heat map."""

    classes: int
    height: int
    width: int
    truncation: TruncationShape | DitheredTruncationShape
    """From the ring of z, |z| < 2^(k-1), to that of what is opened, which has no more bits than are left of z."""

    def __post_init__(self) -> None:
        """Refuse the wide form: it would need a spare bit in z, and open bits that say nothing."""
        if self.truncation.wide:
            raise ValueError("a heat map is truncated in the narrow form")

    @property
    def count(self) -> int:
        """Elements."""
        return self.classes * self.height * self.width

    @cached_property
    def correction(self) -> BundleLayout:
        """D -> P1, offline: u1."""
        return correction_layout((self.count,), bits=self.truncation.ring_bits)

    @cached_property
    def opened(self) -> BundleLayout:
        """P1 -> P0, output: its half of the map."""
        return BundleLayout(count=self.count, ring_bits=(self.truncation.output_bits,))


def share_heat_map(shape: HeatMapShape, half: RingElements) -> Bundle:
    """P1, output: its half of the truncated map, y - rho', cut to its ring. Goes to P0 only.

    What lies above the ring in `half` must not leave: it would tell sums of masked values that P0 could subtract.
    """
    return Bundle(rings=(reduce_to_ring(half.reshape(-1), shape.truncation.output_bits),))


def open_heat_map(shape: HeatMapShape, received: Bundle, output_mask: RingElements) -> NDArray[np.int64]:
    """P0, output: the map's integers, (classes, height, width). `output_mask`: rho' of the truncation."""
    # reveal: the data owner, and nobody else, learns the truncated map, because the model's owner allows it.
    opened = reduce_to_ring(received.rings[0].values + output_mask.reshape(-1), shape.truncation.output_bits)
    return signed(opened).astype(np.int64).reshape(shape.classes, shape.height, shape.width)
