"""Encrypted argmax: every combination of logits in small rings, edges and random logits in large ones; what is seen."""

from dataclasses import dataclass, field
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.label import LabelAsP0, LabelAsP1, LabelShape, deal_label
from secure_computation.randomness import Seed
from secure_computation.ring import reduce_to_bits
from tests.secure_computation.protocols.one_page import (
    InjectedDraws,
    Integers,
    Seeds,
    draws,
    over_the_wire,
    random_ring,
)


def label_shape(classes: int, k: int) -> LabelShape:
    return LabelShape(classes=classes, ring_bits=k, chain=Chain(best_chunks(k - 1)))


@dataclass
class Played:
    """One page: the label, and every message in order as (receiver, body, what is read)."""

    label: int | None = None
    messages: list[tuple[str, bytes, Bundle]] = field(default_factory=list)

    def send(self, receiver: str, layout: BundleLayout, bundle: Bundle) -> Bundle:
        body, read = over_the_wire(layout, bundle)
        self.messages.append((receiver, body, read))
        return read

    def seen_by(self, receiver: str) -> list[Bundle]:
        return [bundle for name, _, bundle in self.messages if name == receiver]


def play(
    shape: LabelShape,
    z: Integers,
    *,
    z0: RingElements | None = None,
    seeds: Seeds | None = None,
    r: Integers | None = None,
) -> Played:
    """D, P0 and P1 on one page. `r`: the mask that neither party knows, random where it is left out."""
    page, seeds = Played(), seeds or Seeds.fresh()
    z0 = random_ring(shape.classes) if z0 is None else z0
    z1 = z.astype(np.uint32) - z0
    injected: dict[str, RingElements] = {}
    if r is not None:
        r1 = draws(seeds.p1).ring("mask", shape.pairs, bits=shape.ring_bits)
        injected["mask"] = (r.astype(np.uint32) - r1) & np.uint32((1 << shape.ring_bits) - 1)
    # Offline.
    corrections, triples = deal_label(shape, p0=InjectedDraws(seeds.p0, injected), p1=draws(seeds.p1))
    corrections = page.send("P1", shape.corrections, corrections)
    triples = page.send("P1", shape.triples, triples)
    p0 = LabelAsP0(shape, InjectedDraws(seeds.p0, injected))
    prepared = page.send("P1", shape.prepared, p0.prepare(z0))
    p1 = LabelAsP1(shape, draws(seeds.p1), corrections, triples, prepared)
    # Online.
    p0.open(page.send("P0", shape.opening, p1.open(z1)))
    for layer in range(len(shape.widths)):
        theirs = page.send("P0", shape.layer(layer), p1.mask())
        p1.multiply(page.send("P1", shape.layer(layer), p0.answer(theirs)))
    page.label = p0.finish(page.send("P0", shape.label, p1.label()))
    return page


def check_every_combination(classes: int, k: int) -> None:
    shape = label_shape(classes, k)
    for logits in product(range(-(1 << (k - 2)), 1 << (k - 2)), repeat=classes):
        z = np.array(logits, np.int64)
        assert play(shape, z).label == int(np.argmax(z)), logits


@pytest.mark.parametrize(("classes", "k"), [(2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (3, 4), (4, 2), (4, 3)])
def test_every_combination_of_logits(classes: int, k: int) -> None:
    check_every_combination(classes, k)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "k"), [(2, 7), (3, 5), (4, 4), (5, 3), (6, 3), (7, 2)])
def test_every_combination_of_more_logits(classes: int, k: int) -> None:
    check_every_combination(classes, k)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_every_pair_of_logits_under_every_mask(k: int) -> None:
    shape = label_shape(2, k)
    values = range(-(1 << (k - 2)), 1 << (k - 2))
    for first, second, r in product(values, values, range(1 << k)):
        z = np.array([first, second], np.int64)
        assert play(shape, z, r=np.array([r])).label == int(second > first), (first, second, r)


@pytest.mark.parametrize("k", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_three_logits_under_every_mask(k: int) -> None:
    shape = label_shape(3, k)
    values = range(-(1 << (k - 2)), 1 << (k - 2))
    for logits in product(values, repeat=3):
        for r in product(range(1 << k), repeat=3):
            assert play(shape, np.array(logits), r=np.array(r)).label == int(np.argmax(logits)), (logits, r)


@settings(max_examples=80)
@given(st.integers(2, 10), st.integers(2, 32), st.data())
def test_any_logits(classes: int, k: int, data: st.DataObject) -> None:
    lowest, highest = -(1 << (k - 2)), (1 << (k - 2)) - 1
    edges = st.sampled_from(sorted({lowest, -1, 0, highest, max(lowest, -2), min(highest, 1)}))
    values = st.one_of(edges, st.integers(lowest, highest))
    z = np.array(data.draw(st.lists(values, min_size=classes, max_size=classes)), np.int64)
    assert play(label_shape(classes, k), z).label == int(np.argmax(z))


def test_many_classes() -> None:
    z = np.random.default_rng(1).integers(-1000, 1000, 100)
    z[[3, 70]] = 1000
    assert play(label_shape(100, 16), z).label == 3


@pytest.mark.parametrize("gap", [1 << 9, (1 << 9) + 1, (1 << 10) - 1])
def test_beyond_the_allowed_range_some_differences_wrap_around(gap: int) -> None:
    """The spare bit is needed: the audit must refuse logits that are further apart."""
    z = np.array([gap, 0], np.int64)
    assert play(label_shape(2, 10), z).label == 1


# What is seen


def bits_seen(page: Played, receiver: str) -> NDArray[np.uint8]:
    """Every bit that a party receives."""
    bits = []
    for bundle in page.seen_by(receiver):
        for ring in bundle.rings:
            places = np.arange(ring.bits, dtype=np.uint32)
            bits.append(((ring.values[:, None] >> places) & np.uint32(1)).reshape(-1).astype(np.uint8))
        bits += [array.values for array in bundle.bits]
        bits += [np.unpackbits(word.view(np.uint8)) for word in bundle.words]
    return np.concatenate(bits)


FAR, CLOSE, SWAPPED = (np.array(z, np.int64) for z in ([12000, -12000, 5], [1, 0, 0], [12000, 5, -12000]))


@pytest.mark.parametrize("z", [FAR, CLOSE, SWAPPED], ids=["far", "close", "swapped"])
def test_each_received_bit_is_uniform_whatever_the_logits_are(z: Integers) -> None:
    """Over fresh seeds; P0's half of the logits stays the same."""
    pages = [play(label_shape(3, 16), z, z0=np.zeros(3, np.uint32)) for _ in range(300)]
    for receiver in ("P0", "P1"):
        means = np.mean([bits_seen(page, receiver) for page in pages], axis=0)
        assert means.size > 50
        assert np.all(np.abs(means - 0.5) < 5.5 * 0.5 / np.sqrt(len(pages)))


def test_p0_sees_the_same_for_all_logits_with_the_same_label() -> None:
    """All that P0 can receive, for its own seed and halves as they are, over P1's seeds: two classes, a ring of 2 bits.

    There are as many views as values of C, whatever the logits; only the label tells two sets of views apart.
    """
    shape, own, z0 = label_shape(2, 2), Seeds.fresh().p0, random_ring(2)
    views: dict[int, set[frozenset[bytes]]] = {}
    for logits in product((-1, 0), repeat=2):
        pages = [play(shape, np.array(logits), z0=z0, seeds=Seeds(own, Seed.fresh())) for _ in range(100)]
        seen = {b"|".join(body for receiver, body, _ in page.messages if receiver == "P0") for page in pages}
        assert len(seen) == 4
        views.setdefault(int(np.argmax(logits)), set()).add(frozenset(seen))
    assert {label: len(distinct) for label, distinct in views.items()} == {0: 1, 1: 1}
    assert views[0] != views[1]


def test_the_last_share_is_the_label_masked_by_what_p0_holds() -> None:
    """w1 = label ^ w0: given P0's own share, the last message holds the label and nothing else."""
    shape = label_shape(4, 12)
    for z in ([900, 3, -5, 899], [900, -1000, -1000, -1000]):
        counts = np.zeros(4)
        for _ in range(200):
            page = play(shape, np.array(z, np.int64))
            assert page.label == 0
            counts += page.seen_by("P0")[-1].bits[0].values
        assert np.all(np.abs(counts / 200 - 0.5) < 5.5 * 0.5 / np.sqrt(200))


def test_no_two_runs_share_a_mask() -> None:
    pages = [play(label_shape(6, 32), np.zeros(6, np.int64), z0=np.zeros(6, np.uint32)) for _ in range(2)]
    for receiver in ("P0", "P1"):
        words = [
            {int(value) for bundle in page.seen_by(receiver) for ring in bundle.rings for value in ring.values}
            for page in pages
        ]
        assert words[0]
        assert not words[0] & words[1]


# Cost and misuse


@pytest.mark.parametrize(("classes", "layers"), [(2, 0), (3, 1), (4, 2), (5, 2), (6, 3), (9, 3), (10, 4)])
def test_layers_and_trips(classes: int, layers: int) -> None:
    shape = label_shape(classes, 8)
    page = play(shape, np.arange(classes))
    assert len(shape.widths) == layers
    assert shape.products == classes * (classes - 2)
    online = [receiver for receiver, _, _ in page.messages][3:]
    turns = 1 + sum(before != after for before, after in pairwise(online))
    assert turns == 2 * layers + 1


def test_declared_sizes_of_the_document() -> None:
    """Three logits of 24 bits: 3 differences, 3 products."""
    shape = LabelShape(classes=3, ring_bits=24, chain=Chain((6, 6, 6, 5)))
    assert shape.opening.body_bytes == (18 * 3 + 7) // 8 + 9
    assert shape.layer(0).body_bytes == 1
    assert shape.label.body_bytes == 1
    assert shape.prepared.body_bytes == 9
    assert shape.triples.body_bytes == 1


@pytest.mark.parametrize(("classes", "k", "chunks"), [(1, 8, (4, 3)), (3, 8, (4, 4)), (3, 8, (6,))])
def test_wrong_shapes_are_refused(classes: int, k: int, chunks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"two classes|the chain has"):
        LabelShape(classes=classes, ring_bits=k, chain=Chain(chunks))


def test_calls_out_of_order_are_refused() -> None:
    shape, seeds = label_shape(3, 8), Seeds.fresh()
    corrections, triples = deal_label(shape, p0=draws(seeds.p0), p1=draws(seeds.p1))
    p0, z0 = LabelAsP0(shape, draws(seeds.p0)), random_ring(3)
    p1 = LabelAsP1(shape, draws(seeds.p1), corrections, triples, p0.prepare(z0))
    for early in (p1.mask, p1.label, lambda: p0.finish(Bundle())):
        with pytest.raises(RuntimeError, match="open comes first"):
            early()
    p0.open(p1.open(random_ring(3)))
    with pytest.raises(RuntimeError, match="the products are not finished"):
        p1.label()
    with pytest.raises(RuntimeError, match="mask comes before multiply"):
        p1.multiply(Bundle())
    with pytest.raises(RuntimeError, match="a stream is used once"):
        p1.open(random_ring(3))


def test_a_label_of_a_party_that_deviates_is_none() -> None:
    """No error: one that depends on the logits would tell P1 about them."""
    shape = label_shape(3, 8)
    page = play(shape, np.array([1, 5, 2]))
    assert page.label == 1
    seeds = Seeds.fresh()
    corrections, triples = deal_label(shape, p0=draws(seeds.p0), p1=draws(seeds.p1))
    p0, z0 = LabelAsP0(shape, draws(seeds.p0)), random_ring(3)
    p1 = LabelAsP1(shape, draws(seeds.p1), corrections, triples, p0.prepare(z0))
    p0.open(p1.open(np.array([1, 5, 2], np.uint32) - z0))
    p1.multiply(p0.answer(p1.mask()))
    share = p1.label().bits[0].values ^ np.array([1, 0, 0], np.uint8)
    assert p0.finish(Bundle(bits=(reduce_to_bits(share),))) is None
