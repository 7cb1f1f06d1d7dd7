"""The product of two values: exact in its ring under every mask and pad, every message uniform, nothing used twice."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import MaterialSpent
from secure_computation.protocols.bundle import Bundle
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.product import Pair, ProductAsP0, ProductAsP1, ProductShape, deal_product
from secure_computation.ring import packed_bytes
from tests.secure_computation.protocols.one_page import (
    InjectedDraws,
    Integers,
    Seeds,
    draws,
    over_the_wire,
    random_ring,
)


@dataclass(frozen=True)
class Played:
    product: Integers
    """Both halves together, in the ring."""
    halves: Pair
    messages: dict[str, bytes]
    opened: dict[str, Bundle]


def play(
    shape: ProductShape,
    x: Integers,
    y: Integers,
    *,
    masks: Pair | None = None,
    pads: Mapping[str, RingElements] | None = None,
    seeds: Seeds | None = None,
) -> Played:
    """D, P0 and P1. `masks`: a and b, `pads`: of P1's and P0's streams by label; random where they are left out."""
    seeds, injected = seeds or Seeds.fresh(), pads or {}
    a, b = masks or (random_ring(shape.left), random_ring(shape.right))
    p0_draws, p1_draws = (InjectedDraws(seed, injected) for seed in (seeds.p0, seeds.p1))
    dealt, rest = deal_product(shape, (a, b), p0=p0_draws, p1=p1_draws)
    messages, opened = {}, {}
    messages["corrections"], opened["corrections"] = over_the_wire(shape.corrections, dealt)
    p0 = ProductAsP0(shape, InjectedDraws(seeds.p0, injected), (a, b))
    np.testing.assert_array_equal(rest, p0.output_mask)
    p1 = ProductAsP1(shape, InjectedDraws(seeds.p1, injected), opened["corrections"])
    opening = p1.open(x.astype(np.uint32) - a, y.astype(np.uint32) - b)
    messages["from_p1"], opened["from_p1"] = over_the_wire(shape.from_p1, opening)
    messages["from_p0"], opened["from_p0"] = over_the_wire(shape.from_p0, p0.answer(opened["from_p1"]))
    p1.multiply()
    v = p1.finish(opened["from_p0"])
    assert int(v.max()) >> shape.ring_bits == 0
    whole = (v + p0.output_mask).astype(np.int64) & ((1 << shape.ring_bits) - 1)
    return Played(whole, (p0.output_mask, v), messages, opened)


def flat(count: int, bits: int) -> ProductShape:
    return ProductShape(left=(count,), right=(count,), ring_bits=bits)


def test_every_pair_under_every_mask_and_every_pad() -> None:
    """All 2^18 choices of x, y, a, b, s and t in a ring of three bits."""
    x, y, a, b, s, t = (part.ravel() for part in np.meshgrid(*[np.arange(8)] * 6))
    played = play(
        flat(x.size, 3),
        x,
        y,
        masks=(a.astype(np.uint32), b.astype(np.uint32)),
        pads={"left pad": s.astype(np.uint32), "right pad": t.astype(np.uint32)},
    )
    np.testing.assert_array_equal(played.product, x * y % 8)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    left = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    return left, tuple(draw(st.sampled_from([1, extent])) for extent in left)


@settings(max_examples=60)
@given(shapes(), st.integers(3, 32), st.integers(0, 1 << 30))
def test_values_of_any_shape_in_any_ring(drawn: tuple[tuple[int, ...], tuple[int, ...]], bits: int, seed: int) -> None:
    left, right = drawn
    generator = np.random.default_rng(seed)
    x, y = (generator.integers(-(1 << 31), 1 << 31, shape) for shape in (left, right))
    played = play(ProductShape(left=left, right=right, ring_bits=bits), x, y)
    np.testing.assert_array_equal(played.product, x * y & ((1 << bits) - 1))
    sizes = {name: len(body) for name, body in played.messages.items()}
    both = int(np.prod(left)) + int(np.prod(right))
    assert sizes == {
        "corrections": packed_bytes(left, bits),
        "from_p1": packed_bytes((both,), bits),
        "from_p0": packed_bytes(left, bits),
    }


def test_a_value_by_itself() -> None:
    x = np.arange(-30, 30)
    played = play(flat(60, 12), x, x, masks=(mask := random_ring(60), mask))
    np.testing.assert_array_equal(played.product, x * x % (1 << 12))


def test_shapes_that_do_not_repeat_to_the_left_one_are_refused() -> None:
    for right in ((4, 1, 1), (3, 2), (2, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"repeated|broadcast"):
            ProductShape(left=(1, 2, 2), right=right, ring_bits=8)


@pytest.mark.parametrize("values", [(0, 0), (-1, 127), (77, -128)])
def test_each_message_takes_every_value_once_whatever_the_factors_are(values: tuple[int, int]) -> None:
    """Over all values of its own pad, with everything else held: what a message shows does not depend on x and y."""
    every = np.arange(256, dtype=np.uint32)
    x, y = (np.full(256, value) for value in values)
    fixed = {"left pad": 3, "right pad": 5, "answer pad": 7, "output mask": 9}
    held = {label: np.full(256, value, np.uint32) for label, value in fixed.items()}
    masks = (np.full(256, 200, np.uint32), np.full(256, 31, np.uint32))
    for message, pads in (
        ("from_p1", ("left pad", "right pad")),
        ("from_p0", ("answer pad",)),
        ("corrections", ("output mask",)),
    ):
        moved = dict.fromkeys(pads, every)
        body = play(flat(256, 8), x, y, masks=masks, pads=held | moved).messages[message]
        for part in range(len(body) // 256):
            assert sorted(body[256 * part : 256 * (part + 1)]) == list(range(256))


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_messages_and_halves_are_uniform_for_constant_factors(bits: int) -> None:
    x = np.zeros((8, 512), np.int64)
    played = play(ProductShape(left=(8, 512), right=(8, 512), ring_bits=bits), x, x + 1)
    seen = [bundle.rings[0].values for bundle in played.opened.values()] + list(played.halves)
    for values in seen:
        ones = (values.reshape(-1, 1) >> np.arange(bits, dtype=np.uint32)) & np.uint32(1)
        assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(values.size))
        assert int(values.max()).bit_length() <= bits


def test_a_weight_of_a_channel_is_opened_once_for_all_its_places() -> None:
    shape = ProductShape(left=(4, 6, 6), right=(4, 1, 1), ring_bits=20)
    assert shape.from_p1.count == 4 * 36 + 4


def test_two_layers_on_one_mask_share_no_message() -> None:
    """As where one value feeds two products: each layer has pads of its own."""
    masks, x = (random_ring(300), random_ring(300)), np.arange(300)
    first, second = (play(flat(300, 32), x, x, masks=masks) for _ in range(2))
    for name, body in first.messages.items():
        words, others = (np.frombuffer(one, "<u4") for one in (body, second.messages[name]))
        assert np.count_nonzero(words == others) < 3


def test_a_layer_is_opened_and_answered_once() -> None:
    seeds, shape = Seeds.fresh(), flat(4, 8)
    masks = (random_ring(4), random_ring(4))
    dealt, _ = deal_product(shape, masks, p0=draws(seeds.p0), p1=draws(seeds.p1))
    p0, p1 = ProductAsP0(shape, draws(seeds.p0), masks), ProductAsP1(shape, draws(seeds.p1), dealt)
    with pytest.raises(RuntimeError, match="open comes before multiply"):
        p1.multiply()
    opening = p1.open(random_ring(4), random_ring(4))
    with pytest.raises(RuntimeError, match="used once"):
        p1.open(random_ring(4), random_ring(4))
    answer = p0.answer(opening)
    with pytest.raises(RuntimeError, match="used once"):
        p0.answer(opening)
    p0.release()
    with pytest.raises(MaterialSpent, match="start a new session"):
        p0.answer(opening)
    with pytest.raises(RuntimeError, match="multiply comes before finish"):
        p1.finish(answer)
    p1.multiply()
    with pytest.raises(RuntimeError, match="comes once"):
        p1.multiply()


def test_nothing_is_shown() -> None:
    part = ProductAsP0(flat(2, 8), draws(Seeds.fresh().p0), (random_ring(2), random_ring(2)))
    assert repr(part) == "ProductAsP0(Draws(step 3))"
