"""Linear maps by torch's products: on every processor, and with its matrix unit (AMX) where there is one.

- `PlainProduct`: convolution and matrix product on int32, which wrap as the ring wants. The tested reference.
- `DigitProduct`: both factors in balanced base-256 digits, multiplied by the processor's 8-bit matrix product
  (`torch._int_mm`). With x = sum x_i 256^i and W = sum w_j 256^j, only the products with i + j < ceil(k / 8) matter mod
  2^k. Those of one place s = i + j are one matrix product: the digits of x lie one below the other, lowest first, those
  of W side by side, highest first, so that the two factors are slices.

torch is imported in functions: the data owner needs it offline only, and other kernels not at all; it takes a second.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from secure_computation.kernels import elementwise
from secure_computation.kernels.phases import Geometry

if TYPE_CHECKING:
    import torch

RingElements = NDArray[np.uint32]

_BAND_BYTES: Final = 8 << 20
"""Windows are laid out for some output rows at a time, which bounds the memory; smaller bands were slower."""


@dataclass(frozen=True)
class PlainProduct:
    """Weights (outputs, channels of a group, height, width), spread out by dilation: torch has none on int32."""

    shape: Geometry
    bits: int
    threads: int
    matrix: "torch.Tensor" = field(repr=False)

    @classmethod
    def prepare(cls, shape: Geometry, weights: NDArray[np.int32], bits: int, threads: int) -> "PlainProduct":
        """`weights` in the layer's shape."""
        import torch

        (down, across), (height, width) = shape.dilation, shape.kernel
        spread = np.zeros(
            (shape.outputs, shape.channels // shape.groups, down * (height - 1) + 1, across * (width - 1) + 1), np.int32
        )
        spread[:, :, ::down, ::across] = weights.reshape(*spread.shape[:2], height, width)
        return cls(shape, bits, threads, torch.from_numpy(spread))

    def multiply(self, values: RingElements) -> RingElements:
        """`values`: (channels, height, width), held mod 2^32. Returns (outputs, height, width)."""
        import torch

        shape = self.shape
        torch.set_num_threads(self.threads)
        top, left, bottom, right = shape.padding
        picture = torch.from_numpy(_own(values).view(np.int32))
        padded = torch.nn.functional.pad(picture, (left, right, top, bottom))
        product = torch.conv2d(padded[None], self.matrix, stride=shape.stride, groups=shape.groups)[0]
        return product.numpy().view(np.uint32) & np.uint32((1 << self.bits) - 1)


def fits_digits(shape: Geometry, digits: int) -> bool:
    """Whether no sum of products can leave 32 bits."""
    return shape.groups == 1 and digits * _padded(shape.terms) << 14 < 1 << 31


@dataclass(frozen=True)
class DigitProduct:
    """Weights int8 (padded out, digits * padded inputs), highest digit first."""

    shape: Geometry
    bits: int
    threads: int
    digits: int
    matrix: "torch.Tensor" = field(repr=False)

    @classmethod
    def prepare(cls, shape: Geometry, digits: NDArray[np.int8], bits: int, threads: int) -> "DigitProduct":
        """`digits`: (digits, outputs, weights of one output), the lowest digit first."""
        import torch

        count, outputs, terms = digits.shape
        padded = np.zeros((count, _padded(outputs, least=24), _padded(terms)), np.int8)
        padded[:, :outputs, :terms] = digits
        matrix = np.ascontiguousarray(padded[::-1].transpose(1, 0, 2)).reshape(padded.shape[1], -1)
        return cls(shape, bits, threads, count, torch.from_numpy(matrix))

    def multiply(self, values: RingElements) -> RingElements:
        """As `PlainProduct.multiply`, with (outputs, height * width)."""
        import torch

        shape, digits = self.shape, -(-self.bits // 8)
        height, width = shape.output_size
        planes = elementwise.split_digits(_own(values), digits, shape.padding)
        output = np.empty((shape.outputs, height * width), np.uint32)
        terms = _padded(shape.terms)
        band = max(1, min(height, _BAND_BYTES // (digits * terms * width)))
        # Not zeroed: what stands behind the last tap meets zero weights, what stands behind the last output is not
        # read.
        rows = np.empty((digits, terms, _padded(band * width)), np.int8)
        right_factor = torch.from_numpy(rows).view(digits * terms, -1)
        products = torch.empty(digits, self.matrix.shape[0], rows.shape[2], dtype=torch.int32)
        # In each thread again: the 8-bit product does not ask for the number, and takes every core in a new one.
        torch.set_num_threads(self.threads)
        for first in range(0, height, band):
            last = min(height, first + band)
            elementwise.windows_to_rows(
                planes,
                rows,
                kernel=shape.kernel,
                stride=shape.stride,
                dilation=shape.dilation,
                band=(first, last, width),
            )
            for place in range(digits):
                lowest = max(0, place - self.digits + 1)
                left = self.matrix[:, (self.digits - 1 - place + lowest) * terms :]
                right = right_factor[lowest * terms : (place + 1) * terms]
                torch._int_mm(left, right, out=products[place])  # noqa: SLF001  # torch's only 8-bit product
            elementwise.combine(products.numpy(), self.bits, output, columns=(first * width, last * width))
        return output


def _own(values: RingElements) -> RingElements:
    """Contiguous and writeable, as torch and one kind of compiled loop want it."""
    return np.require(values, requirements=["C", "W"])


def _padded(size: int, *, least: int = 8) -> int:
    """`torch._int_mm` wants multiples of 8 (and more than 16 rows) on some machines."""
    return max(least, -(-size // 8) * 8)
