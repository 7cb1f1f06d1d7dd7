"""Exact linear maps in Z_2^k: convolutions and fully connected layers of one image, without bias.

Two variants with one result, bit for bit:

- `plain`: torch's convolution and matrix product on int32, which wrap as the ring wants. The tested reference, and the
  way for grouped convolutions.
- `digits`: both factors in balanced base-256 digits, multiplied by the 8-bit matrix product of the processor
  (`torch._int_mm`), some forty times the rate of int32. With x = sum x_i 256^i and W = sum w_j 256^j, only the products
  with i + j < ceil(k / 8) matter mod 2^k. Those of one weight s = i + j are one matrix product: the digits of x lie one
  below the other, lowest first, those of W side by side, highest first, so that the two factors are slices.

`choose_variant` takes `digits` where a self-check finds it exact on this machine (older processors saturate) and not
much slower. Nothing here knows who holds the weights: P1's integers, the dealer's mask A, the data owner's Delta.
"""

import functools
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels import elementwise
from secure_computation.kernels.elementwise import Pair
from secure_computation.network import NO_PADDING, Convolution2d, FullyConnected, Padding, Shape

if TYPE_CHECKING:
    import torch  # at run time in functions: the data owner needs it offline only, and it takes a second to load

LinearLayer: TypeAlias = Convolution2d | FullyConnected
Variant: TypeAlias = Literal["plain", "digits"]

_BAND_BYTES: Final = 8 << 20
"""Windows are laid out for some output rows at a time, which bounds the memory; smaller bands were slower."""


@dataclass(frozen=True)
class PreparedWeights:
    """The weights of one layer, laid out once for many products in one ring. Holds them in clear: repr shows none."""

    layer: LinearLayer
    bits: int
    variant: Variant
    digits: int
    """Balanced base-256 digits of a weight; 0 in the plain variant."""
    matrix: "torch.Tensor" = field(repr=False)
    """plain: int32 in the layer's shape, kernels spread out by dilation.
    digits: int8 (padded out, digits * padded inputs), highest digit first."""


@dataclass(frozen=True)
class _Geometry:
    """A layer as a convolution without groups."""

    channels: int
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair

    @property
    def terms(self) -> int:
        """Products that one output sums."""
        return self.channels * self.kernel[0] * self.kernel[1]


def prepare_weights(
    layer: LinearLayer, weights: NDArray[Any], *, bits: int, variant: Variant | None = None
) -> PreparedWeights:
    """Lay out weights for `linear_map` into Z_2^bits.

    Args:
        layer: what to compute; its bias is not looked at.
        weights: int32 or uint32 in the layer's weight shape: integers or elements of a ring of at least `bits` bits.
            Small integers need fewer digits, so they are quicker than elements that fill the ring.
        bits: ring of the result, 1 to 32.
        variant: what to use instead of `choose_variant()`; `digits` gives way to `plain` where it cannot serve
            (groups, or so many inputs that a sum of products could leave 32 bits).

    Raises: ValueError for another shape, dtype or ring.
    """
    import torch

    if not 1 <= bits <= 32:
        raise ValueError(f"a ring has 1 to 32 bits, not {bits}")
    if weights.shape != _weight_shape(layer) or weights.dtype not in (np.dtype(np.int32), np.dtype(np.uint32)):
        raise ValueError(
            f"the weights of '{layer.name}' are 32-bit integers of shape {_weight_shape(layer)}, "
            f"not {weights.dtype} {weights.shape}"
        )
    representatives = _signed(weights, bits)
    digits = _digits_needed(representatives, bits)
    fits = getattr(layer, "groups", 1) == 1 and digits * _padded(_geometry(layer).terms) << 14 < 1 << 31
    chosen = (variant or choose_variant()) if fits else "plain"
    if chosen == "plain":
        return PreparedWeights(layer, bits, "plain", 0, torch.from_numpy(_spread(layer, representatives)))
    flat = representatives.view(np.uint32).reshape(weights.shape[0], -1)
    padded = np.zeros((digits, _padded(flat.shape[0], least=24), _padded(flat.shape[1])), np.int8)
    padded[:, : flat.shape[0], : flat.shape[1]] = elementwise.balanced_digits_numpy(flat, digits)
    matrix = np.ascontiguousarray(padded[::-1].transpose(1, 0, 2)).reshape(padded.shape[1], -1)
    return PreparedWeights(layer, bits, "digits", digits, torch.from_numpy(matrix))


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
    owned = np.require(values.view(np.uint32), requirements=["C", "W"])
    product = _plain(weights, owned) if weights.variant == "plain" else _by_digits(weights, owned)
    return product.reshape(layer.shape)


@functools.cache
def choose_variant() -> Variant:
    """Return `digits` where 8-bit products are exact on this machine and not emulated, else `plain`. Found once.

    Measured in time of the processor, and `plain` has to win clearly: a busy machine shall not change the choice.
    """
    layer = Convolution2d(
        name="self_check", inputs=("input",), shape=(64, 28, 28), weight_shape=(64, 64, 3, 3), bias=False,
        padding=(1, 1, 1, 1),
    )  # fmt: skip
    # Digits of -128 and 127 throughout are what a processor without exact 8-bit sums gets wrong.
    extremes = np.array([0x7F7F7F7F, 0x7F7F8080, 0x80807F80, 0x80808080, 0, 0xFFFFFFFF, 0x80000000], np.uint32)
    values, weights = np.resize(extremes, (64, 28, 28)), np.resize(extremes[::-1], layer.weight_shape)
    values[:16] = weights[:16] = extremes[3]
    try:
        plain, seconds_plain = _trial("plain", layer, weights, values)
        digits, seconds_digits = _trial("digits", layer, weights, values)
    except (RuntimeError, AttributeError):  # torch has no 8-bit product for this processor, or none at all
        return "plain"
    return "digits" if np.array_equal(plain, digits) and seconds_digits < 2 * seconds_plain else "plain"


def _trial(
    variant: Variant, layer: LinearLayer, weights: NDArray[np.uint32], values: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], float]:
    """The product in the widest ring, and the seconds of one in a ring of the usual size."""
    result = linear_map(prepare_weights(layer, weights, bits=32, variant=variant), values)
    usual = prepare_weights(layer, weights, bits=24, variant=variant)
    linear_map(usual, values)
    return result, min(_seconds(usual, values) for _ in range(3))


def _seconds(weights: PreparedWeights, values: NDArray[np.uint32]) -> float:
    start = time.thread_time()
    linear_map(weights, values)
    return time.thread_time() - start


def _plain(weights: PreparedWeights, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    import torch

    layer = weights.layer
    tensor = torch.from_numpy(values.view(np.int32))
    if isinstance(layer, FullyConnected):
        product = weights.matrix @ tensor
    else:
        top, left, bottom, right = layer.padding
        padded = torch.nn.functional.pad(tensor, (left, right, top, bottom))
        product = torch.conv2d(padded[None], weights.matrix, stride=layer.stride, groups=layer.groups)[0]
    return product.numpy().view(np.uint32) & np.uint32((1 << weights.bits) - 1)


def _by_digits(weights: PreparedWeights, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    import torch

    shape = _geometry(weights.layer)
    digits = _ring_digits(weights.bits)
    height, width = _rows_and_columns(weights.layer.shape)
    image = values.reshape(shape.channels, *_rows_and_columns(values.shape))
    planes = elementwise.split_digits(image, digits, shape.padding)
    output = np.empty((shape.outputs, height * width), np.uint32)
    terms = _padded(shape.terms)
    band = max(1, min(height, _BAND_BYTES // (digits * terms * width)))
    # Not zeroed: what stands behind the last tap meets zero weights, what stands behind the last output is not read.
    rows = np.empty((digits, terms, _padded(band * width)), np.int8)
    right_factor = torch.from_numpy(rows).view(digits * terms, -1)
    products = torch.empty(digits, weights.matrix.shape[0], rows.shape[2], dtype=torch.int32)
    # Not for its answer: only with this call does a thread that is new take over what `torch.set_num_threads` says.
    # The 8-bit product does not ask by itself, and took every core in each new session's thread.
    torch.get_num_threads()
    for first in range(0, height, band):
        last = min(height, first + band)
        elementwise.windows_to_rows(
            planes, rows, kernel=shape.kernel, stride=shape.stride, dilation=shape.dilation, band=(first, last, width)
        )
        for place in range(digits):
            lowest = max(0, place - weights.digits + 1)
            left = weights.matrix[:, (weights.digits - 1 - place + lowest) * terms :]
            right = right_factor[lowest * terms : (place + 1) * terms]
            torch._int_mm(left, right, out=products[place])  # noqa: SLF001  # torch's only 8-bit product
        elementwise.combine(products.numpy(), weights.bits, output, columns=(first * width, last * width))
    return output


def _geometry(layer: LinearLayer) -> _Geometry:
    if isinstance(layer, FullyConnected):
        return _Geometry(layer.in_features, layer.out_features, (1, 1), (1, 1), NO_PADDING, (1, 1))
    outputs, channels, *kernel = layer.weight_shape
    return _Geometry(channels, outputs, (kernel[0], kernel[1]), layer.stride, layer.padding, layer.dilation)


def _spread(layer: LinearLayer, weights: NDArray[np.int32]) -> NDArray[np.int32]:
    """Dilation as zeros between the taps: torch has no dilated convolution on int32."""
    if isinstance(layer, FullyConnected) or layer.dilation == (1, 1):
        return weights
    (down, across), (height, width) = layer.dilation, layer.weight_shape[2:]
    spread = np.zeros((*weights.shape[:2], down * (height - 1) + 1, across * (width - 1) + 1), np.int32)
    spread[:, :, ::down, ::across] = weights
    return spread


def _rows_and_columns(shape: Shape) -> Pair:
    return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)


def _weight_shape(layer: LinearLayer) -> Shape:
    if isinstance(layer, FullyConnected):
        return layer.out_features, layer.in_features
    return layer.weight_shape


def _signed(values: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Representatives in [-2^(bits-1), 2^(bits-1)), as a new array."""
    shift = 32 - bits
    return np.ascontiguousarray((values.view(np.uint32) << np.uint32(shift)).view(np.int32) >> np.int32(shift))


def _ring_digits(bits: int) -> int:
    return (bits + 7) // 8


def _digits_needed(values: NDArray[np.int32], bits: int) -> int:
    """Fewest balanced digits that hold every value; never more than the ring has, where the highest may wrap."""
    low, high = int(values.min()), int(values.max())
    for digits in range(1, _ring_digits(bits)):
        ones = (256**digits - 1) // 255
        if -128 * ones <= low and high <= 127 * ones:
            return digits
    return _ring_digits(bits)


def _padded(size: int, *, least: int = 8) -> int:
    """`torch._int_mm` wants multiples of 8 (and more than 16 rows) on some machines."""
    return max(least, math.ceil(size / 8) * 8)
