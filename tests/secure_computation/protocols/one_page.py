"""All three roles of one protocol on one page; every message is packed and read back as on a wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import (
    MAX_CHUNK_BITS,
    Chain,
    compare_as_p0,
    compare_as_p1,
    deal_comparison,
)
from secure_computation.protocols.draws import BitArray, Draws, RingElements
from secure_computation.protocols.relu import ReluAsP0, ReluAsP1, ReluShape, deal_relu
from secure_computation.protocols.relu import draw_output_mask as draw_relu_mask
from secure_computation.protocols.truncation import TruncationAsP0, TruncationAsP1, TruncationShape, deal_truncation
from secure_computation.protocols.truncation import draw_output_mask as draw_truncation_mask
from secure_computation.randomness import Seed
from secure_computation.ring import reduce_to_bits

ITEM = "one page"
STEP = 3

Integers = NDArray[np.int64]
Shape = ReluShape | TruncationShape


@dataclass(frozen=True)
class Seeds:
    """s0 and s1."""

    p0: Seed
    p1: Seed

    @staticmethod
    def fresh() -> "Seeds":
        return Seeds(Seed.fresh(), Seed.fresh())


class InjectedDraws(Draws):
    """Draws in which some streams are replaced by given values, so that a mask can take every value it may have."""

    def __init__(self, seed: Seed, injected: Mapping[str, RingElements]) -> None:
        super().__init__(seed, item=ITEM, step=STEP)
        self._injected = injected

    def ring(self, label: str, shape: int | tuple[int, ...], *, bits: int) -> RingElements:
        drawn = super().ring(label, shape, bits=bits)
        return self._injected.get(label, drawn)


def draws(seed: Seed) -> Draws:
    return Draws(seed, item=ITEM, step=STEP)


def random_ring(shape: int | tuple[int, ...]) -> RingElements:
    """Uniform over 32 bits."""
    return Draws(Seed.fresh(), item="random", step=0).ring("random", shape, bits=32)


def over_the_wire(layout: BundleLayout, bundle: Bundle) -> tuple[bytes, Bundle]:
    """The message's body, and what the other end reads from it."""
    body = layout.pack(bundle)
    assert body.size == layout.body_bytes
    return body.tobytes(), layout.unpack(body, peer="the peer", step="one page")


# Comparison


@dataclass(frozen=True)
class Comparison:
    less: BitArray
    """[c < r], both shares together."""
    sent: list[BitArray]
    """P1's bits p."""
    p0: BitArray
    p1: BitArray


def compare(chain: Chain, c: RingElements, r: RingElements, seeds: Seeds | None = None) -> Comparison:
    seeds = seeds or Seeds.fresh()
    words = deal_comparison(chain, r, p0=draws(seeds.p0), p1=draws(seeds.p1), name="x")
    assert tuple(word.dtype for word in words) == chain.word_types
    sent, p1 = compare_as_p1(chain, c, words, draws=draws(seeds.p1), name="x")
    p0 = compare_as_p0(chain, c, [reduce_to_bits(bits).values for bits in sent], draws=draws(seeds.p0), name="x")
    return Comparison(less=p0 ^ p1, sent=sent, p0=p0, p1=p1)


# ReLU and truncation


@dataclass(frozen=True)
class Layer:
    y: RingElements
    """Both halves together, reduced to k_out bits."""
    messages: dict[str, bytes]
    """Bodies: corrections, prepared, from_p1, from_p0."""
    opened: dict[str, Bundle]


def play(
    shape: Shape,
    z: Integers,
    *,
    r: Integers | None = None,
    z0: RingElements | None = None,
    seeds: Seeds | None = None,
) -> Layer:
    """One layer. `r`: the mask that neither party knows, random where it is left out; `z0`: P0's share of z."""
    seeds = seeds or Seeds.fresh()
    z0 = random_ring(shape.count) if z0 is None else z0
    z1 = z.astype(np.uint32) - z0
    injected = {}
    if r is not None:
        r1 = draws(seeds.p1).ring("mask", shape.count, bits=shape.ring_bits)
        injected["mask"] = (r.astype(np.uint32) - r1) & np.uint32((1 << shape.ring_bits) - 1)

    def p0_draws() -> Draws:
        return InjectedDraws(seeds.p0, injected)

    p0: ReluAsP0 | TruncationAsP0
    p1: ReluAsP1 | TruncationAsP1
    dealer_p0 = p0_draws()
    if isinstance(shape, ReluShape):
        dealt = deal_relu(shape, p0=dealer_p0, p1=draws(seeds.p1))
        known_mask = draw_relu_mask(shape, dealer_p0)
        p0 = ReluAsP0(shape, p0_draws())
    else:
        dealt = deal_truncation(shape, p0=dealer_p0, p1=draws(seeds.p1))
        known_mask = draw_truncation_mask(shape, dealer_p0)
        p0 = TruncationAsP0(shape, p0_draws())
    np.testing.assert_array_equal(known_mask, p0.output_mask)
    messages, opened = {}, {}
    messages["corrections"], opened["corrections"] = over_the_wire(shape.corrections, dealt)
    messages["prepared"], opened["prepared"] = over_the_wire(shape.prepared, p0.prepare(z0))
    if isinstance(shape, ReluShape):
        p1 = ReluAsP1(shape, draws(seeds.p1), opened["corrections"], opened["prepared"])
    else:
        p1 = TruncationAsP1(shape, draws(seeds.p1), opened["corrections"], opened["prepared"])
    messages["from_p1"], opened["from_p1"] = over_the_wire(shape.from_p1, p1.open(z1))
    messages["from_p0"], opened["from_p0"] = over_the_wire(shape.from_p0, p0.answer(opened["from_p1"]))
    y = (p1.finish(opened["from_p0"]) + p0.output_mask) & np.uint32((1 << shape.output_bits) - 1)
    return Layer(y=y, messages=messages, opened=opened)


# Shapes


def cut(bits: int, *, largest: int = MAX_CHUNK_BITS) -> Chain:
    """Chunks of at most `largest` bits, the odd one on top."""
    count = -(-bits // largest)
    return Chain(tuple(min(largest, bits - largest * index) for index in range(count)))


def relu_shape(k: int, f: int, k_out: int, count: int, *, chunks: int = MAX_CHUNK_BITS) -> ReluShape:
    return ReluShape(
        count=count,
        ring_bits=k,
        truncated_bits=f,
        output_bits=k_out,
        high=cut(k - f - 1, largest=chunks),
        low=cut(f, largest=chunks) if f else None,
    )


def truncation_shape(k: int, f: int, k_out: int, count: int, *, chunks: int = MAX_CHUNK_BITS) -> TruncationShape:
    low = cut(f, largest=chunks) if f else None
    return TruncationShape(count=count, ring_bits=k, truncated_bits=f, output_bits=k_out, low=low)


def every_pair(z: Sequence[int] | Integers, k: int) -> tuple[Integers, Integers]:
    """Every z with every mask r of k bits, flat."""
    grid = np.meshgrid(np.asarray(z, np.int64), np.arange(1 << k, dtype=np.int64))
    return grid[0].ravel(), grid[1].ravel()


def edges(k: int, f: int, low: int, high: int) -> Integers:
    """0, -1, +-2^f, +-(2^f - 1), both ends, and what lies beside them, where it is within [low, high)."""
    near = [0, 1 << f, (1 << f) - 1, -(1 << f), 1 - (1 << f), low, high - 1, 1 << (k - 2), -(1 << (k - 2))]
    values = np.array(sorted({value + beside for value in near for beside in (-1, 0, 1)}), np.int64)
    return values[(values >= low) & (values < high)]
