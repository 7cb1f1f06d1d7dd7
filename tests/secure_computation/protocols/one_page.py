"""All three roles of one protocol on one page; every message is packed and read back as on a wire."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.compared_layer import (
    ComparedShape,
    LayerAsP0,
    LayerAsP1,
    deal_layer,
    draw_output_mask,
)
from secure_computation.protocols.comparison import (
    MAX_CHUNK_BITS,
    Chain,
    compare_as_p0,
    compare_as_p1,
    deal_comparison,
)
from secure_computation.protocols.dithered_relu import DitheredReluShape
from secure_computation.protocols.dithered_truncation import (
    DitheredTruncationAsDealer,
    DitheredTruncationAsP0,
    DitheredTruncationAsP1,
    DitheredTruncationShape,
)
from secure_computation.protocols.draws import BitArray, BlockDraws, Draws, RingElements
from secure_computation.protocols.relu import ReluShape
from secure_computation.protocols.truncation import TruncationShape
from secure_computation.randomness import Seed
from secure_computation.ring import reduce_to_bits

ITEM = "one page"
STEP = 3

Integers = NDArray[np.int64]
Shape = ComparedShape | DitheredTruncationShape


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

    def in_blocks(self) -> BlockDraws:
        return _InjectedBlocks(self, self._injected)


class _InjectedBlocks(BlockDraws):
    """The same, read on from block to block."""

    def __init__(self, whole: Draws, injected: Mapping[str, RingElements]) -> None:
        super().__init__(whole)
        self._injected = {label: iter(values) for label, values in injected.items()}

    def ring(self, label: str, shape: int | tuple[int, ...], *, bits: int) -> RingElements:
        drawn = super().ring(label, shape, bits=bits)
        if label in self._injected:
            drawn[:] = [next(self._injected[label]) for _ in drawn]
        return drawn


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
    rounding: Integers
    """What a dithered layer added before it rounded down: -z0 mod 2^f."""
    sign: Integers
    """What a dithered ReLU added before it looked at the sign: q mod 2^e."""


def play(
    shape: Shape,
    z: Integers,
    *,
    r: Integers | None = None,
    r1: Integers | None = None,
    z0: RingElements | None = None,
    seeds: Seeds | None = None,
) -> Layer:
    """One layer.

    `r`: r0 + r1; of a dithered layer R, and `r1` is P1's. Random if left out. `z0`: P0's share of z.
    """
    seeds = seeds or Seeds.fresh()
    z0 = random_ring(shape.count) if z0 is None else z0
    z1 = z.astype(np.uint32) - z0
    injected = {}
    if r is not None:
        injected["mask"] = r.astype(np.uint32)
        if isinstance(shape, ReluShape | TruncationShape):
            injected["mask"] -= draws(seeds.p1).ring("mask", shape.count, bits=shape.ring_bits)
            injected["mask"] &= np.uint32((1 << shape.ring_bits) - 1)

    def p0_draws() -> Draws:
        return InjectedDraws(seeds.p0, injected)

    def p1_draws() -> Draws:
        return InjectedDraws(seeds.p1, {} if r1 is None else {"mask": r1.astype(np.uint32)})

    dithers = {"rounding": np.zeros(0, np.int64), "sign": np.zeros(0, np.int64)}
    if not isinstance(shape, ReluShape | TruncationShape):
        dithers["rounding"] = -z0.astype(np.int64) % (1 << shape.truncated_bits)
    if isinstance(shape, DitheredReluShape):
        own, other = (one().ring("mask", shape.count, bits=shape.opened_bits) for one in (p0_draws, p1_draws))
        dithers["sign"] = (own.astype(np.int64) + other) % (1 << shape.sign_cut_bits)
    messages: dict[str, bytes] = {}
    opened: dict[str, Bundle] = {}

    def cross(name: str, layout: BundleLayout, bundle: Bundle) -> Bundle:
        messages[name], opened[name] = over_the_wire(layout, bundle)
        return opened[name]

    p0_half, p1_half = play_roles(shape, z0, z1, p0_draws, p1_draws, cross)
    y = (p0_half + p1_half) & np.uint32((1 << shape.output_bits) - 1)
    return Layer(y=y, messages=messages, opened=opened, **dithers)


Cross = Callable[[str, BundleLayout, Bundle], Bundle]
"""A message is packed and read at the other end."""


def play_roles(
    shape: Shape,
    z0: RingElements,
    z1: RingElements,
    p0_draws: Callable[[], Draws],
    p1_draws: Callable[[], Draws],
    cross: Cross,
) -> tuple[RingElements, RingElements]:
    """Both halves of y. D and each party have draws of their own."""
    if isinstance(shape, ComparedShape):
        return _play_compared(shape, z0, z1, p0_draws, p1_draws, cross)
    return _play_dithered_truncation(shape, z0, z1, p0_draws, p1_draws, cross)


def _play_compared(
    shape: ComparedShape,
    z0: RingElements,
    z1: RingElements,
    p0_draws: Callable[[], Draws],
    p1_draws: Callable[[], Draws],
    cross: Cross,
) -> tuple[RingElements, RingElements]:
    dealers_p0 = p0_draws()
    corrections = cross("corrections", shape.corrections, deal_layer(shape, p0=dealers_p0, p1=p1_draws()))
    p0 = LayerAsP0(shape, p0_draws())
    np.testing.assert_array_equal(draw_output_mask(shape, dealers_p0), p0.output_mask)
    p1 = LayerAsP1(shape, p1_draws(), corrections, cross("prepared", shape.prepared, p0.prepare(z0)))
    answer = p0.answer(cross("from_p1", shape.from_p1, p1.open(z1)))
    return p0.output_mask, p1.finish(cross("from_p0", shape.from_p0, answer))


def _play_dithered_truncation(
    shape: DitheredTruncationShape,
    z0: RingElements,
    z1: RingElements,
    p0_draws: Callable[[], Draws],
    p1_draws: Callable[[], Draws],
    cross: Cross,
) -> tuple[RingElements, RingElements]:
    dealer, p0 = DitheredTruncationAsDealer(shape, p0_draws()), DitheredTruncationAsP0(shape, p0_draws())
    np.testing.assert_array_equal(dealer.output_mask, p0.output_mask)
    corrections = cross("corrections", shape.corrections, dealer.deal(p1_draws())) if shape.wide else None
    prepared = cross("prepared", shape.prepared, p0.prepare(z0))
    p1 = DitheredTruncationAsP1(shape, p1_draws(), corrections, prepared)
    if not shape.wide:
        return p0.output_mask, p1.truncate(z1)
    answer = p0.answer(cross("from_p1", shape.from_p1, p1.open(z1)))
    return p0.output_mask, p1.finish(cross("from_p0", shape.from_p0, answer))


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


def dithered_relu_shape(
    k: int, f: int, k_out: int, count: int, *, e: int = 0, chunks: int = MAX_CHUNK_BITS
) -> DitheredReluShape:
    return DitheredReluShape(
        count=count,
        ring_bits=k,
        truncated_bits=f,
        output_bits=k_out,
        high=cut(k - f - e - 1, largest=chunks),
        sign_cut_bits=e,
    )


def dithered_truncation_shape(k: int, f: int, k_out: int, count: int) -> DitheredTruncationShape:
    return DitheredTruncationShape(count=count, ring_bits=k, truncated_bits=f, output_bits=k_out)


def every_pair(z: Sequence[int] | Integers, k: int) -> tuple[Integers, Integers]:
    """Every z with every mask r of k bits, flat."""
    grid = np.meshgrid(np.asarray(z, np.int64), np.arange(1 << k, dtype=np.int64))
    return grid[0].ravel(), grid[1].ravel()


def edges(k: int, f: int, low: int, high: int) -> Integers:
    """0, -1, +-2^f, +-(2^f - 1), both ends, and what lies beside them, where it is within [low, high)."""
    near = [0, 1 << f, (1 << f) - 1, -(1 << f), 1 - (1 << f), low, high - 1, 1 << (k - 2), -(1 << (k - 2))]
    values = np.array(sorted({value + beside for value in near for beside in (-1, 0, 1)}), np.int64)
    return values[(values >= low) & (values < high)]
