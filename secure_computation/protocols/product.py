"""Product of two values that nobody knows, x * y element by element, in one round trip.

x = a + X and y = b + Y mod 2^k, both in masked form: P0 holds the masks a and b, P1 holds X and Y, and D knows a and b.
y may be repeated over axes of x on which it has one element, as the weights of an image's channels are: F, t and b are
then as small as y.

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    pi, rho' from s0           the same
    s, t from s1                                                      the same
    c = a b - a t - b s - pi - rho'                            -->    c
    online
                                                               <--    E = X + s, F = Y + t
                               m = a F + b E + pi              -->
                               its half of x y is rho'                its half of x y is X Y + m + c

    X Y + m + c + rho' = X Y + a Y + a t + b X + b s + a b - a t - b s = (a + X)(b + Y).

What is opened, and to whom: E and F to P0 (hidden by s and t, which P0 lacks: knowing a, it would read x in X alone), m
to P1 (hidden by pi). c is hidden by rho', so that P1's half of the product, which it could compute from what it has,
is uniform too.

rho' is a fresh mask that D knows. P0's half would otherwise be a F + b E, which depends on the image, and P0 could not
prepare the truncation that follows before there is one; this is what the answer is for.

Source: Beaver 1991, on masks that are there already, as in ABY2.0 (Patra et al. 2021); docs/protocol.md, "Products".
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from contract.errors import MaterialSpent
from secure_computation.network import Shape
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.opening import OUTPUT_MASK
from secure_computation.ring import cut_to_ring, reduce_to_ring

Pair = tuple[RingElements, RingElements]
"""One party's halves of x and y, in their shapes."""


@dataclass(frozen=True, kw_only=True)
class ProductShape:
    """The public parameters of one layer of products."""

    left: Shape
    """Of x, and of the product."""
    right: Shape
    """Of y: as `left`, or with 1 in place of some extents."""
    ring_bits: int
    """k, the ring of the product; wider halves are cut to it."""

    def __post_init__(self) -> None:
        """Refuse shapes of which NumPy would make another than that of x."""
        if np.broadcast_shapes(self.left, self.right) != self.left:
            raise ValueError(f"a value of shape {self.right} cannot be repeated to {self.left}")

    @property
    def count(self) -> int:
        """Products."""
        return math.prod(self.left)

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: c."""
        return BundleLayout(count=self.count, ring_bits=(self.ring_bits,))

    @cached_property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: E, then F."""
        return BundleLayout(count=self.count + math.prod(self.right), ring_bits=(self.ring_bits,))

    @cached_property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online: m."""
        return BundleLayout(count=self.count, ring_bits=(self.ring_bits,))


# D, the dealer


def deal_product(shape: ProductShape, masks: Pair, *, p0: Draws, p1: Draws) -> tuple[Bundle, RingElements]:
    """D: c, for P1, and rho', under which P1 will hold the product. `masks`: a and b."""
    a, b = masks
    s, t = _draw_pads(shape, p1)
    rest = draw_output_mask(shape, p0)
    # c = a b - a t - b s - pi - rho'
    c = a * (b - t) - b * s - _draw_answer_pad(shape, p0) - rest
    return Bundle(rings=(cut_to_ring(c.reshape(-1), shape.ring_bits),)), rest


# P0, the data owner


class ProductAsP0:
    """P0's part of one layer: `answer` P1's opening, and send that."""

    def __init__(self, shape: ProductShape, draws: Draws, masks: Pair) -> None:
        """Take P0's draws of this step, and a and b."""
        self.shape = shape
        self._draws = draws
        self._masks: Pair | None = masks
        self.output_mask = draw_output_mask(shape, draws)
        """rho': P0's half of the product, known before the input is. In the shape of x."""

    def __repr__(self) -> str:
        """Show nothing but where this is."""
        return f"ProductAsP0({self._draws})"

    def answer(self, received: Bundle) -> Bundle:
        """Online: P1's message in, P0's message out. Raises MaterialSpent the second time."""
        if self._masks is None:
            raise MaterialSpent("this layer was answered before; start a new session")
        a, b = self._masks
        opened = received.rings[0].values
        e, f = opened[: self.shape.count].reshape(self.shape.left), opened[self.shape.count :].reshape(self.shape.right)
        # m = a F + b E + pi
        m = a * f + b * e + _draw_answer_pad(self.shape, self._draws)
        return Bundle(rings=(cut_to_ring(m.reshape(-1), self.shape.ring_bits),))

    def release(self) -> None:
        """Free a and b, once answered."""
        self._masks = None


# P1, the model owner


class ProductAsP1:
    """P1's part of one layer. `open` and send what it returns; `multiply` meanwhile; then `finish` with P0's answer."""

    def __init__(self, shape: ProductShape, draws: Draws, corrections: Bundle) -> None:
        """Take P1's draws of this step and D's corrections."""
        self._shape = shape
        self._draws = draws
        self._corrections = corrections
        self._halves: Pair | None = None
        self._alone: RingElements | None = None

    def open(self, x1: RingElements, y1: RingElements) -> Bundle:
        """Online: mask and open both halves."""
        s, t = _draw_pads(self._shape, self._draws)
        self._halves = (x1, y1)
        # E = X + s, F = Y + t
        opened = np.concatenate([(x1 + s).reshape(-1), (y1 + t).reshape(-1)])
        return Bundle(rings=(cut_to_ring(opened, self._shape.ring_bits),))

    def multiply(self) -> None:
        """Online, while P0 answers: what of the product P1 has by itself, X Y + c."""
        if self._halves is None:
            raise RuntimeError("open comes before multiply, which comes once")
        x1, y1 = self._halves
        # X Y + c
        self._alone = x1 * y1 + self._corrections.rings[0].values.reshape(self._shape.left)
        self._halves = None

    def finish(self, received: Bundle) -> RingElements:
        """Online: P1's half of the product in masked form, x y - rho', reduced to k bits. In the shape of x."""
        if self._alone is None:
            raise RuntimeError("multiply comes before finish")
        # x y - rho' = X Y + c + m
        whole = self._alone + received.rings[0].values.reshape(self._shape.left)
        return reduce_to_ring(whole, self._shape.ring_bits).values


# Both


def draw_output_mask(shape: ProductShape, draws: Draws) -> RingElements:
    """D and P0: rho', in the shape of x."""
    return draws.ring(OUTPUT_MASK, shape.left, bits=shape.ring_bits)


def _draw_answer_pad(shape: ProductShape, draws: Draws) -> RingElements:
    """D and P0: pi."""
    return draws.ring("answer pad", shape.left, bits=shape.ring_bits)


def _draw_pads(shape: ProductShape, draws: Draws) -> Pair:
    """D and P1: s and t."""
    return (
        draws.ring("left pad", shape.left, bits=shape.ring_bits),
        draws.ring("right pad", shape.right, bits=shape.ring_bits),
    )
