"""The heat map on one page: exact under every mask in small rings, with random weights in large ones; what is seen."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.heat_map import HeatMapShape, open_heat_map, share_heat_map
from secure_computation.protocols.linear import (
    deal_linear,
    draw_weight_mask,
    linear_as_p0,
    linear_as_p1,
    mask_weights,
)
from secure_computation.randomness import Seed
from secure_computation.ring import packed_bytes
from tests.secure_computation.protocols.one_page import (
    InjectedDraws,
    Integers,
    Seeds,
    dithered_truncation_shape,
    draws,
    every_pair,
    over_the_wire,
    play_roles,
    random_ring,
    truncation_shape,
)

NO_BIAS = np.zeros((1, 1, 1), np.uint32)


def shape_of(pictures: tuple[int, int, int], k: int, f: int, k_out: int | None = None) -> HeatMapShape:
    classes, height, width = pictures
    truncation = truncation_shape(k, f, k - f if k_out is None else k_out, classes * height * width)
    return HeatMapShape(classes=classes, height=height, width=width, truncation=truncation)


def at_every_place(weights: RingElements, x: RingElements) -> RingElements:
    """(classes, channels) on (channels, height, width)."""
    applied: RingElements = np.einsum("kc,cyx->kyx", weights, x)
    return applied


@dataclass
class Played:
    """One page: the map, and every message in order as (name, body, what is read)."""

    opened: NDArray[np.int64] | None = None
    messages: dict[str, tuple[bytes, Bundle]] = field(default_factory=dict)

    def send(self, name: str, layout: BundleLayout, bundle: Bundle) -> Bundle:
        self.messages[name] = over_the_wire(layout, bundle)
        return self.messages[name][1]


def play(
    shape: HeatMapShape,
    weights: NDArray[np.int32],
    x: Integers,
    *,
    seeds: Seeds | None = None,
    model_seed: Seed | None = None,
    rho: RingElements | None = None,
    r: Integers | None = None,
) -> Played:
    """D, P0 and P1 on one page. `r`: the mask that neither party knows, random where it is left out."""
    page, seeds, k = Played(), seeds or Seeds.fresh(), shape.truncation.ring_bits
    model_seed = model_seed or Seed.fresh()
    injected: dict[str, RingElements] = {}
    if r is not None:
        r1 = draws(seeds.p1).ring("mask", shape.count, bits=k)
        injected["mask"] = (r.astype(np.uint32) - r1) & np.uint32((1 << k) - 1)

    def weight_mask() -> RingElements:  # at D and at P1
        return draw_weight_mask(Draws(model_seed, item="weights", step=0), weights.shape, bits=k)

    # Once for each model version.
    layout = BundleLayout(count=weights.size, ring_bits=(k,))
    masked = mask_weights(weights.reshape(-1), weight_mask().reshape(-1), bits=k)
    delta = page.send("delta", layout, Bundle(rings=(masked,))).rings[0].values.reshape(weights.shape)
    # Offline.
    rho = random_ring(x.shape) if rho is None else rho  # from s0, at D and P0
    u1 = deal_linear(at_every_place(weight_mask(), rho), p0=draws(seeds.p0), bits=k)
    u1 = page.send("u1", shape.correction, u1)
    z0 = linear_as_p0(at_every_place(delta, rho), draws=draws(seeds.p0), bits=k)
    # Online.
    own, v = weights.view(np.uint32), x.astype(np.uint32) - rho
    u1_values = u1.rings[0].values.reshape(z0.shape)
    z1 = linear_as_p1(at_every_place(own, v) + NO_BIAS, correction=u1_values)
    output_mask, half = play_roles(
        shape.truncation,
        z0.reshape(-1),
        z1.reshape(-1),
        lambda: InjectedDraws(seeds.p0, injected),
        lambda: draws(seeds.p1),
        page.send,
    )
    # Output.
    share = page.send("share", shape.opened, share_heat_map(shape, half))
    page.opened = open_heat_map(shape, share, output_mask)
    return page


def wanted(shape: HeatMapShape, weights: NDArray[np.int32], x: Integers) -> NDArray[np.int64]:
    """floor(W * x / 2^f), cut to the ring, signed."""
    y = np.einsum("kc,cyx->kyx", weights.astype(np.int64), x) >> shape.truncation.truncated_bits
    size = 1 << shape.truncation.output_bits
    cut_to_size = y & (size - 1)
    return np.asarray(np.where(cut_to_size >= size // 2, cut_to_size - size, cut_to_size), np.int64)


@pytest.mark.parametrize(("k", "f"), [(k, f) for k in range(2, 8) for f in range(k - 1)])
def test_every_value_under_every_mask(k: int, f: int) -> None:
    """One class and channel of weight 1: z is x."""
    z, r = every_pair(np.arange(-(1 << (k - 1)), 1 << (k - 1)), k)
    for k_out in sorted({1, max(1, k - f - 1), k - f}):
        shape = shape_of((1, 1, z.size), k, f, k_out)
        weights, x = np.ones((1, 1), np.int32), z.reshape(1, 1, -1)
        np.testing.assert_array_equal(play(shape, weights, x, r=r).opened, wanted(shape, weights, x))


@settings(max_examples=40)
@given(
    pictures=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 6),
    k=st.integers(2, 32),
    data=st.data(),
)
def test_any_weights_and_features(pictures: tuple[int, int, int], channels: int, k: int, data: st.DataObject) -> None:
    shape = shape_of(pictures, k, f := data.draw(st.integers(0, k - 2)), data.draw(st.integers(1, k - f)))
    generator = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    limit = 1 << (k - 1)
    size = max(1, min(1 << 14, limit // channels))
    weights = generator.integers(-size, size, (pictures[0], channels), dtype=np.int32)
    # |W * x| stays below 2^(k-1): the plan's ring sees to that.
    most = (limit - 1) // max(1, int(np.abs(weights.astype(np.int64)).sum(axis=1).max()))
    x = generator.integers(0, most + 1, (channels, *pictures[1:]))
    np.testing.assert_array_equal(play(shape, weights, x).opened, wanted(shape, weights, x))


@pytest.mark.parametrize(("k", "f", "k_out"), [(28, 19, 9), (32, 0, 32), (20, 13, 7)])
def test_what_is_sent_is_what_is_declared(k: int, f: int, k_out: int) -> None:
    shape = shape_of((3, 7, 7), k, f, k_out)
    page = play(shape, np.ones((3, 5), np.int32), np.ones((5, 7, 7), np.int64))
    declared = {
        "u1": shape.correction,
        "corrections": shape.truncation.corrections,
        "prepared": shape.truncation.prepared,
        "from_p1": shape.truncation.from_p1,
        "from_p0": shape.truncation.from_p0,
        "share": shape.opened,
    }
    measured = {name: len(body) for name, (body, _) in page.messages.items() if name != "delta"}
    assert measured == {name: layout.body_bytes for name, layout in declared.items()}
    assert measured["share"] == packed_bytes((3, 7, 7), k_out)


@pytest.mark.parametrize(("k", "f", "k_out"), [(20, 11, 10), (20, 0, 21), (32, 12, 21)])
def test_a_form_that_opens_more_than_is_left_is_refused(k: int, f: int, k_out: int) -> None:
    with pytest.raises(ValueError, match="narrow form"):
        shape_of((1, 2, 2), k, f, k_out)


def test_with_a_dither_nothing_is_sent_before_the_share() -> None:
    truncation = dithered_truncation_shape(20, 13, 7, 3 * 49)
    shape = HeatMapShape(classes=3, height=7, width=7, truncation=truncation)
    weights, x = np.full((3, 5), 90, np.int32), np.full((5, 7, 7), 101, np.int64)
    page = play(shape, weights, x)
    assert list(page.messages) == ["delta", "u1", "prepared", "share"]
    assert page.opened is not None
    below = wanted(shape, weights, x)
    assert set((page.opened - below).reshape(-1).tolist()) == {0, 1}  # 5 * 90 * 101 = 5.55 * 2^13


# What is seen


@pytest.mark.parametrize(("weight", "feature"), [(0, 0), (30, 4000)])
def test_messages_are_uniform_whatever_the_map_is(weight: int, feature: int) -> None:
    shape = shape_of((4, 16, 16), 24, 12)
    weights, x = np.full((4, 3), weight, np.int32), np.full((3, 16, 16), feature, np.int64)
    pages = [play(shape, weights, x) for _ in range(6)]
    for name in ("u1", "prepared", "from_p1", "from_p0", "share"):
        rings = [page.messages[name][1].rings[-1] for page in pages]
        values = np.concatenate([ring.values.reshape(-1) for ring in rings])
        ones = (values[:, None] >> np.arange(rings[0].bits, dtype=np.uint32)) & np.uint32(1)
        assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 6 * 0.5 / np.sqrt(values.size)), name


def test_what_p0_receives_last_follows_from_the_map() -> None:
    """Two models that differ, with one map: under the same seeds of the item, P1's last message is the same."""
    shape, seeds = shape_of((1, 2, 2), 24, 8, 9), Seeds.fresh()
    x = np.array([[100, 200], [300, 400]])
    weights = [np.array([one], np.int32) for one in ([64, 64], [66, 62], [0, 128])]
    pages = [play(shape, each, np.stack([x, x]), seeds=seeds) for each in weights]
    assert len({page.messages["delta"][0] for page in pages}) == len(pages)
    assert len({page.messages["share"][0] for page in pages}) == 1


def test_nothing_above_the_ring_leaves() -> None:
    shape = shape_of((1, 1, 4), 20, 10)
    half = random_ring((4,))
    (sent,) = share_heat_map(shape, half).rings
    np.testing.assert_array_equal(sent.values, half & np.uint32((1 << 10) - 1))
    assert len(over_the_wire(shape.opened, Bundle(rings=(sent,)))[0]) == 5
