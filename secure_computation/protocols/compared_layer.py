"""What all layers that compare do alike: a value is opened under a mask, comparisons answered, the result put together.

A page of its own (`relu`, `truncation`, `dithered_relu`) says for each layer what is compared, what is dealt and how
the result is put together; the moves of the three roles are these:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    r0, bits b0, rho', and     the same from s0                       r1, bits b1 from s1
    P0's shares from s0
    tables of each chain; dealt values less P0's shares        -->    corrections: tables; its ring shares
                               z0 + r0                         -->     (its top bits alone, if a page says so)
    online
                                                               <--    C, the chains' bits, its share of each outcome,
                                                                      hidden by b1
                               its share of each outcome,      -->
                               hidden by b0; y0 - rho'

C is z with an offset, under r0 and r1. Each outcome o is opened to both as o ^ m, where m = b0 ^ b1, or that and a bit
that D alone knows. y0 is P0's share of y: public values times dealt shares.

A large layer crosses in parts: both online messages of a part hold its elements alone. Streams and what is dealt are
those of the layer, read on from part to part, so that parts cost no draws.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from secure_computation.kernels.comparing import BLOCK, blocks, open_masked
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import (
    Chain,
    compare_as_p0,
    compare_as_p1,
    deal_comparison,
    expand_for_p0,
)
from secure_computation.protocols.draws import BitArray, Draws, RingElements, Words
from secure_computation.protocols.opening import OUTPUT_MASK, draw_mask, hide_share
from secure_computation.ring import cut_to_bits, cut_to_ring


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison of a layer, of some bits of C with those of a mask that D knows."""

    name: str
    """In the labels of its chain's streams."""
    chain: Chain
    pad: str
    """Label of the bits b0 and b1."""
    of_sign: bool
    """Whether the outcome is the top bit of a difference, to which P1 adds the bit of C above the chain's."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One block of a layer, as one party sees it when it puts y together."""

    c: RingElements
    outcomes: Sequence[BitArray]
    """As opened."""
    shares: Mapping[str, RingElements]
    """The party's, of what was dealt."""
    mask: RingElements | None
    """The party's r0 or r1, if the page keeps them."""
    public: bool
    """Whether the party adds what is public: P1 does."""
    rest: RingElements
    """rho' at P0, which is subtracted; what P0 sent at P1, which is added."""
    nothing: RingElements
    """Zeros."""

    @property
    def sign_of_rest(self) -> int:
        """What `rest` is multiplied by, mod 2^32."""
        return 1 if self.public else 0xFFFFFFFF

    def share(self, name: str) -> RingElements:
        """A share, zeros if none was dealt under this name."""
        return self.shares.get(name, self.nothing)


@dataclass(frozen=True, kw_only=True)
class ComparedShape(ABC):
    """The public parameters of one layer."""

    count: int
    """Elements."""
    ring_bits: int
    """k."""
    truncated_bits: int
    """f."""
    output_bits: int
    """k_out."""
    part_count: int = 0
    """Elements of each part but the last, a multiple of 8; 0: the layer crosses whole."""

    keeps_masks: ClassVar[bool] = False
    """Whether each party needs its own mask to put y together."""

    @property
    @abstractmethod
    def comparisons(self) -> tuple[Comparison, ...]:
        """In the order of their parts in messages."""

    @property
    @abstractmethod
    def dealt_rings(self) -> dict[str, int]:
        """Ring of each dealt share, in bits, by name."""

    @property
    @abstractmethod
    def offset(self) -> int:
        """What P1 adds to z so that it is not negative."""

    @property
    def unopened_bits(self) -> int:
        """Bits of z, from below, that C leaves out: r0, r1 and C have so many fewer."""
        return 0

    @abstractmethod
    def cut_opened(self, comparison: Comparison, c: RingElements) -> RingElements:
        """What the comparison takes of C."""

    @abstractmethod
    def cut_mask(self, comparison: Comparison, r: RingElements) -> RingElements:
        """What the comparison takes of r0 + r1, which may have bits above its ring. D's."""

    @abstractmethod
    def deal_values(self, r: RingElements, bits: Mapping[str, RingElements]) -> dict[str, RingElements]:
        """D: what is shared in rings, of one block, by name. `bits`: b0 ^ b1 by the label of the pad."""

    @abstractmethod
    def combine(self, part: Part, out: RingElements) -> None:
        """Set `out` to the party's share of y, plus or minus `rest`, in the ring of the output."""

    @property
    def opened_bits(self) -> int:
        """Bits of C."""
        return self.ring_bits - self.unopened_bits

    @cached_property
    def corrections(self) -> BundleLayout:
        """D -> P1, offline: tables of the chains; P1's ring shares."""
        words = tuple(word for one in self.comparisons for word in one.chain.word_types)
        return BundleLayout(count=self.count, word_types=words, ring_bits=tuple(self.dealt_rings.values()))

    @cached_property
    def prepared(self) -> BundleLayout:
        """P0 -> P1, offline: z0 + r0; without the bits that C leaves out, see `hide_share`."""
        return BundleLayout(count=self.count, ring_bits=(self.opened_bits,))

    @cached_property
    def parts(self) -> tuple[slice, ...]:
        """The elements of each part, in the order in which they cross."""
        size = self.part_count or max(1, self.count)
        return tuple(slice(start, min(self.count, start + size)) for start in range(0, self.count, size))

    @cached_property
    def shapes_of_parts(self) -> tuple[Self, ...]:
        """The shape of each part, whose layouts are those of its online messages; one object for all of a size."""
        counts = [part.stop - part.start for part in self.parts]
        shapes = {count: self.part(count) for count in set(counts)}
        return tuple(shapes[count] for count in counts)

    def part(self, count: int) -> Self:
        """The shape of a part of `count` elements."""
        return replace(self, count=count, part_count=0)

    @cached_property
    def from_p1(self) -> BundleLayout:
        """P1 -> P0, online: C; the bits of each chain, P1's share of each outcome."""
        bits = sum(one.chain.sent_bits() + 1 for one in self.comparisons)
        return BundleLayout(count=self.count, bit_arrays=bits, ring_bits=(self.opened_bits,))

    @cached_property
    def from_p0(self) -> BundleLayout:
        """P0 -> P1, online: P0's share of each outcome; y0 - rho'."""
        return BundleLayout(count=self.count, bit_arrays=len(self.comparisons), ring_bits=(self.output_bits,))


def _share_type(bits: int) -> np.dtype[np.unsignedinteger]:
    """Words from which P0's shares in a ring are drawn, no longer than need be."""
    return np.dtype("<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4")


def _draw_share(draws: Draws, name: str, count: int, bits: int) -> RingElements:
    """P0's share of a dealt value, not reduced. D draws the same."""
    return draws.words(_share_label(name), count, _share_type(bits)).astype(np.uint32, copy=False)


def _share_label(name: str) -> str:
    return f"share of {name}"


def _by_comparison(shape: ComparedShape, arrays: Sequence[Words]) -> Iterator[Sequence[Words]]:
    """The tables of each comparison."""
    begin = 0
    for one in shape.comparisons:
        yield arrays[begin : begin + len(one.chain.word_types)]
        begin += len(one.chain.word_types)


# D, the dealer


def deal_layer(shape: ComparedShape, *, p0: Draws, p1: Draws) -> Bundle:
    """D: everything that P1's seed cannot give."""
    count = shape.count
    r = draw_mask(p0, count, bits=shape.opened_bits) + draw_mask(p1, count, bits=shape.opened_bits)
    body, words = shape.corrections.room()
    rings = {name: np.empty(count, np.uint32) for name in shape.dealt_rings}
    s0, s1 = p0.in_blocks(), p1.in_blocks()
    for part in blocks(count):
        size = part.stop - part.start
        bits = {}
        for one, tables in zip(shape.comparisons, _by_comparison(shape, [word[part] for word in words]), strict=True):
            deal_comparison(one.chain, shape.cut_mask(one, r[part]), p0=s0, p1=s1, name=one.name, out=tables)
            bits[one.pad] = (s0.bits(one.pad, size) ^ s1.bits(one.pad, size)).astype(np.uint32)
        dealt = shape.deal_values(r[part], bits)
        for name, ring in rings.items():
            np.subtract(dealt[name], _draw_share(s0, name, size, shape.dealt_rings[name]), out=ring[part])
    cut = tuple(cut_to_ring(rings[name], bits) for name, bits in shape.dealt_rings.items())
    return Bundle(words=words, rings=cut, body=body)


def draw_output_mask(shape: ComparedShape, draws: Draws) -> RingElements:
    """D and P0: rho', the mask under which P1 will hold the output. Shape (count,), ring of k_out bits."""
    return draws.ring(OUTPUT_MASK, shape.count, bits=shape.output_bits)


# P0, the data owner


class LayerAsP0:
    """P0's part of one layer. Call `prepare`, send what it returns; then `answer`, and send that."""

    def __init__(self, shape: ComparedShape, draws: Draws) -> None:
        """Take P0's draws of this step."""
        self.shape = shape
        self._draws = draws
        self._blocks = draws.in_blocks()
        self._next = 0
        self._mask: RingElements | None = None
        self.output_mask = draw_output_mask(shape, draws)
        """rho': P0's half of the masked form of y, known before the input is."""

    def prepare(self, z0: RingElements) -> Bundle:
        """Offline: hide P0's share of z. Goes to P1."""
        shape = self.shape
        r0 = draw_mask(self._draws, shape.count, bits=shape.opened_bits)
        if shape.keeps_masks:
            self._mask = r0
        return hide_share(z0, r0, bits=shape.opened_bits, left_out=shape.unopened_bits)

    def expand(self) -> None:
        """Draw ahead what `answer` needs: some 50 bytes an element. For the time that P0 waits; may be left out."""
        shape, count = self.shape, self.shape.count
        for one in shape.comparisons:
            expand_for_p0(one.chain, self._blocks, count, name=one.name)
            self._blocks.expand(one.pad, (count + 7) // 8)
        for name, bits in shape.dealt_rings.items():
            self._blocks.expand(_share_label(name), _share_type(bits).itemsize * count)

    def answer(self, received: Bundle) -> Bundle:
        """Online: P1's message for the next part in, P0's message out."""
        if self._next == len(self.shape.parts):
            raise RuntimeError("this layer was answered; a stream is used once")
        whole, shape = self.shape.parts[self._next], self.shape.shapes_of_parts[self._next]
        self._next += 1
        c = received.rings[0].values
        own = np.empty((shape.from_p0.bit_arrays, shape.count), np.uint8)
        y0 = np.empty(shape.count, np.uint32)
        zeros = np.zeros(min(shape.count, BLOCK), np.uint32)
        for part in blocks(shape.count):
            size = part.stop - part.start
            in_layer = slice(whole.start + part.start, whole.start + part.stop)
            sent = [array.values[part] for array in received.bits]
            outcomes = []
            for index, share in enumerate(self._compare(c[part], sent)):
                own[index, part] = share
                outcomes.append(share ^ sent[index - len(own)])  # under the bits of both: opened to both
            shape.combine(
                Part(
                    c=c[part],
                    outcomes=outcomes,
                    shares={
                        name: _draw_share(self._blocks, name, size, bits) for name, bits in shape.dealt_rings.items()
                    },
                    mask=None if self._mask is None else self._mask[in_layer],
                    public=False,
                    rest=self.output_mask[in_layer],
                    nothing=zeros[:size],
                ),
                y0[part],
            )
        return Bundle(bits=cut_to_bits(own), rings=(cut_to_ring(y0, shape.output_bits),))

    def _compare(self, c: RingElements, sent: Sequence[BitArray]) -> Iterator[BitArray]:
        """P0's share of each outcome of one block, hidden by its bits."""
        begin = 0
        for one in self.shape.comparisons:
            end = begin + one.chain.sent_bits()
            bits, cut = sent[begin:end], self.shape.cut_opened(one, c)
            share = compare_as_p0(one.chain, cut, bits, draws=self._blocks, name=one.name)
            share ^= self._blocks.bits(one.pad, c.size)
            yield share
            begin = end

    def release(self) -> None:
        """Free what was drawn ahead, for the time that P0 waits: giving memory back takes as long as a loop over it."""
        if self._next == len(self.shape.parts):
            self._blocks, self._mask = self._blocks.without_streams(), None


# P1, the model owner


class LayerAsP1:
    """P1's part of one layer. `open` each part and send what it returns; then `finish` each with P0's answer."""

    def __init__(self, shape: ComparedShape, draws: Draws, corrections: Bundle, prepared: Bundle) -> None:
        """Take P1's draws of this step, D's corrections and what P0 prepared."""
        self._shape = shape
        self._draws = draws.in_blocks()
        self._corrections = corrections
        self._hidden_z0 = prepared.rings[0].values
        self._unopened = deque(zip(shape.parts, shape.shapes_of_parts, strict=True))
        self._opened: deque[_OpenedPart] = deque()

    def open(self, z1: RingElements) -> Bundle:
        """Online: mask and open z of the next part; P1's share of each comparison's outcome, hidden by its bits."""
        if not self._unopened:
            raise RuntimeError("this layer was opened; a stream is used once")
        whole, shape = self._unopened.popleft()
        c = np.empty(shape.count, np.uint32)
        mask = np.empty(shape.count, np.uint32)
        bits = np.empty((shape.from_p1.bit_arrays, shape.count), np.uint8)
        for part in blocks(shape.count):
            in_layer = slice(whole.start + part.start, whole.start + part.stop)
            mask[part] = draw_mask(self._draws, part.stop - part.start, bits=shape.opened_bits)
            # C = floor((z1 + offset mod 2^k) / 2^unopened) + (z0 + r0) + r1
            open_masked(
                z1[part],
                self._hidden_z0[in_layer],
                mask[part],
                offset=shape.offset,
                ring_bits=shape.ring_bits,
                cut=shape.unopened_bits,
                out=c[part],
            )
            tables = [word[in_layer] for word in self._corrections.words]
            for index, array in enumerate(self._compare(c[part], tables)):
                bits[index, part] = array
        opened = cut_to_ring(c, shape.opened_bits)
        own = bits[len(bits) - shape.from_p0.bit_arrays :]
        kept = mask if shape.keeps_masks else None
        self._opened.append(_OpenedPart(elements=whole, shape=shape, c=opened.values, own=own, mask=kept))
        return Bundle(rings=(opened,), bits=cut_to_bits(bits))

    def _compare(self, c: RingElements, tables: Sequence[Words]) -> list[BitArray]:
        """What P1 sends of one block: the bits of each chain, then its share of each outcome."""
        sent, outcomes = [], []
        for one, words in zip(self._shape.comparisons, _by_comparison(self._shape, tables), strict=True):
            cut = self._shape.cut_opened(one, c)
            bits, share = compare_as_p1(one.chain, cut, words, draws=self._draws, name=one.name)
            share ^= self._draws.bits(one.pad, c.size)
            if one.of_sign:
                share ^= (cut >> np.uint32(one.chain.bits)).astype(np.uint8)
            sent += bits
            outcomes.append(share)
        return sent + outcomes

    def release(self) -> None:
        """Once all is opened: free what `open` alone needs, for the time that P1 waits for P0's answer."""
        self._draws = self._draws.without_streams()
        self._corrections = replace(self._corrections, words=(), body=None)

    def finish(self, received: Bundle) -> RingElements:
        """Online: P1's half of the next part of y in masked form, y - rho', reduced to k_out bits."""
        if not self._opened:
            raise RuntimeError("open comes before finish")
        one = self._opened.popleft()
        shape = one.shape
        y = np.empty(shape.count, np.uint32)
        rings = (ring.values[one.elements] for ring in self._corrections.rings)
        shares = dict(zip(shape.dealt_rings, rings, strict=True))
        zeros = np.zeros(min(shape.count, BLOCK), np.uint32)
        for part in blocks(shape.count):
            shape.combine(
                Part(
                    c=one.c[part],
                    outcomes=[
                        mine[part] ^ bits.values[part] for mine, bits in zip(one.own, received.bits, strict=True)
                    ],
                    shares={name: share[part] for name, share in shares.items()},
                    mask=None if one.mask is None else one.mask[part],
                    public=True,
                    rest=received.rings[0].values[part],  # y - rho' = y1 + (y0 - rho')
                    nothing=zeros[: part.stop - part.start],
                ),
                y[part],
            )
        return y


@dataclass(frozen=True, kw_only=True)
class _OpenedPart:
    """What P1 keeps of a part until P0 answers."""

    elements: slice
    shape: ComparedShape
    c: RingElements
    own: BitArray
    """P1's share of each outcome."""
    mask: RingElements | None
    """r1, if the page keeps it."""

    def __repr__(self) -> str:
        """Show no mask."""
        return "_OpenedPart()"
