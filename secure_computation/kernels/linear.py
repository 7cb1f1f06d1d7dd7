"""Exact linear maps in Z_2^k: convolutions and fully connected layers of one image, without bias.

Variants with one result, bit for bit:

| variant    | how                                                                | for                                |
| ---------- | ------------------------------------------------------------------ | ---------------------------------- |
| `winograd` | fewer products (`winograd.WinogradProduct`)                        | 3 x 3 layers where `tiles` may run |
| `tiles`    | the picture read in place (`in_place.TiledProduct`)                | processors with AVX-512 VNNI       |
| `grouped`  | 32-bit integers, group by group (`in_place.GroupedProduct`)        | depthwise layers, narrow groups    |
| `digits`   | bytes, torch's 8-bit matrix product (`with_torch.DigitProduct`)    | AMX, other processors              |
| `plain`    | torch's convolution on 32-bit integers (`with_torch.PlainProduct`) | the tested reference, and all else |

Nothing here knows who holds the weights: P1's integers, the dealer's mask A, the data owner's Delta.
"""

import functools
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels import elementwise, in_place, winograd, with_torch
from secure_computation.kernels.in_place import GroupedProduct, TiledProduct
from secure_computation.kernels.phases import Geometry, LinearLayer, image_size
from secure_computation.kernels.winograd import WinogradProduct
from secure_computation.kernels.with_torch import DigitProduct, PlainProduct
from secure_computation.network import Convolution2d, FullyConnected, Shape

Variant: TypeAlias = Literal["plain", "digits", "tiles", "grouped", "winograd"]
Product: TypeAlias = PlainProduct | DigitProduct | TiledProduct | GroupedProduct | WinogradProduct

_LOG: Final = logging.getLogger(__name__)
_ONE_PIXEL: Final = FullyConnected(
    name="one", inputs=("input",), shape=(1,), in_features=1, out_features=1, bias=False
)  # fmt: skip


@dataclass(frozen=True)
class PreparedWeights:
    """The weights of one layer, laid out once for many products in one ring. Holds them in clear: repr shows none."""

    layer: LinearLayer
    variant: Variant
    digits: int
    """Balanced base-256 digits of a weight; 0 where weights are not cut into digits."""
    product: Product = field(repr=False)


def prepare_weights(
    layer: LinearLayer, weights: NDArray[Any], *, bits: int, variant: Variant | None = None, threads: int = 1
) -> PreparedWeights:
    """Lay out weights for `linear_map` into Z_2^bits.

    Args:
        layer: what to compute; its bias is not looked at.
        weights: int32 or uint32 in the layer's weight shape: integers or elements of a ring of at least `bits` bits.
            Small integers need fewer digits, so they are quicker than elements that fill the ring.
        bits: ring of the result, 1 to 32.
        variant: what to use instead of `choose_variant()`; it gives way to another if it cannot serve (groups, or
            so many inputs that a sum of `digits` could leave 32 bits) or, `winograd`, would not be quicker.
        threads: most that one product may use.

    Raises: ValueError for another shape, dtype or ring.
    """
    if not 1 <= bits <= 32:
        raise ValueError(f"a ring has 1 to 32 bits, not {bits}")
    if weights.shape != _weight_shape(layer) or weights.dtype not in (np.dtype(np.int32), np.dtype(np.uint32)):
        raise ValueError(
            f"the weights of '{layer.name}' are 32-bit integers of shape {_weight_shape(layer)}, "
            f"not {weights.dtype} {weights.shape}"
        )
    representatives = _signed(weights, bits)
    shape = Geometry.of(layer)
    count = _digits_needed(representatives, bits)
    chosen = _variant_for(shape, variant or choose_variant(), count, bits)
    if chosen == "plain":
        return PreparedWeights(layer, chosen, 0, PlainProduct.prepare(shape, representatives, bits, threads))
    if chosen == "grouped":
        return PreparedWeights(layer, chosen, 0, GroupedProduct.prepare(shape, representatives, bits))
    flat = representatives.view(np.uint32).reshape(shape.outputs, -1)
    size = winograd.choose_size(shape, bits, count) if chosen == "winograd" else None
    if size is not None:
        return PreparedWeights(layer, chosen, 0, WinogradProduct.prepare(shape, flat, size, bits, threads))
    if chosen == "tiles":
        return PreparedWeights(layer, chosen, count, TiledProduct.prepare(shape, flat, count, bits, threads))
    digits = elementwise.balanced_digits_numpy(flat, count)
    return PreparedWeights(layer, chosen, count, DigitProduct.prepare(shape, digits, bits, threads))


def linear_map(weights: PreparedWeights, values: NDArray[Any]) -> NDArray[np.uint32]:
    """Product of the prepared weights and one input, reduced mod 2^bits.

    Args:
        weights: from `prepare_weights`.
        values: uint32 or int32, (channels, height, width) or (features,), held mod 2^32.

    Returns: uint32 of the layer's output shape, below 2^bits.
    Raises: ValueError where `values` does not fit the layer.
    """
    layer = weights.layer
    if values.dtype not in (np.dtype(np.int32), np.dtype(np.uint32)) or layer.infer((values.shape,)) != layer.shape:
        raise ValueError(f"layer '{layer.name}' cannot take {values.dtype} of shape {values.shape}")
    picture = values.view(np.uint32).reshape(weights.product.shape.channels, *image_size(values.shape))
    return weights.product.multiply(picture).reshape(layer.shape)


class ProductByRows:
    """`linear_map` of an input whose rows come one after another, for the kernels that read a picture in place.

    Others wait for the whole picture.
    """

    def __init__(self, weights: PreparedWeights) -> None:
        """Begin one product."""
        self._weights = weights
        product = weights.product
        self._by_rows = (
            product.by_rows()
            if isinstance(product, TiledProduct | GroupedProduct | WinogradProduct)
            and isinstance(weights.layer, Convolution2d)
            else None
        )
        self._whole: NDArray[np.uint32] | None = None

    def rows_needed(self, stop: int, height: int) -> int:
        """Rows of the input, which has `height`, that must be there for the first `stop` rows of the result."""
        return height if self._by_rows is None else min(height, self._by_rows.rows_read(stop))

    def multiply(self, values: NDArray[np.uint32], start: int, stop: int) -> NDArray[np.uint32]:
        """Rows `start` to `stop` of the result, behind those computed before. `values`: as of `linear_map`."""
        if self._by_rows is not None:
            return self._by_rows.multiply_rows(values, start, stop)
        if self._whole is None:
            self._whole = linear_map(self._weights, values)
        return self._whole[:, start:stop] if self._whole.ndim == 3 else self._whole[start:stop]


def _variant_for(shape: Geometry, wanted: Variant, digits: int, bits: int) -> Variant:
    """What is wanted, or the next best that can serve a layer."""
    if wanted == "winograd" and winograd.choose_size(shape, bits, digits) is not None:
        return "winograd"
    if wanted in {"winograd", "tiles"} and in_place.can_tile(shape):
        return "tiles"
    if wanted == "digits" and with_torch.fits_digits(shape, digits):
        return "digits"
    in_groups = wanted == "grouped" or (wanted != "plain" and shape.groups > 1)
    return "grouped" if in_groups and in_place.compiled() is not None else "plain"


@functools.cache
def choose_variant() -> Variant:
    """The quickest way without groups that is exact on this machine. Found once, and said in the log.

    Older processors saturate 8-bit sums, so what is chosen has multiplied the extremes right. Seconds are of the
    processor, and `plain` has to win clearly: a busy machine shall not change the choice.
    """
    # Bytes of -128 and 127 throughout are what a processor without exact 8-bit sums gets wrong.
    extremes = np.array([0x7F7F7F7F, 0x7F7F8080, 0x80807F80, 0x80808080, 0, 0xFFFFFFFF, 0x80000000], np.uint32)
    layer = Convolution2d(
        name="self_check", inputs=("input",), shape=(64, 28, 28), weight_shape=(64, 64, 3, 3), bias=False,
        padding=(1, 1, 1, 1),
    )  # fmt: skip
    values, weights = np.resize(extremes, (64, 28, 28)), np.resize(extremes[::-1], layer.weight_shape)
    values[:16] = weights[:16] = extremes[3]
    features = elementwise.processor_features()
    has_bytes, has_matrices = "avx512vnni" in features, "amx-int8" in features
    # Without AMX nothing of torch's comes near, and a server that need not load it starts sooner and smaller.
    reference: Variant = "grouped" if has_bytes and not has_matrices else "plain"
    others: tuple[Variant, ...] = ("winograd",) if reference == "grouped" else ("winograd", "digits")
    right, seconds = _try_variant(reference, layer, weights, values)
    chosen: Variant = "plain"
    least = 2 * seconds
    for variant in others[not has_bytes :]:
        try:
            found, seconds = _try_variant(variant, layer, weights, values)
        except (RuntimeError, AttributeError):  # torch has no 8-bit product for this processor, or none at all
            continue
        if all(map(np.array_equal, right, found)) and seconds < least:
            chosen, least = variant, seconds
    instructions = [name for name, present in (("AVX-512 VNNI", has_bytes), ("AMX", has_matrices)) if present]
    _LOG.info(
        "products of weights use the kernel '%s'; this processor has %s", chosen, " and ".join(instructions) or
        "neither AVX-512 VNNI nor AMX, or numba may not use them",
    )  # fmt: skip
    return chosen


def warm_up() -> None:
    """Choose now rather than in the middle of a session, which also compiles or loads the loops; may load torch."""
    choose_variant()
    if in_place.compiled() is not None:
        one = np.zeros((1, 1, 1), np.uint32)
        GroupedProduct.prepare(Geometry.of(_ONE_PIXEL), one.view(np.int32), 8).multiply(one)


def _try_variant(
    variant: Variant, layer: LinearLayer, weights: NDArray[np.uint32], values: NDArray[np.uint32]
) -> tuple[list[NDArray[np.uint32]], float]:
    """Products in rings of several sizes, one for each loop that may serve, and the seconds of one in the last ring."""
    # `winograd` serves a small ring too, so what it leaves to `tiles` is tried by that name: bytes in 16 bits.
    rest: Variant = "tiles" if variant == "winograd" else variant
    trials: tuple[tuple[Variant, int], ...] = ((rest, 32), (rest, 16), (variant, 30), (variant, 24))
    tried = [prepare_weights(layer, weights, bits=bits, variant=one) for one, bits in trials]
    results = [linear_map(prepared, values) for prepared in tried]
    return results, min(_seconds(tried[-1], values) for _ in range(3))


def _seconds(weights: PreparedWeights, values: NDArray[np.uint32]) -> float:
    start = time.thread_time()
    linear_map(weights, values)
    return time.thread_time() - start


def _weight_shape(layer: LinearLayer) -> Shape:
    if isinstance(layer, FullyConnected):
        return layer.out_features, layer.in_features
    return layer.weight_shape


def _signed(values: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Representatives in [-2^(bits-1), 2^(bits-1)), as a new array."""
    shift = 32 - bits
    moved = np.ascontiguousarray(values.view(np.uint32) << np.uint32(shift)).view(np.int32)
    moved >>= np.int32(shift)
    return moved


def _digits_needed(values: NDArray[np.int32], bits: int) -> int:
    """Fewest balanced digits that hold every value; never more than the ring has, where the highest may wrap."""
    low, high = int(values.min()), int(values.max())
    most = -(-bits // 8)
    for digits in range(1, most):
        ones = (256**digits - 1) // 255
        if -128 * ones <= low and high <= 127 * ones:
            return digits
    return most
