"""The protocol that each step of a masked plan runs, with its parameters: how many elements, in which rings. Public."""

import math
from collections.abc import Iterator
from typing import Any, Final, assert_never

from contract.model_card import Arithmetic
from secure_computation.engines.masked.plan.fixed_point import image_size
from secure_computation.engines.masked.plan.steps import (
    ClipStep,
    CrypTenStep,
    LabelStep,
    MaxPoolStep,
    ReluStep,
    TruncateStep,
)
from secure_computation.engines.masked.session.activation import ActivationShape
from secure_computation.network import Shape
from secure_computation.protocols.compared_layer import ComparedShape
from secure_computation.protocols.comparison import Chain
from secure_computation.protocols.dithered_relu import DitheredReluShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.heat_map import HeatMapShape
from secure_computation.protocols.label import LabelShape
from secure_computation.protocols.relu import ReluShape
from secure_computation.protocols.truncation import TruncationShape
from secure_computation.protocols.widening import WideningShape

PART_ELEMENTS: Final = 1 << 15
"""A larger layer of comparisons crosses in parts of whole rows: P0 answers one while P1 opens the next. All parts are
opened before the first answer to any of them is read, so the layer waits for the network once.
"""
_ALIGNED: Final = 64
"""Packed bits and rings of a part then end where a byte ends."""
_ROWS_TOGETHER: Final = 4
"""Rows that the quickest kernel computes at a time (`kernels.winograd`)."""


def rows_of_part(row_elements: int) -> int:
    """Rows of each part but the last, so that it has about `PART_ELEMENTS` elements. Public."""
    rows = max(1, PART_ELEMENTS // row_elements)
    if rows >= _ROWS_TOGETHER:
        rows -= rows % _ROWS_TOGETHER
    unit = _ALIGNED // math.gcd(_ALIGNED, row_elements)
    return -(-rows // unit) * unit


def part_count(shape: Shape) -> int:
    """Elements of each part but the last of a layer that compares a value of `shape`; of all, if it is one part."""
    rows = image_size(shape)[0] if len(shape) == 3 else math.prod(shape)
    row_elements = math.prod(shape) // rows
    return min(rows, rows_of_part(row_elements)) * row_elements


def relu_shape(step: ReluStep, arithmetic: Arithmetic) -> ComparedShape:
    """A ReLU with its truncation."""
    common: dict[str, Any] = {
        "count": step.elements,
        "part_count": part_count(step.shape),
        "ring_bits": step.ring_bits,
        "truncated_bits": step.shift,
        "output_bits": step.value.ring_bits,
        "high": Chain(step.high_chunks),
    }
    match arithmetic:
        case Arithmetic.EXACT:
            return ReluShape(**common, low=_chain(step.low_chunks))
        case Arithmetic.DITHERED:
            return DitheredReluShape(**common, sign_cut_bits=step.sign_cut_bits)
        case _ as never:
            assert_never(never)


def positive_part_shape(step: MaxPoolStep | ClipStep, differences: Shape, arithmetic: Arithmetic) -> ComparedShape:
    """ReLU without truncation of differences, of which a max pool or a clip is made: exact in either form."""
    common: dict[str, Any] = {
        "count": math.prod(differences),
        "part_count": part_count(differences),
        "ring_bits": step.ring_bits,
        "truncated_bits": 0,
        "output_bits": step.value.ring_bits,
        "high": Chain(step.high_chunks),
    }
    return ReluShape(**common, low=None) if arithmetic is Arithmetic.EXACT else DitheredReluShape(**common)


def max_pool_levels(step: MaxPoolStep, source: Shape) -> Iterator[int]:
    """Comparisons of each level of a max pool's two trees: along the height of its windows, then along the width."""
    channels, _, width = source
    padded_width = width + step.padding[1] + step.padding[3]
    rows, columns = image_size(step.shape)
    for kernel, elements in zip(step.kernel, (channels * rows * padded_width, channels * rows * columns), strict=True):
        cells = kernel
        while cells > 1:
            yield cells // 2 * elements
            cells -= cells // 2


def truncation_shape(step: TruncateStep, arithmetic: Arithmetic) -> TruncationShape | DitheredTruncationShape:
    """A truncation by itself."""
    common = {
        "count": step.elements,
        "ring_bits": step.ring_bits,
        "truncated_bits": step.shift,
        "output_bits": step.value.ring_bits,
    }
    if arithmetic is Arithmetic.DITHERED:
        return DitheredTruncationShape(**common)
    return TruncationShape(**common, part_count=part_count(step.shape), low=_chain(step.low_chunks))


def label_shape(step: LabelStep) -> LabelShape:
    """The label that a plan opens in place of logits."""
    return LabelShape(classes=step.elements, ring_bits=step.ring_bits, chain=Chain(step.high_chunks))


def heat_map_shape(step: TruncateStep, arithmetic: Arithmetic) -> HeatMapShape:
    """The protocol's parameters, from the step that a plan opens as a heat map."""
    height, width = image_size(step.shape)
    truncation = truncation_shape(step, arithmetic)
    return HeatMapShape(classes=step.shape[0], height=height, width=width, truncation=truncation)


def activation_shape(step: CrypTenStep) -> ActivationShape:
    """The public parameters of a step that CrypTen computes."""
    return ActivationShape(
        function=step.function,
        widening=WideningShape(count=step.elements, ring_bits=step.ring_bits, output_bits=step.value.ring_bits),
        multiplier=step.multiplier,
        divided_bits=step.divided_bits,
        image=(step.shape[0], math.prod(step.shape[1:])) if step.function == "softmax" else None,
    )


def _chain(chunks: tuple[int, ...]) -> Chain | None:
    return Chain(chunks) if chunks else None
