"""What the steps of a masked plan are made of: rings, scales, chunks, and what all steps have in common."""

import math
from typing import Annotated

from pydantic import Field

from contract.base import Strict
from secure_computation.engines.masked.plan.layouts import MAX_CHUNK_BITS, MAX_CHUNKS
from secure_computation.network import AnyShape, Shape, ValueName

MAX_RING_BITS = 32
MIN_RING_BITS = 3
WEIGHT_LIMIT = 127 * 256 + 127
"""Largest |integer weight|: what two balanced digits of 8 bits can hold."""

RingBits = Annotated[int, Field(ge=MIN_RING_BITS, le=MAX_RING_BITS)]
Shift = Annotated[int, Field(ge=0, le=MAX_RING_BITS - 2)]
ChunkBits = Annotated[int, Field(ge=1, le=MAX_CHUNK_BITS)]
Chunks = Annotated[tuple[ChunkBits, ...], Field(max_length=MAX_CHUNKS, fail_fast=True)]
Factor = Annotated[int, Field(ge=1, lt=1 << (MAX_RING_BITS - 1))]
RingInteger = Annotated[int, Field(gt=-(1 << (MAX_RING_BITS - 1)), lt=1 << (MAX_RING_BITS - 1))]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=0, le=64)]


class FixedValue(Strict):
    """How a value is held. `integer / scale` is the real number."""

    ring_bits: RingBits
    """The largest ring that any reader needs; a reader with a smaller ring cuts the value to it."""
    scale: Scale
    calibrated_bits: Bits
    """Bits of the largest |integer| over the calibration images."""
    worst_case_bits: Bits
    """Bits that no image within the input's bounds can exceed; 64 stands for 64 and more."""


class BaseStep(Strict):
    """What every step has: its name (also its output's), the values it reads, the shape and form of what it makes."""

    name: ValueName
    inputs: tuple[ValueName, ...] = Field(max_length=256, fail_fast=True)
    shape: AnyShape
    value: FixedValue

    @property
    def output(self) -> str:
        """Name of the value that this step makes: its own."""
        return self.name

    @property
    def elements(self) -> int:
        """Elements of the value that this step makes."""
        return math.prod(self.shape)

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        """Output shape for these input shapes. Raises ValueError where the step cannot take them."""
        if len(inputs) != 1:
            raise ValueError(f"needs one input, got {len(inputs)}")
        return inputs[0]

    def check_rings(self, inputs: tuple[FixedValue, ...]) -> None:
        """Public-linear steps work in the ring of their output, to which wider inputs are cut. Raises ValueError."""
        if any(value.ring_bits < self.value.ring_bits for value in inputs):
            raise ValueError("the ring of an input is narrower than the ring of the result")


class ComparisonStep(BaseStep):
    """A step with a round trip. Reads its input cut to `ring_bits`; the result has a fresh mask that the dealer knows.

    Result ring: `value.ring_bits`, wider or narrower than `ring_bits`.
    """

    ring_bits: RingBits

    def check_width(self, chunks: tuple[int, ...], bits: int) -> None:
        """Raise ValueError for chunks of other bits in all."""
        if sum(chunks) != bits:
            raise ValueError(f"chunks {chunks} do not add up to the {bits} bits to compare")

    def check_rings(self, inputs: tuple[FixedValue, ...]) -> None:
        if inputs[0].ring_bits < self.ring_bits:
            raise ValueError("the ring of the input is narrower than the ring of the comparison")
