"""The compiled loops equal their NumPy twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_computation.kernels import elementwise
from secure_computation.kernels.linear import linear_map, prepare_weights
from secure_computation.network import FullyConnected
from secure_computation.ring import pack, reduce_to_ring, unpack

seeds = st.integers(0, 2**32 - 1)


def test_the_compiled_twins_are_there() -> None:
    """numba is a dependency; without it this suite would compare NumPy with itself."""
    assert elementwise.compiled() is not None


@given(seeds, st.integers(0, 200), st.integers(1, 32))
def test_packing(seed: int, count: int, bits: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint32)
    body = elementwise.pack(values, bits)
    assert body.tobytes() == elementwise.pack_numpy(values, bits).tobytes()
    np.testing.assert_array_equal(elementwise.unpack(body, count, bits), values)
    np.testing.assert_array_equal(elementwise.unpack_numpy(body, count, bits), values)


@pytest.mark.parametrize("bits", [1, 17, 20, 31])
def test_packing_more_than_a_chunk(bits: int) -> None:
    count = (1 << 17) + 3
    values = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint32)
    body = elementwise.pack(values, bits, use_compiled=False)
    assert body.tobytes() == elementwise.pack(values, bits, use_compiled=True).tobytes()
    np.testing.assert_array_equal(elementwise.unpack(body, count, bits, use_compiled=False), values)
    np.testing.assert_array_equal(elementwise.unpack(body, count, bits, use_compiled=True), values)


@pytest.mark.parametrize("bits", range(1, 33))
def test_packing_is_the_same_with_and_without_blocks_of_eight(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, 1003).astype(np.uint32)
    wanted = elementwise.pack_numpy(values, bits).tobytes()
    for tables in (elementwise._block_tables, lambda _bits: None):
        monkeypatch.setattr(elementwise, "_block_tables", tables)
        body = elementwise.pack(values, bits)
        assert body.tobytes() == wanted
        np.testing.assert_array_equal(elementwise.unpack(body, values.size, bits), values)


@given(seeds, st.integers(1, 4), st.tuples(*[st.integers(0, 2)] * 4), st.tuples(*[st.integers(1, 6)] * 3))
def test_digits_make_up_the_value(
    seed: int, digits: int, padding: tuple[int, int, int, int], shape: tuple[int, int, int]
) -> None:
    values = np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)
    values.flat[0] = (0x80808080, 0x7F7F7F7F, 0x80000000, 0xFFFFFFFF)[seed % 4]
    planes = elementwise.split_digits(values, digits, padding, use_compiled=True)
    np.testing.assert_array_equal(planes, elementwise.split_digits(values, digits, padding, use_compiled=False))
    total = sum(planes[digit].astype(object) * 256**digit for digit in range(digits)) % 256**digits
    top, left, bottom, right = padding
    wanted = np.pad(values, ((0, 0), (top, bottom), (left, right))).astype(object) % 256**digits
    assert (total == wanted).all()


@given(*[st.tuples(st.integers(1, 3), st.integers(1, 3))] * 3, st.integers(1, 3), st.integers(0, 2))
def test_windows(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], height: int, first: int
) -> None:
    width, last = 4, first + height
    size = [
        (count - 1) * s + d * (k - 1) + 1
        for count, s, d, k in zip((last, width), stride, dilation, kernel, strict=True)
    ]
    planes = np.random.default_rng(0).integers(-128, 128, (2, 3, *size)).astype(np.int8)
    taps = kernel[0] * kernel[1]
    rows = np.full((2, 3 * taps + 2, height * width + 1), 99, np.int8)
    elementwise.windows_to_rows(
        planes, rows, kernel=kernel, stride=stride, dilation=dilation, band=(first, last, width)
    )
    assert (rows[:, 3 * taps :] == 99).all()
    assert (rows[:, :, height * width :] == 99).all()
    for digit, channel, down, across, row, column in np.ndindex(2, 3, *kernel, height, width):
        seen = planes[
            digit, channel, (first + row) * stride[0] + down * dilation[0], column * stride[1] + across * dilation[1]
        ]
        assert rows[digit, (channel * kernel[0] + down) * kernel[1] + across, row * width + column] == seen


@given(seeds, st.integers(1, 4), st.integers(1, 32))
def test_combining(seed: int, count: int, bits: int) -> None:
    products = np.random.default_rng(seed).integers(-(2**31), 2**31, (count, 5, 8)).astype(np.int32)
    wanted = sum(products[index, :3, :5].astype(object) << (8 * index) for index in range(count)) % 2**bits
    for use_compiled in (False, True):
        output = np.full((3, 9), 7, np.uint32)
        elementwise.combine(products, bits, output, columns=(2, 7), use_compiled=use_compiled)
        assert (output[:, 2:7] == wanted).all()
        assert (output[:, [0, 1, 7, 8]] == 7).all()


def test_after_warming_up_nothing_is_compiled() -> None:
    elementwise.warm_up()
    module = elementwise.compiled()
    assert module is not None
    loops = (module.pack, module.unpack, module.split_digits, module.combine)
    compiled = [len(loop.signatures) for loop in loops]
    reduced = reduce_to_ring(np.arange(40, dtype=np.uint32).reshape(4, 2, 5), 23)
    assert (unpack(pack(reduced).tobytes(), (4, 2, 5), 23).values == reduced.values).all()
    layer = FullyConnected(name="f", inputs=("input",), shape=(3,), in_features=40, out_features=3, bias=False)
    weights = np.ones((3, 40), np.int32)
    linear_map(prepare_weights(layer, weights, bits=30, variant="digits"), reduced.values.reshape(-1))
    assert [len(loop.signatures) for loop in loops] == compiled
