"""Linear maps against sums in Python's integers, with every attribute and on the edges of the ring."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_computation.kernels import elementwise, in_place, with_torch
from secure_computation.kernels.in_place import TiledProduct
from secure_computation.kernels.linear import ProductByRows, Variant, choose_variant, linear_map, prepare_weights
from secure_computation.kernels.phases import LinearLayer, image_size
from secure_computation.kernels.winograd import WinogradProduct
from secure_computation.network import Convolution2d, FullyConnected

VARIANTS: tuple[Variant, ...] = ("plain", "digits", "tiles", "grouped", "winograd")
HAS_VNNI = pytest.mark.skipif("avx512vnni" not in elementwise.processor_features(), reason="needs AVX-512 VNNI")
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7F7F7F7F, 0x80808080, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFF, 0xFFFF8001)


def expected(layer: LinearLayer, weights: NDArray[Any], values: NDArray[Any], bits: int) -> NDArray[np.uint32]:
    """The definition, in integers that do not overflow."""
    w, x = weights.astype(object), values.astype(object)
    if isinstance(layer, FullyConnected):
        return np.asarray((w @ x) % 2**bits, np.uint32)
    top, left, bottom, right = layer.padding
    x = np.pad(values, ((0, 0), (top, bottom), (left, right))).astype(object)
    output = np.empty(layer.shape, np.uint32)
    group_in, per_group = layer.weight_shape[1], layer.shape[0] // layer.groups
    for out, row, column in itertools.product(*map(range, layer.shape)):
        first = out // per_group * group_in
        y, z = row * layer.stride[0], column * layer.stride[1]
        (dy, dx), (kh, kw) = layer.dilation, layer.weight_shape[2:]
        window = x[first : first + group_in, y : y + dy * (kh - 1) + 1 : dy, z : z + dx * (kw - 1) + 1 : dx]
        output[out, row, column] = (window * w[out]).sum() % 2**bits
    return output


def convolution(
    size: tuple[int, int, int], weight_shape: tuple[int, int, int, int], **attributes: Any
) -> Convolution2d:
    draft = Convolution2d(
        name="c", inputs=("input",), shape=(1, 1, 1), weight_shape=weight_shape, bias=False, **attributes
    )
    return Convolution2d.model_validate(draft.model_dump() | {"shape": draft.infer((size,))})


def elements(shape: tuple[int, ...], seed: int, *, edges: bool) -> NDArray[np.uint32]:
    generator = np.random.default_rng(seed)
    if edges:
        return generator.choice(np.array(EDGES, np.uint32), shape)
    return generator.integers(0, 2**32, shape, dtype=np.uint32)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Convolution2d, tuple[int, int, int]]:
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    group_in, per_group = draw(st.integers(1, 5)), draw(st.sampled_from((1, 2, 3, 8)))
    kernel, dilation = draw(pairs), draw(pairs)
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height, width = (r + draw(st.integers(0, 5)) for r in reach)
    size = (group_in * groups, height, width)
    layer = convolution(
        size, (per_group * groups, group_in, *kernel),
        stride=draw(pairs), padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    return layer, size


@settings(max_examples=60)
@given(convolutions(), st.integers(1, 32), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_convolution_is_its_definition(
    case: tuple[Convolution2d, tuple[int, int, int]], bits: int, seed: int, edges: bool, small: bool
) -> None:
    layer, size = case
    values = elements(size, seed, edges=edges)
    weights = elements(layer.weight_shape, seed + 1, edges=edges).view(np.int32) >> (17 if small else 0)
    wanted = expected(layer, weights, values, bits)
    for variant in VARIANTS:
        prepared = prepare_weights(layer, weights, bits=bits, variant=variant)
        can_tile = in_place.can_tile(prepared.product.shape)
        serves = {"tiles": can_tile, "digits": layer.groups == 1, "winograd": False}  # so few channels are not worth it
        instead: Variant = "grouped" if layer.groups > 1 else "plain"
        if variant == "winograd" and can_tile:
            instead = "tiles"
        assert prepared.variant == (variant if serves.get(variant, True) else instead)
        np.testing.assert_array_equal(linear_map(prepared, values), wanted)


@settings(max_examples=60)
@given(convolutions(), st.integers(1, 32), st.data())
def test_rows_of_a_product_follow_from_the_rows_that_they_need(
    case: tuple[Convolution2d, tuple[int, int, int]], bits: int, data: st.DataObject
) -> None:
    layer, size = case
    weights = elements(layer.weight_shape, 1, edges=True)
    values = elements(size, 2, edges=False)
    height = image_size(layer.shape)[0]
    stops = sorted({*data.draw(st.lists(st.integers(1, height), max_size=3)), height})
    for variant in VARIANTS:
        prepared = prepare_weights(layer, weights, bits=bits, variant=variant)
        product, there, start = ProductByRows(prepared), np.full(size, 0xDEADBEEF, np.uint32), 0
        parts = []
        for stop in stops:
            needed = product.rows_needed(stop, size[1])
            there[:, :needed] = values[:, :needed]
            parts.append(product.multiply(there, start, stop).copy())
            start = stop
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), linear_map(prepared, values), err_msg=variant)


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 30), st.integers(1, 32), st.integers(0, 2**32 - 1), st.booleans())
def test_fully_connected_is_its_definition(inputs: int, outputs: int, bits: int, seed: int, edges: bool) -> None:
    layer = FullyConnected(
        name="f", inputs=("input",), shape=(outputs,), in_features=inputs, out_features=outputs, bias=True
    )
    values, weights = elements((inputs,), seed, edges=edges), elements((outputs, inputs), seed + 1, edges=edges)
    wanted = expected(layer, weights, values, bits)
    for variant in VARIANTS:
        np.testing.assert_array_equal(
            linear_map(prepare_weights(layer, weights, bits=bits, variant=variant), values), wanted
        )


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("edge", [0x80808080, 0x7F7F7F7F, 0x80000000, 0xFFFFFFFF])
def test_long_sums_of_one_extreme(bits: int, edge: int) -> None:
    """Every product at its largest: 8-bit sums that saturate, or a lost carry, would show."""
    layer = convolution((300, 6, 6), (20, 300, 3, 3), padding=(1, 1, 1, 1))
    values, weights = np.full((300, 6, 6), edge, np.uint32), np.full(layer.weight_shape, edge, np.uint32)
    inside = edge * edge * 2700 % 2**bits
    for variant in VARIANTS:
        product = linear_map(prepare_weights(layer, weights, bits=bits, variant=variant), values)
        assert (product[:, 1:-1, 1:-1] == inside).all()
        assert (product[:, 0, 0] == edge * edge * 1200 % 2**bits).all()


def test_many_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = convolution((3, 20, 9), (5, 3, 3, 3), padding=(1, 0, 2, 1), stride=(2, 1))
    values, weights = elements((3, 20, 9), 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    wanted = linear_map(prepare_weights(layer, weights, bits=27, variant="plain"), values)
    prepared = prepare_weights(layer, weights, bits=27, variant="digits")
    for budget in (1, 2500, 5000):
        monkeypatch.setattr(with_torch, "_BAND_BYTES", budget)
        np.testing.assert_array_equal(linear_map(prepared, values), wanted)


@pytest.mark.parametrize(
    ("largest", "bits", "digits"),
    [(127, 24, 1), (-128, 24, 1), (128, 24, 2), (32639, 24, 2), (-32768, 24, 2), (32640, 24, 3), (32767, 16, 2)],
)
def test_weights_take_as_few_digits_as_they_need(largest: int, bits: int, digits: int) -> None:
    layer = convolution((1, 3, 3), (1, 1, 3, 3))
    weights = np.full((1, 1, 3, 3), largest, np.int32)
    prepared = prepare_weights(layer, weights, bits=bits, variant="digits")
    assert prepared.digits == digits
    product = linear_map(prepared, np.full((1, 3, 3), 5, np.int32))
    assert int(product[0, 0, 0]) == 45 * largest % 2**bits


def test_sums_that_could_leave_32_bits_are_computed_plainly() -> None:
    weights = np.full((1, 70_000), 300, np.int32)
    layer = FullyConnected(name="f", inputs=("input",), shape=(1,), in_features=70_000, out_features=1, bias=False)
    assert prepare_weights(layer, weights, bits=24, variant="digits").variant == "plain"
    assert prepare_weights(layer, weights % 100, bits=24, variant="digits").variant == "digits"


def test_input_is_neither_changed_nor_wanted_writeable_or_contiguous() -> None:
    layer = convolution((4, 5, 6), (2, 4, 3, 3))
    weights = elements(layer.weight_shape, 1, edges=True)
    values = elements((4, 6, 5), 2, edges=False).transpose(0, 2, 1)
    values.setflags(write=False)
    for variant in VARIANTS:
        prepared = prepare_weights(layer, weights, bits=20, variant=variant)
        np.testing.assert_array_equal(linear_map(prepared, values), expected(layer, weights, values, 20))


def test_misuse_is_refused() -> None:
    layer = convolution((4, 5, 6), (2, 4, 3, 3))
    weights = np.zeros((2, 4, 3, 3), np.int32)
    prepared = prepare_weights(layer, weights, bits=20)
    for wrong in (np.zeros((4, 6, 6), np.int32), np.zeros((4, 5, 6), np.int64), np.zeros((4, 5, 6), np.float32)):
        with pytest.raises(ValueError, match="cannot take"):
            linear_map(prepared, wrong)
    with pytest.raises(ValueError, match="does not fit"):
        linear_map(prepared, np.zeros((4, 1, 6), np.int32))
    with pytest.raises(ValueError, match="weights of 'c'"):
        prepare_weights(layer, weights[:1], bits=20)
    with pytest.raises(ValueError, match="weights of 'c'"):
        prepare_weights(layer, weights.astype(np.float32), bits=20)
    with pytest.raises(ValueError, match="1 to 32"):
        prepare_weights(layer, weights, bits=33)


def test_repr_shows_no_weight() -> None:
    layer = convolution((1, 3, 3), (1, 1, 3, 3))
    for variant in VARIANTS:
        assert "77" not in repr(prepare_weights(layer, np.full((1, 1, 3, 3), 77, np.int32), bits=20, variant=variant))


VNNI, AMX = "avx512vnni", "amx-int8"


def choose_on_a_processor_with(monkeypatch: pytest.MonkeyPatch, *features: str) -> Variant:
    monkeypatch.setattr(elementwise, "processor_features", lambda: frozenset(features))
    return choose_variant.__wrapped__()


def test_a_machine_whose_sums_saturate_gets_the_plain_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch._int_mm

    def saturating(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        out.copy_(exact(left, right).clamp(-(2**15), 2**15 - 1))

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert choose_on_a_processor_with(monkeypatch) == "plain"


def test_a_machine_without_8_bit_products_gets_the_plain_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert choose_on_a_processor_with(monkeypatch) == "plain"


@HAS_VNNI
def test_the_choice_follows_the_processor_and_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert choose_on_a_processor_with(monkeypatch, VNNI) == "winograd"
    assert "kernel 'winograd'; this processor has AVX-512 VNNI" in caplog.text
    assert choose_on_a_processor_with(monkeypatch, VNNI, AMX) in {"winograd", "digits"}
    assert "AVX-512 VNNI and AMX" in caplog.text


@HAS_VNNI
@pytest.mark.parametrize("wrong", ["bytes", "whole", 2, 4])
def test_a_kernel_that_is_wrong_on_this_machine_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, wrong: str | int
) -> None:
    """Each loop that may serve is tried: products of bytes, of whole elements, and both sizes of filtered tiles."""
    tiled, filtered = TiledProduct.multiply, WinogradProduct.multiply

    def multiply_tiled(product: TiledProduct, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return tiled(product, values) ^ np.uint32(wrong == ("whole" if product.whole else "bytes"))

    def multiply_filtered(product: WinogradProduct, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return filtered(product, values) ^ np.uint32(wrong == product.size)

    monkeypatch.setattr(TiledProduct, "multiply", multiply_tiled)
    monkeypatch.setattr(WinogradProduct, "multiply", multiply_filtered)
    assert choose_on_a_processor_with(monkeypatch, VNNI) == "plain"


@HAS_VNNI
def test_threads_share_the_outputs_of_a_large_layer() -> None:
    layer = convolution((32, 30, 30), (44, 32, 3, 3), padding=(1, 1, 1, 1))
    values, weights = elements((32, 30, 30), 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    wanted = linear_map(prepare_weights(layer, weights, bits=31, variant="tiles"), values)
    for threads in (2, 3, 7):
        prepared = prepare_weights(layer, weights, bits=31, variant="tiles", threads=threads)
        assert isinstance(prepared.product, TiledProduct)
        assert prepared.product.threads == threads
        np.testing.assert_array_equal(linear_map(prepared, values), wanted)


@HAS_VNNI
def test_pictures_larger_than_the_cache_are_taken_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = convolution((3, 20, 9), (5, 3, 3, 3), padding=(1, 0, 2, 1), stride=(2, 1))
    values, weights = elements((3, 20, 9), 1, edges=False), elements(layer.weight_shape, 2, edges=False)
    prepared = prepare_weights(layer, weights, bits=27, variant="tiles")
    wanted = linear_map(prepared, values)
    monkeypatch.setattr(in_place, "_BAND_BYTES", 1)
    np.testing.assert_array_equal(linear_map(prepared, values), wanted)


_IN_A_NEW_THREAD = """
import os, threading
import numpy as np, torch
from secure_computation.kernels import elementwise
from secure_computation.kernels.linear import linear_map, prepare_weights
from secure_computation.network import Convolution2d

torch.set_num_threads(1)
elementwise.warm_up()  # loads libraries that bring a thread of their own
layer = Convolution2d(name="c", inputs=("i",), shape=(64, 56, 56), weight_shape=(64, 64, 1, 1), bias=False)
weights = prepare_weights(layer, np.ones(layer.weight_shape, np.int32), bits=24, variant="digits")
counts = []

def multiply() -> None:
    counts.append(len(os.listdir("/proc/self/task")))
    linear_map(weights, np.ones((64, 56, 56), np.uint32))
    counts.append(len(os.listdir("/proc/self/task")))

thread = threading.Thread(target=multiply)
thread.start()
thread.join()
print(counts[1] - counts[0])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads where Linux lists them")
def test_a_new_thread_multiplies_on_as_many_threads_as_were_set() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "3"}
    command = [sys.executable, "-c", _IN_A_NEW_THREAD]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "0\n"
