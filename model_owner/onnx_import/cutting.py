"""Pixels picked on a grid, as layers: crops, every second row and column, blocks of pixels made channels."""

import numpy as np

from model_owner.onnx_import.builder import NetworkBuilder, Node, Positions
from secure_computation.network import AveragePool, Convolution2d

_LARGEST_KERNEL = 32
"""Beyond it, a crop costs more than the network that follows: images are cropped before they go into the model."""
_MAX_WEIGHTS = 1 << 20


def cut_out(builder: NetworkBuilder, node: Node, value: str, positions: Positions) -> str | None:
    """The elements of an image at `positions` (1, channels, height, width), by a layer; None where no grid holds them.

    Output channel o holds, at (i, j), channel c of `value` at (top + i * stride, left + j * stride), where c, top and
    left depend on o alone: a convolution with a kernel that is 1 there and 0 elsewhere.
    """
    shape = builder.shapes[value]
    if positions.ndim != 4 or len(shape) != 3 or not positions.size:
        return None
    channels, height, width = shape
    channel, row, column = np.unravel_index(positions[0], (channels, height, width))
    strides = (_stride(row[0, :, 0]), _stride(column[0, 0, :]))
    channel, top, left = channel[:, :1, :1], row[:, :1, :1], column[:, :1, :1]
    made, high, wide = positions.shape[1:]
    rows = top + strides[0] * np.arange(high).reshape(1, -1, 1)
    columns = left + strides[1] * np.arange(wide).reshape(1, 1, -1)
    if min(strides) < 1 or not (positions[0] == (channel * height + rows) * width + columns).all():
        return None
    kernel = (
        max(int(top.max()) + 1, height - high * strides[0] + 1),
        max(int(left.max()) + 1, width - wide * strides[1] + 1),
    )
    same_channels = np.array_equal(channel.reshape(-1), np.arange(channels))
    if same_channels and kernel == (1, 1):
        return builder.append(node, AveragePool, (value,), kernel=kernel, stride=strides, count_include_pad=False)
    groups = channels if same_channels else 1
    weight_shape = (made, channels // groups, *kernel)
    if max(kernel) > _LARGEST_KERNEL or np.prod(weight_shape) > _MAX_WEIGHTS:
        return None
    weight = np.zeros(weight_shape)
    weight[np.arange(made), 0 if same_channels else channel.reshape(-1), top.reshape(-1), left.reshape(-1)] = 1.0
    return builder.append(
        node,
        Convolution2d,
        (value,),
        tensors={"weight": weight},
        weight_shape=weight_shape,
        bias=False,
        stride=strides,
        groups=groups,
    )


def _stride(places: Positions) -> int:
    return int(places[1] - places[0]) if len(places) > 1 else 1
