"""Label only: P0 learns the index of the largest logit, ties to the lowest index, and nothing else; P1 learns nothing.

The logits z_0 .. z_(n-1) lie in a ring of k bits, |z| < 2^(k-2), so that differences fit; P0 holds their masks, fixed
before the input is known, P1 the rest. All n (n - 1) / 2 differences d = z_i - z_j, i < j, are compared with 0 at once,
as in a ReLU without truncation, but the outcomes stay XOR-shared. Class i is the label if it wins against every other
class: w_i = AND over j > i of [z_i >= z_j] and over j < i of (1 ^ [z_j >= z_i]), a tree of products by dealt triples.
With g the top bit of r:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0; P0's shares from s0    the same                               r1; P1's triples a1, b1 from s1
    table of the chain for                                     -->    corrections: table; g
    r mod 2^(k-1)
    a * b for each product                                     -->    c1 = a * b ^ c0
                               d0 + r0                         -->
    online
                                                               <--    C = d + 2^(k-1) + r, the chain's bits
    for each layer of products x * y:
                                                               <--    x1 ^ a1, y1 ^ b1
                               x0 ^ a0, y0 ^ b0                -->
    then
                                                               <--    w1, its share of the label
                               label: w0 ^ w1, one bit a class

    [d >= 0] = (top bit of C) ^ g ^ [C mod 2^(k-1) < r mod 2^(k-1)]
    x * y = e * f ^ e * b ^ f * a ^ a * b, for the opened e = x ^ a, f = y ^ b

The first layer's bits go with C, and each later layer's with what closes the one before, so that L layers take 2 L + 1
one-way trips, L = ceil(log2(n - 1)): one trip for two classes, three for three.

What is opened, and to whom: C to P0 (hidden by r1; P1 makes it), e and f to both (hidden by a and b), the label to P0.
P0's view can be made from the label alone: all that arrives is uniform but w1 = label ^ w0. P1 receives no output, so a
deviating P1 can spoil the label but not learn from it. That is why a label that is not one of the classes is no error
here: an error that depends on the logits would tell P1 how they are ordered. `finish` gives None, and whoever reads the
answer refuses it after the session has ended like any other.

It slows the copying of a model, it does not prevent it: labels are answers too (docs/threat-model.md).

Source: docs/protocol.md, "Output"; Beaver 1991 for the products.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import Chain, compare_as_p0, compare_as_p1, deal_comparison
from secure_computation.protocols.draws import BitArray, Draws, RingElements
from secure_computation.ring import reduce_to_bits, reduce_to_ring

_SIGN = "sign"


@dataclass(frozen=True, kw_only=True)
class LabelShape:
    """The public parameters: how many logits, and their ring."""

    classes: int
    """n."""
    ring_bits: int
    """k."""
    chain: Chain
    """Cuts r mod 2^(k-1)."""

    def __post_init__(self) -> None:
        """Refuse a chain that does not fit."""
        if self.classes < 2:
            raise ValueError("a label needs two classes at least")
        if self.chain.bits != self.ring_bits - 1:
            raise ValueError(f"the chain has {self.chain.bits} bits, not {self.ring_bits - 1}")

    @property
    def count(self) -> int:
        """Values that come out: one bit for each class."""
        return self.classes

    @property
    def pairs(self) -> int:
        """Comparisons."""
        return self.classes * (self.classes - 1) // 2

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Products of each class, layer by layer: its n - 1 factors in pairs, an odd one moves up."""
        widths, factors = [], self.classes - 1
        while factors > 1:
            widths.append(factors // 2)
            factors -= factors // 2
        return tuple(widths)

    @property
    def products(self) -> int:
        """Products of all classes and layers."""
        return self.classes * sum(self.widths)

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: table of the chain; P1's share of g."""
        return BundleLayout(count=self.pairs, word_types=self.chain.word_types, bit_arrays=1)

    @cached_property
    def triples(self) -> BundleLayout:
        """D -> P1, offline: P1's shares of a * b. Empty for two classes."""
        return BundleLayout(count=self.products, bit_arrays=1)

    @cached_property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: d0 + r0."""
        return BundleLayout(count=self.pairs, ring_bits=(self.ring_bits,))

    @cached_property
    def opening(self) -> BundleLayout:
        """P1 -> P0, online: C; the chain's bits."""
        return BundleLayout(count=self.pairs, bit_arrays=self.chain.sent_bits(), ring_bits=(self.ring_bits,))

    def layer(self, index: int) -> BundleLayout:
        """Both ways, online, for each layer: shares of e and f."""
        return BundleLayout(count=self.classes * self.widths[index], bit_arrays=2)

    @cached_property
    def label(self) -> BundleLayout:
        """P1 -> P0, output: its share of one bit for each class."""
        return BundleLayout(count=self.classes, bit_arrays=1)


# D, the dealer


def deal_label(shape: LabelShape, *, p0: Draws, p1: Draws) -> tuple[Bundle, Bundle]:
    """D: the corrections and the triples, as their layouts say."""
    k, pairs = shape.ring_bits, shape.pairs
    r = (p0.ring("mask", pairs, bits=k) + p1.ring("mask", pairs, bits=k)) & np.uint32((1 << k) - 1)
    words = deal_comparison(shape.chain, r, p0=p0, p1=p1, name=_SIGN)
    g = (r >> np.uint32(k - 1)).astype(np.uint8) ^ p0.bits("g", pairs)
    a, b = (p0.bits(name, shape.products) ^ p1.bits(name, shape.products) for name in ("a", "b"))
    # P1's c1 = a * b ^ c0
    c1 = (a & b) ^ p0.bits("c", shape.products)
    return Bundle(words=tuple(words), bits=(reduce_to_bits(g),)), Bundle(bits=(reduce_to_bits(c1),))


# Both parties


def _differences(half: RingElements) -> RingElements:
    """A half of every z_i - z_j, i < j, in the order of the pairs."""
    first, second = np.triu_indices(half.size, 1)
    flat = half.reshape(-1)
    return flat[first] - flat[second]


class _Tree:
    """One party's shares of each class's factors, multiplied in pairs until one is left."""

    def __init__(self, shape: LabelShape, wins: BitArray, triples: tuple[BitArray, ...], *, public: int) -> None:
        """`wins`: a share of [z_i >= z_j] for i < j. `public`: 1 for the party that adds public terms, else 0."""
        self._shape = shape
        self._triples = triples
        self._public = np.uint8(public)
        self._layer = self._used = 0
        self._masked: tuple[BitArray, BitArray] | None = None
        n = shape.classes
        square = np.zeros((n, n), np.uint8)
        first, second = np.triu_indices(n, 1)
        square[first, second] = wins
        square[second, first] = wins ^ self._public
        self._factors: BitArray = square[~np.eye(n, dtype=bool)].reshape(n, n - 1)

    def _operands(self) -> tuple[BitArray, BitArray]:
        even = 2 * self._shape.widths[self._layer]
        return self._factors[:, 0:even:2].reshape(-1), self._factors[:, 1:even:2].reshape(-1)

    def _triple(self) -> list[BitArray]:
        """Shares of a, b and a * b of this layer."""
        end = self._used + self._shape.layer(self._layer).count
        return [share[self._used : end] for share in self._triples]

    def mask(self) -> Bundle:
        """This party's shares of e and f of the next layer, to send."""
        (x, y), (a, b, _) = self._operands(), self._triple()
        self._masked = (x ^ a, y ^ b)  # e, f
        return Bundle(bits=tuple(reduce_to_bits(bits) for bits in self._masked))

    def multiply(self, received: Bundle) -> None:
        """Take the other party's shares of e and f and finish the layer."""
        if self._masked is None:
            raise RuntimeError("mask comes before multiply")
        e, f = (own ^ other.values for own, other in zip(self._masked, received.bits, strict=True))
        a, b, c = self._triple()
        # x * y = e * f ^ e * b ^ f * a ^ a * b
        product = (e & f & self._public) ^ (e & b) ^ (f & a) ^ c
        width = self._shape.widths[self._layer]
        rest = self._factors[:, 2 * width :]
        self._used += product.size
        self._factors = np.hstack([product.reshape(self._shape.classes, width), rest])
        self._layer += 1
        self._masked = None

    def label(self) -> BitArray:
        """This party's share of one bit for each class."""
        if self._layer != len(self._shape.widths):
            raise RuntimeError("the products are not finished")
        return self._factors[:, 0]


# P0, the data owner


class LabelAsP0:
    """P0's part. Call `prepare`; then `open`; `answer` for each layer; `finish`."""

    def __init__(self, shape: LabelShape, draws: Draws) -> None:
        """Take P0's draws of this step."""
        self.shape = shape
        self.output_mask = np.zeros(shape.classes, np.uint32)
        """The label has no mask: its bits are XOR-shared and opened to P0."""
        self._draws = draws
        self._tree: _Tree | None = None

    def prepare(self, z0: RingElements) -> Bundle:
        """Offline: hide P0's halves of the differences. Goes to P1."""
        k = self.shape.ring_bits
        hidden = _differences(z0) + self._draws.ring("mask", self.shape.pairs, bits=k)
        return Bundle(rings=(reduce_to_ring(hidden, k),))

    def open(self, received: Bundle) -> None:
        """Online: compare, from P1's opening."""
        shape, draws = self.shape, self._draws
        bits = [array.values for array in received.bits]
        # [d >= 0] = (top bit of C) ^ g ^ [C mod 2^(k-1) < r mod 2^(k-1)]; P1 adds the top bit
        wins = compare_as_p0(shape.chain, received.rings[0].values, bits, draws=draws, name=_SIGN)
        wins = wins ^ draws.bits("g", shape.pairs)
        triples = tuple(draws.bits(name, shape.products) for name in ("a", "b", "c"))
        self._tree = _Tree(shape, wins, triples, public=0)

    def answer(self, received: Bundle) -> Bundle:
        """Online, once for each layer: P1's shares of e and f in, P0's out."""
        tree = self._opened()
        own = tree.mask()
        tree.multiply(received)
        return own

    def finish(self, received: Bundle) -> int | None:
        """Output: the label, or None where what is opened is not exactly one class: then a party deviated."""
        # reveal: the data owner, and nobody else, learns the label. That is the purpose of the computation.
        opened = np.flatnonzero(self._opened().label() ^ received.bits[0].values)
        return int(opened[0]) if opened.size == 1 else None

    def _opened(self) -> _Tree:
        if self._tree is None:
            raise RuntimeError("open comes first")
        return self._tree


# P1, the model owner


class LabelAsP1:
    """P1's part. Call `open` and send it; for each layer send `mask`, then `multiply` the answer; send `label`."""

    def __init__(self, shape: LabelShape, draws: Draws, corrections: Bundle, triples: Bundle, prepared: Bundle) -> None:
        """Take P1's draws of this step, what D dealt and what P0 prepared."""
        self.shape = shape
        self._draws = draws
        self._corrections = corrections
        self._triples = triples
        self._hidden = prepared.rings[0].values
        self._tree: _Tree | None = None

    def open(self, z1: RingElements) -> Bundle:
        """Online: mask and open the differences; compare."""
        shape, k, draws = self.shape, self.shape.ring_bits, self._draws
        # C = d1 + (d0 + r0) + r1 + 2^(k-1) mod 2^k
        c = _differences(z1) + self._hidden + draws.ring("mask", shape.pairs, bits=k) + np.uint32(1 << (k - 1))
        opened = reduce_to_ring(c, k)
        sent, wins = compare_as_p1(shape.chain, opened.values, self._corrections.words, draws=draws, name=_SIGN)
        # [d >= 0] = [C mod 2^(k-1) < r mod 2^(k-1)] ^ (top bit of C) ^ g
        top = (opened.values >> np.uint32(k - 1)).astype(np.uint8)
        wins = wins ^ top ^ self._corrections.bits[0].values
        a, b = (draws.bits(name, shape.products) for name in ("a", "b"))
        self._tree = _Tree(shape, wins, (a, b, self._triples.bits[0].values), public=1)
        return Bundle(bits=tuple(reduce_to_bits(bits) for bits in sent), rings=(opened,))

    def mask(self) -> Bundle:
        """Online, once for each layer: P1's shares of e and f."""
        return self._opened().mask()

    def multiply(self, received: Bundle) -> None:
        """Online, once for each layer: take P0's answer."""
        self._opened().multiply(received)

    def label(self) -> Bundle:
        """Output: P1's share of the label. Goes to P0 only."""
        return Bundle(bits=(reduce_to_bits(self._opened().label()),))

    def _opened(self) -> _Tree:
        if self._tree is None:
            raise RuntimeError("open comes first")
        return self._tree
