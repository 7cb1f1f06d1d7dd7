"""The steps of a masked plan that compare: ReLU, truncation, max pool, clip, label. Each takes a round trip or more."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secure_computation.engines.masked.plan.step_bases import MAX_RING_BITS, Chunks, ComparisonStep, Shift
from secure_computation.network import NO_PADDING, MaxPool, Padding, Pair, Shape


class ReluStep(ComparisonStep):
    """max(0, floor(z / 2^shift)) for -2^(ring_bits-1) + 2^shift <= z < 2^(ring_bits-1)."""

    kind: Literal["relu"] = "relu"
    shift: Shift
    high_chunks: Chunks
    """Of the comparison of ring_bits - shift - 1 bits that decides the sign."""
    low_chunks: Chunks
    """Of the comparison of shift bits that decides the carry; none where shift is 0."""

    @model_validator(mode="after")
    def _layout(self) -> Self:
        self.check_width(self.high_chunks, self.ring_bits - self.shift - 1)
        self.check_width(self.low_chunks, self.shift)
        return self


class TruncateStep(ComparisonStep):
    """floor(z / 2^shift), sign kept.

    For |z| < 2^(ring_bits-1) where `value.ring_bits` is ring_bits - shift; for |z| < 2^(ring_bits-2) where the result's
    ring is wider than that (with shift 0 this only widens the ring).
    """

    kind: Literal["truncate"] = "truncate"
    shift: Shift
    low_chunks: Chunks

    @model_validator(mode="after")
    def _layout(self) -> Self:
        if self.shift > self.ring_bits - 2:
            raise ValueError("a truncation must leave two bits at least")
        if self.value.ring_bits < self.ring_bits - self.shift:
            raise ValueError("a truncation must keep all bits that are left")
        self.check_width(self.low_chunks, self.shift)
        return self

    @property
    def widens(self) -> bool:
        """Whether the result's ring is wider than the bits that are left, which takes one spare bit of the input."""
        return self.value.ring_bits > self.ring_bits - self.shift


class MaxPoolStep(ComparisonStep):
    """Largest value in each window for |x| < 2^(ring_bits-2), in ring `ring_bits`, which is also the result's.

    Height first, then width; along each axis a tree: cells 0 and 1, 2 and 3, ... compared, an odd last one moves up.
    Each comparison is max(a, b) = b + ReLU(a - b) with shift 0. Cells outside the picture hold `padding_constant`.
    The result's mask is known to the dealer where the input's is.
    """

    kind: Literal["max_pool"] = "max_pool"
    kernel: Pair
    stride: Pair
    padding: Padding = NO_PADDING
    high_chunks: Chunks

    @property
    def padding_constant(self) -> int:
        """The smallest value that is allowed: it never wins against a larger one."""
        return 1 - (1 << (self.ring_bits - 2))

    @model_validator(mode="after")
    def _layout(self) -> Self:
        self.check_width(self.high_chunks, self.ring_bits - 1)
        if self.value.ring_bits != self.ring_bits:
            raise ValueError("a max pool keeps its ring")
        return self

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return MaxPool(
            name=self.name,
            inputs=self.inputs,
            shape=self.shape,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
        ).infer(inputs)


class ClipStep(ComparisonStep):
    """min(x, limit) = limit - ReLU(limit - x), shift 0, for |x| and limit < 2^(ring_bits-2).

    A clip to [0, limit] is a ReluStep followed by this.
    """

    kind: Literal["clip"] = "clip"
    limit: Annotated[int, Field(gt=0, lt=1 << (MAX_RING_BITS - 2))]
    high_chunks: Chunks

    @model_validator(mode="after")
    def _layout(self) -> Self:
        self.check_width(self.high_chunks, self.ring_bits - 1)
        if self.limit >= 1 << (self.ring_bits - 2):
            raise ValueError("the limit does not fit the ring")
        return self


class LabelStep(ComparisonStep):
    """One bit for each logit, 1 for the largest, the first of equals; |x| < 2^(ring_bits-2), or differences would wrap.

    Only ever the last step, in plans of models whose card says `label-only`. Its bits are XOR-shared, not in a ring,
    and opened to the data owner alone: the logits are opened to nobody.
    """

    kind: Literal["label"] = "label"
    high_chunks: Chunks

    @model_validator(mode="after")
    def _layout(self) -> Self:
        self.check_width(self.high_chunks, self.ring_bits - 1)
        return self

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if len(inputs) != 1 or len(inputs[0]) != 1 or inputs[0][0] < 2:
            raise ValueError("a label is one of at least two logits")
        return inputs[0]
