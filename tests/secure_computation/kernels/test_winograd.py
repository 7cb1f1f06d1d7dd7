"""Filtered convolutions against the plain product, on every edge of picture, tile and ring."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_computation.kernels import elementwise, winograd
from secure_computation.kernels.linear import linear_map, prepare_weights
from secure_computation.kernels.phases import Geometry, image_size
from secure_computation.kernels.winograd import WinogradProduct, choose_size
from secure_computation.network import Convolution2d
from tests.secure_computation.kernels.test_linear import convolution, elements, expected

pytestmark = pytest.mark.skipif("avx512vnni" not in elementwise.processor_features(), reason="needs AVX-512 VNNI")
WIDEST = {2: 30, 4: 26}
"""Bits of the widest ring, by size of tile."""


@st.composite
def layers(draw: st.DrawFn) -> tuple[Convolution2d, tuple[int, int, int]]:
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    channels, height, width = draw(st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9)))
    size = (channels, max(height, 3 - padding[0] - padding[2]), max(width, 3 - padding[1] - padding[3]))
    return convolution(size, (draw(st.integers(1, 9)), channels, 3, 3), padding=padding), size


@settings(max_examples=60)
@given(layers(), st.sampled_from((2, 4)), st.integers(0, 29), st.integers(0, 2**32 - 1), st.booleans())
def test_filtered_convolution_is_its_definition(
    case: tuple[Convolution2d, tuple[int, int, int]], tile: int, fewer: int, seed: int, edges: bool
) -> None:
    layer, size = case
    bits = max(1, WIDEST[tile] - fewer)
    values, weights = elements(size, seed, edges=edges), elements(layer.weight_shape, seed + 1, edges=edges)
    product = WinogradProduct.prepare(Geometry.of(layer), weights.reshape(len(weights), -1), tile, bits, 1)
    np.testing.assert_array_equal(product.multiply(values), expected(layer, weights, values, bits))


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("width", [31, 32, 33, 64, 65, 130])
def test_rows_of_more_tiles_than_a_register_has_lanes(tile: int, width: int) -> None:
    layer = convolution((17, 5, width), (3, 17, 3, 3), padding=(1, 1, 1, 1))
    values, weights = elements((17, 5, width), 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    product = WinogradProduct.prepare(Geometry.of(layer), weights.reshape(3, -1), tile, WIDEST[tile], 1)
    wanted = linear_map(prepare_weights(layer, weights, bits=WIDEST[tile], variant="plain"), values)
    np.testing.assert_array_equal(product.multiply(values), wanted)


@settings(max_examples=40)
@given(layers(), st.sampled_from((2, 4)), st.data())
def test_rows_of_a_product_follow_from_the_rows_that_they_need(
    case: tuple[Convolution2d, tuple[int, int, int]], tile: int, data: st.DataObject
) -> None:
    layer, size = case
    values, weights = elements(size, 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    product = WinogradProduct.prepare(Geometry.of(layer), weights.reshape(len(weights), -1), tile, 20, 1)
    height, by_rows = image_size(layer.shape)[0], product.by_rows()
    there, start, parts = np.full(size, 0xDEADBEEF, np.uint32), 0, []
    for stop in sorted({*data.draw(st.lists(st.integers(1, height), max_size=3)), height}):
        needed = min(size[1], by_rows.rows_read(stop))
        there[:, :needed] = values[:, :needed]
        parts.append(by_rows.multiply_rows(there, start, stop).copy())
        start = stop
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), product.multiply(values))


def test_rows_of_tiles_that_fill_registers_are_computed_one_by_one() -> None:
    layer = convolution((17, 14, 65), (3, 17, 3, 3), padding=(1, 1, 1, 1))
    values, weights = elements((17, 14, 65), 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    product = WinogradProduct.prepare(Geometry.of(layer), weights.reshape(3, -1), 4, 20, 1)
    by_rows = product.by_rows()
    assert [by_rows.rows_read(stop) for stop in (1, 4, 5, 14)] == [5, 5, 9, 17]
    rows = [by_rows.multiply_rows(values, start, stop).copy() for start, stop in ((0, 5), (5, 6), (6, 14))]
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), product.multiply(values))


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("edge", [0x80808080, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_long_sums_of_one_extreme(tile: int, edge: int) -> None:
    layer = convolution((300, 6, 6), (20, 300, 3, 3), padding=(1, 1, 1, 1))
    values, weights = np.full((300, 6, 6), edge, np.uint32), np.full(layer.weight_shape, edge, np.uint32)
    product = WinogradProduct.prepare(Geometry.of(layer), weights.reshape(20, -1), tile, WIDEST[tile], 1)
    assert (product.multiply(values)[:, 1:-1, 1:-1] == edge * edge * 2700 % 2 ** WIDEST[tile]).all()


def test_a_ring_that_is_too_wide_for_a_size_of_tile_gets_a_smaller_one_or_none() -> None:
    shape = Geometry.of(convolution((64, 28, 28), (64, 64, 3, 3), padding=(1, 1, 1, 1)))
    assert [choose_size(shape, bits, 4) for bits in (25, 26, 27, 30, 31, 32)] == [4, 4, 2, 2, None, None]


@pytest.mark.parametrize(
    "layer",
    [
        convolution((32, 9, 9), (32, 32, 3, 3), stride=(1, 2)),
        convolution((32, 9, 9), (32, 32, 3, 3), dilation=(2, 1)),
        convolution((32, 9, 9), (32, 16, 3, 3), groups=2),
        convolution((32, 9, 9), (32, 32, 3, 1)),
        convolution((8, 9, 9), (32, 8, 3, 3)),
    ],
    ids=["stride", "dilation", "groups", "kernel", "few channels"],
)
def test_other_layers_are_multiplied_as_they_stand(layer: Convolution2d) -> None:
    weights = elements(layer.weight_shape, 1, edges=False)
    assert choose_size(Geometry.of(layer), 24, 3) is None
    assert prepare_weights(layer, weights, bits=24, variant="winograd").variant == "tiles"


def test_small_pictures_take_small_tiles_and_a_pixel_none() -> None:
    """Of a large tile that stands alone in its register, most lanes would be lost; of one pixel, most of the tile."""
    found = {
        side: choose_size(Geometry.of(convolution((64, side, side), (64, 64, 3, 3), padding=(1, 1, 1, 1))), 24, 3)
        for side in (1, 7, 14)
    }
    assert found == {1: None, 7: 2, 14: 4}


def test_small_weights_are_not_made_large_for_little() -> None:
    """A digit of a weight is a byte, its transform 7 or 16 bytes."""
    shape = Geometry.of(convolution((64, 7, 7), (64, 64, 3, 3), padding=(1, 1, 1, 1)))
    assert [choose_size(shape, 26, digits) for digits in (1, 4)] == [None, 2]


def test_threads_share_the_products() -> None:
    layer = convolution((32, 30, 30), (60, 32, 3, 3), padding=(1, 1, 1, 1))
    values, weights = elements((32, 30, 30), 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    wanted = linear_map(prepare_weights(layer, weights, bits=25, variant="plain"), values)
    prepared = prepare_weights(layer, weights, bits=25, variant="winograd", threads=3)
    assert isinstance(prepared.product, WinogradProduct)
    assert prepared.product.threads == 3
    np.testing.assert_array_equal(linear_map(prepared, values), wanted)


def test_without_compiled_loops_there_is_no_filtering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "processor_features", frozenset)
    layer = convolution((32, 9, 9), (32, 32, 3, 3))
    assert winograd.choose_size(Geometry.of(layer), 24, 3) is None
