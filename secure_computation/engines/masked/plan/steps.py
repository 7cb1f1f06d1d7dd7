"""The steps of a masked plan, one for each value: what they read and make, with rings, scales and chunk layouts.

Every value is a tensor of integers in a ring of `ring_bits` bits (two's complement), standing for integer / scale. It
is additively shared: a mask at the data owner, the masked value at the model owner. A step holds no weight; scales and
rings reveal coarse magnitudes of them, so bounds are given in whole bits only.

What each step computes is written as code in `reference`, which the engine equals in every element. `Step`, at the end,
is the closed set of them.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contract.base import Strict
from contract.model_card import Arithmetic
from secure_computation.engines.masked.plan.layouts import MAX_CHUNK_BITS, MAX_CHUNKS
from secure_computation.network import (
    NO_PADDING,
    Activation,
    Add,
    AnyShape,
    AveragePool,
    Concat,
    Convolution2d,
    FullyConnected,
    MaxPool,
    Multiply,
    Pad,
    Padding,
    Pair,
    Reshape,
    Shape,
    Softmax,
    ValueName,
)

MAX_RING_BITS = 32
MIN_RING_BITS = 3
DIGIT_LIMIT = 127
"""Largest |integer weight| that one balanced digit of 8 bits can hold,"""
WEIGHT_LIMIT = DIGIT_LIMIT * 256 + DIGIT_LIMIT
"""and two."""

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

    def check_arithmetic(self, arithmetic: Arithmetic) -> None:
        """Raise ValueError if a plan of this arithmetic cannot hold the step: most take either."""

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

    def check_carry(self, low_chunks: tuple[int, ...], shift: int, arithmetic: Arithmetic) -> None:
        """Raise ValueError unless the carry is compared if the arithmetic is exact, and only then."""
        self.check_width(low_chunks, shift if arithmetic is Arithmetic.EXACT else 0)

    def check_rings(self, inputs: tuple[FixedValue, ...]) -> None:
        if inputs[0].ring_bits < self.ring_bits:
            raise ValueError("the ring of the input is narrower than the ring of the comparison")


# Steps that no party waits for.


class InputStep(BaseStep):
    """The image, rounded to integers by the data owner. Always the first step."""

    kind: Literal["input"] = "input"

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if inputs:
            raise ValueError("the input reads nothing")
        return self.shape


class LinearStep(BaseStep):
    """W * x + b with the private integer tensors `OPERATION.weight` and `OPERATION.bias`, in ring `value.ring_bits`.

    Every LinearStep has a bias, whether the network's operation has one or not: it may hold the rounding term of the
    truncation that follows. The mask of `inputs[0]` is always one that the dealer knows.

    weight = real weight * weight_scale, rounded by error diffusion (`integer_weights.diffuse`);
    bias = round(real bias * value.scale) + rounding.
    """

    kind: Literal["linear"] = "linear"
    operation: Annotated[Convolution2d | FullyConnected, Field(discriminator="kind")]
    """Geometry; its `inputs` are the network's, this step's `inputs` are what is read here."""
    weight_scale: Scale
    rounding: Annotated[int, Field(ge=0, lt=1 << (MAX_RING_BITS - 2))]
    """Half of what the next truncation cuts to 1, so that it rounds; public."""

    @property
    def weight_name(self) -> str:
        return f"{self.operation.name}.weight"

    @property
    def bias_name(self) -> str:
        return f"{self.operation.name}.bias"

    @property
    def weight_shape(self) -> Shape:
        return self.operation.weight_shapes()[self.weight_name]

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return self.operation.infer(inputs)


class HeatMapStep(LinearStep):
    """Class activation map: the head's weights applied at every place of the last feature map, one picture a class.

    For heads of global average pool and fully connected layer: the mean of a class's picture is its logit less the
    bias. The weights are those of the LinearStep `weights_of`, under a weight mask of their own. Truncated by the last
    step, whose result is opened to the data owner beside the logits.
    """

    kind: Literal["heat_map"] = "heat_map"  # type: ignore[assignment]  # the tag of a subclass is its own
    operation: Convolution2d  # 1 x 1
    weights_of: ValueName


class AddStep(BaseStep):
    """factors[0] * a + factors[1] * b; the factors bring both to one scale and are mostly powers of two."""

    kind: Literal["add"] = "add"
    factors: tuple[Factor, Factor]

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return Add(name=self.name, inputs=self.inputs, shape=self.shape).infer(inputs)


class MultiplyStep(BaseStep):
    """a * b, element by element, b repeated over axes on which it has one element; scale = product of both scales.

    Takes a round trip. The masks of both inputs are ones that the dealer knows, and so is that of the result.
    """

    kind: Literal["multiply"] = "multiply"

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return Multiply(name=self.name, inputs=self.inputs, shape=self.shape).infer(inputs)

    def check_rings(self, inputs: tuple[FixedValue, ...]) -> None:
        super().check_rings(inputs)
        if not math.isclose(inputs[0].scale * inputs[1].scale, self.value.scale, rel_tol=1e-12):
            raise ValueError("the scale of a product is the product of the scales")


class ConcatStep(BaseStep):
    """factors[i] * inputs[i], one after the other along the first axis."""

    kind: Literal["concat"] = "concat"
    factors: tuple[Factor, ...] = Field(min_length=2, max_length=256, fail_fast=True)

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if len(self.factors) != len(inputs):
            raise ValueError("needs one factor for each input")
        return Concat(name=self.name, inputs=self.inputs, shape=self.shape).infer(inputs)


class SumPoolStep(BaseStep):
    """Sum over each window, padding counting as zeros; average = sum / divisor, folded into the scale.

    Where the network leaves padding out of the divisor (`count_include_pad` false), each sum is multiplied by
    divisor / (cells of its window inside the picture), a whole number at every position. A global pool is a pool whose
    kernel is the picture.
    """

    kind: Literal["sum_pool"] = "sum_pool"
    kernel: Pair
    stride: Pair
    padding: Padding = NO_PADDING
    count_include_pad: bool = True
    divisor: Factor

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return AveragePool(
            name=self.name,
            inputs=self.inputs,
            shape=self.shape,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            count_include_pad=self.count_include_pad,
        ).infer(inputs)


class PadStep(BaseStep):
    """Surround each channel by a public integer."""

    kind: Literal["pad"] = "pad"
    padding: Padding
    constant: RingInteger

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return Pad(name=self.name, inputs=self.inputs, shape=self.shape, padding=self.padding).infer(inputs)


class ReshapeStep(BaseStep):
    """The same elements in row-major order under another shape."""

    kind: Literal["reshape"] = "reshape"

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        return Reshape(name=self.name, inputs=self.inputs, shape=self.shape).infer(inputs)


class OffsetStep(BaseStep):
    """x + offset, public: a rounding term where no bias can carry it."""

    kind: Literal["offset"] = "offset"
    offset: RingInteger


# Steps with a round trip or more.


class ReluStep(ComparisonStep):
    """A ReLU that cuts `shift` bits.

    Exact: max(0, floor(z / 2^shift)) for -2^(ring_bits-1) + 2^shift <= z < 2^(ring_bits-1).

    Dithered: with Z = floor((z + t) / 2^shift) and i = floor(2^sign_cut_bits / 2), Z if Z + s >= i, else 0, for random
    0 <= t < 2^shift and 0 <= s < 2^sign_cut_bits, and for -2^(ring_bits-1) + 2^shift i <= z <= 2^(ring_bits-1) -
    2^shift (2^sign_cut_bits - i).
    """

    kind: Literal["relu"] = "relu"
    shift: Shift
    sign_cut_bits: Shift = 0
    """Bits of the truncated value, from below, that the comparison leaves out. Dithered plans only."""
    high_chunks: Chunks
    """Of the comparison of ring_bits - shift - sign_cut_bits - 1 bits that decides the sign."""
    low_chunks: Chunks
    """Of the comparison of shift bits that decides the carry; none if shift is 0 or the plan is dithered."""

    @property
    def undecided(self) -> int:
        """i: of truncated values nearer to 0 than this, chance decides which pass and which become 0."""
        return (1 << self.sign_cut_bits) >> 1

    @model_validator(mode="after")
    def _layout(self) -> Self:
        self.check_width(self.high_chunks, self.ring_bits - self.shift - self.sign_cut_bits - 1)
        return self

    def check_arithmetic(self, arithmetic: Arithmetic) -> None:
        self.check_carry(self.low_chunks, self.shift, arithmetic)
        if self.sign_cut_bits and arithmetic is Arithmetic.EXACT:
            raise ValueError("exact arithmetic compares all bits of a sign")


class TruncateStep(ComparisonStep):
    """floor(z / 2^shift), sign kept; in dithered plans floor((z + t) / 2^shift) for a random 0 <= t < 2^shift.

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
        return self

    def check_arithmetic(self, arithmetic: Arithmetic) -> None:
        self.check_carry(self.low_chunks, self.shift, arithmetic)

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


MAX_CRYPTEN_ELEMENTS = 1 << 21
"""Of one value computed by CrypTen, for which up to 500 bytes are dealt for each element; eight times that in all."""
CRYPTEN_SCALE = 1 << 16


CrypTenFunction = Literal["sigmoid", "tanh", "silu", "gelu", "softmax"]


class CrypTenStep(ComparisonStep):
    """A smooth function, or a softmax over the first axis, on CrypTen's tensors: approximate, unlike every other step.

    |x| < 2^(ring_bits-2). x * multiplier / 2^divided_bits has 16 fractional bits, to which CrypTen's scale holds, and
    so has the result.
    """

    kind: Literal["crypten"] = "crypten"
    function: CrypTenFunction
    multiplier: Factor
    divided_bits: Annotated[int, Field(ge=0, le=24)]

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if self.value.scale != CRYPTEN_SCALE:
            raise ValueError(f"the result's scale must be {CRYPTEN_SCALE}")
        if self.elements > MAX_CRYPTEN_ELEMENTS:
            raise ValueError(f"more than {MAX_CRYPTEN_ELEMENTS} elements to be computed by CrypTen")
        return self

    def check_rings(self, inputs: tuple[FixedValue, ...]) -> None:
        super().check_rings(inputs)
        ratio = inputs[0].scale * self.multiplier / (CRYPTEN_SCALE << self.divided_bits)
        if abs(ratio - 1) > 2**-12:
            raise ValueError("the multiplier does not bring the input to 16 fractional bits")

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if self.function == "softmax":
            return Softmax(name=self.name, inputs=self.inputs, shape=self.shape).infer(inputs)
        return Activation(name=self.name, inputs=self.inputs, shape=self.shape, function=self.function).infer(inputs)


Step = (
    InputStep
    | LinearStep
    | HeatMapStep
    | AddStep
    | MultiplyStep
    | ConcatStep
    | SumPoolStep
    | PadStep
    | ReshapeStep
    | OffsetStep
    | ReluStep
    | TruncateStep
    | MaxPoolStep
    | ClipStep
    | CrypTenStep
    | LabelStep
)
"""The closed set: an engine that handles these handles every plan."""
