"""The step of a masked plan that CrypTen computes."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secure_computation.engines.masked.plan.step_bases import ComparisonStep, Factor, FixedValue
from secure_computation.network import Activation, Shape, Softmax

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
