"""A smooth function or a softmax amid a masked plan: widened to 64 bits, computed on CrypTen's tensors, masked again.

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    corrections of the widening and of each tuple that CrypTen will
    ask for                                                    -->
                               x0 + r0                         -->
    online
                                                               <--    C (see `protocols.widening`)
                               x * multiplier / 2^divided_bits, now with 16 fractional bits; CrypTen's openings,
                               both ways at once, as `crypten_bridge.activations` and `softmax` make them
                               y0 - rho'                       -->

Which tuples CrypTen asks for follows from function, number of elements and, for a softmax, how they are arranged: each
party records it by a dry run of its own, so nobody deals or computes from another party's list. The seeds' streams for
these tuples go by an item name of their own, so that none is shared with the masked protocols. CrypTen's pseudo-random
sharings of zero are not needed: x enters with the sharing that it has, and all that is opened lies under a dealt mask.

What runs on CrypTen stands in `activation_on_crypten`, imported when a plan first asks for it: the data owner evaluates
other plans without torch.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from contract.errors import MaterialSpent
from secure_computation.crypten_bridge.dealing import ELEMENT_BYTES, Request
from secure_computation.engines.masked.plan.steps import CrypTenFunction
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.widening import (
    WORD,
    WideElements,
    WideningAsP0,
    WideningAsP1,
    WideningShape,
    deal_widening,
)
from secure_computation.randomness import Seed
from secure_computation.wire import tensor_prelude

if TYPE_CHECKING:
    from secure_computation.crypten_bridge.communicator import OpeningChannel

FRACTIONAL_BITS: Final = 16
"""Of CrypTen's tensors, and so of what this makes."""
Image = tuple[int, int]
"""Channels, and places at which each of them has an element."""


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """What a dry run recorded."""

    requests: tuple[Request, ...]
    openings: tuple[int, ...]
    """Elements of each message of CrypTen's openings, in one direction."""

    @property
    def correction_elements(self) -> int:
        """Elements of all corrections together."""
        return sum(math.prod(request.output) for request in self.requests)

    @property
    def opened_bytes(self) -> int:
        """Body bytes of all openings in one direction."""
        return sum(len(tensor_prelude((size,), np.dtype(np.int64))) + ELEMENT_BYTES * size for size in self.openings)


@dataclass(frozen=True, kw_only=True)
class ActivationShape:
    """The public parameters of one layer. `x_integer * multiplier / 2^divided_bits` is x with 16 fractional bits."""

    function: CrypTenFunction
    widening: WideningShape
    multiplier: int
    divided_bits: int
    image: Image | None = None
    """For a softmax, which runs over the channels of each image; None for a function of one element."""

    @property
    def count(self) -> int:
        """Elements."""
        return self.widening.count

    @property
    def dealing(self) -> Dealing:
        """What CrypTen asks for and opens. The first call in a process loads CrypTen, which takes seconds."""
        from secure_computation.engines.masked.session.activation_on_crypten import record_dealing

        return record_dealing(self.function, self.image, self.count, self.divided_bits, self.largest)

    @property
    def largest(self) -> float:
        """What |x| stays below in a plan's audited range."""
        scale = 1 << (FRACTIONAL_BITS + self.divided_bits)
        return (1 << (self.widening.ring_bits - 2)) * self.multiplier / scale

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: of the widening, then of each tuple, mod 2^64."""
        count = self.widening.correction_elements + self.dealing.correction_elements
        return BundleLayout(count=count, word_types=(WORD,))

    @property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: x0 + r0."""
        return self.widening.prepared

    @property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: C."""
        return self.widening.from_p1

    @property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online, after CrypTen's openings: y0 - rho'."""
        return self.widening.from_p0


# D, the dealer


def deal_activation(shape: ActivationShape, *, p0: Seed, p1: Seed, item: str, step: int) -> Bundle:
    """D: everything that P1's seed cannot give."""
    from secure_computation.engines.masked.session.activation_on_crypten import deal_tuples

    draws = [Draws(seed, item=item, step=step) for seed in (p0, p1)]
    body, (words,) = shape.corrections.room()
    at = shape.widening.correction_elements
    words[:at] = deal_widening(shape.widening, p0=draws[0], p1=draws[1])
    own = _tuples_item(item, step)
    for correction in deal_tuples(shape.dealing.requests, p0=p0, p1=p1, item=own):
        words[at : at + correction.size] = correction.view(WORD)
        at += correction.size
    return Bundle(words=(words,), body=body)


# P0, the data owner


class ActivationAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; then `answer` P1's opening, and send that."""

    def __init__(self, shape: ActivationShape, seed: Seed, *, item: str, step: int) -> None:
        """Take P0's seed of this item."""
        self.shape = shape
        self._seed, self._item, self._step = seed, item, step
        self._widening = WideningAsP0(shape.widening, Draws(seed, item=item, step=step))
        self.output_mask = self._widening.output_mask
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, x0: RingElements) -> Bundle:
        """Offline: hide P0's share of x. Goes to P1."""
        return self._widening.prepare(x0)

    def answer(self, received: Bundle, channel: "OpeningChannel", *, step_name: str) -> Bundle:
        """Online: P1's opening in, CrypTen's openings on `channel`, P0's last message out."""
        from secure_computation.engines.masked.session.activation_on_crypten import compute_as_p0

        x0 = self._widening.widen(received)
        item = _tuples_item(self._item, self._step)
        y0 = compute_as_p0(self.shape, x0, channel, seed=self._seed, item=item, step_name=step_name)
        return self._widening.narrow(y0)


# P1, the model owner


class ActivationAsP1:
    """P1's part of one layer. `open` and send what it returns; `compute`; then `finish` with P0's answer."""

    def __init__(
        self, shape: ActivationShape, seed: Seed, corrections: Bundle, prepared: Bundle, *, item: str, step: int
    ) -> None:
        """Take P1's seed of this item, D's corrections and what P0 prepared."""
        from secure_computation.engines.masked.session.activation_on_crypten import model_owner_provider

        self.shape = shape
        words = corrections.words[0].astype(np.uint64, copy=False)
        at = shape.widening.correction_elements
        draws = Draws(seed, item=item, step=step)
        self._widening = WideningAsP1(shape.widening, draws, words[:at], prepared)
        self._provider = model_owner_provider(
            shape.dealing.requests, words[at:], seed=seed, item=_tuples_item(item, step)
        )
        self._y1: WideElements | None = None

    def open(self, x1: RingElements) -> Bundle:
        """Online: mask and open x."""
        return self._widening.open(x1)

    def compute(self, channel: "OpeningChannel", *, step_name: str) -> None:
        """Online: CrypTen's openings on `channel`. Raises MaterialSpent the second time."""
        from secure_computation.engines.masked.session.activation_on_crypten import compute_as_p1

        x1 = self._widening.widen()
        self._y1 = compute_as_p1(self.shape, x1, channel, self._provider, step_name=step_name)

    def finish(self, received: Bundle) -> RingElements:
        """Online: P1's half of y in masked form, y - rho', reduced to its ring."""
        if self._y1 is None:
            raise MaterialSpent("this layer was not computed; start a new session")
        return self._widening.narrow(self._y1, received)


# Both


def _tuples_item(item: str, step: int) -> str:
    """The name under which both parties and D draw CrypTen's tuples: no item of material is called so."""
    return f"{item}/{step}"
