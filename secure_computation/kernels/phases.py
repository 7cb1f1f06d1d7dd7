"""A picture laid out so that each tap of a convolution reads one run of elements, whatever the stride.

The padded picture is cut into phases: phase (y, x) holds the elements of every `stride[0]`-th row from y on and every
`stride[1]`-th column from x on. For the output in row i and column j, a tap reads element
i * columns + j + offset of its phase, where `columns` is the width of a phase. So a whole layer is one loop over
p = i * columns + j for each tap; the places p behind the output's width are computed and left out.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secure_computation.network import NO_PADDING, Convolution2d, FullyConnected, Padding, Shape

LinearLayer: TypeAlias = Convolution2d | FullyConnected
Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """A layer as a convolution: a fully connected one reads one pixel with its features as channels."""

    channels: int
    outputs: int
    output_size: Pair
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int

    @classmethod
    def of(cls, layer: LinearLayer) -> "Geometry":
        """Of a layer of either kind."""
        if isinstance(layer, FullyConnected):
            return cls(layer.in_features, layer.out_features, (1, 1), (1, 1), (1, 1), NO_PADDING, (1, 1), 1)
        outputs, group_in, height, width = layer.weight_shape
        size = image_size(layer.shape)
        channels = group_in * layer.groups
        return cls(channels, outputs, size, (height, width), layer.stride, layer.padding, layer.dilation, layer.groups)

    def rows_read(self, stop: int) -> int:
        """Rows of the picture that are laid out for the first `stop` rows of the result; it may have fewer."""
        reach = (self.kernel[0] - 1) * self.dilation[0]
        return max(0, (stop + reach // self.stride[0]) * self.stride[0] - self.padding[0])

    @property
    def terms(self) -> int:
        """Products that one output sums."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Phases:
    """Where the taps of one layer read. All integer arrays."""

    columns: int
    """Elements in a row of each phase."""
    elements: int
    """Elements of each phase."""
    starts: NDArray[np.int64]
    """(phases, 2): row and column of each phase's first element, counted from the picture's: negative in padding."""
    phase: NDArray[np.int64]
    """(taps,): the phase that each tap reads, in the kernel's row-major order."""
    offset: NDArray[np.int64]
    """(taps,): see above."""

    def starts_of_row(self, row: int) -> NDArray[np.int64]:
        """`starts`, so many rows of the picture further down."""
        starts: NDArray[np.int64] = self.starts + np.array([row, 0])
        return starts


def cut_into_phases(shape: Geometry) -> Phases:
    """Only phases that a tap reads, and only as much of them."""
    down, across = (np.arange(size) * step for size, step in zip(shape.kernel, shape.dilation, strict=True))
    rows, columns = (
        count + int(reach[-1]) // step
        for count, reach, step in zip(shape.output_size, (down, across), shape.stride, strict=True)
    )
    y, x = (taps.reshape(-1) for taps in np.meshgrid(down, across, indexing="ij"))
    remainders = np.stack((y % shape.stride[0], x % shape.stride[1]), axis=1)
    starts, phase = np.unique(remainders, axis=0, return_inverse=True)
    return Phases(
        columns=columns,
        elements=rows * columns,
        starts=starts - np.array(shape.padding[:2]),
        phase=phase.reshape(-1),
        offset=y // shape.stride[0] * columns + x // shape.stride[1],
    )


def image_size(shape: Shape) -> Pair:
    """Height and width, 1 x 1 for a vector."""
    return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)
