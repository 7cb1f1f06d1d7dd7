"""The public fixed-point plan of the masked engine: one step for each value, with its ring, scale and chunk layout.

Every value is a tensor of integers in a ring of `ring_bits` bits (two's complement), standing for integer / scale. It
is additively shared: a mask at the data owner, the masked value at the model owner. A plan holds no weight; scales and
rings reveal coarse magnitudes of them, bounds are therefore given in whole bits only.

What each step computes is written as code in `reference`, which the engine equals in every element. A plan from outside
is hostile: building a `MaskedLowering` checks names, shapes, rings and layouts.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contract.base import Strict
from secure_computation.engines.masked.plan.comparison_steps import (
    ClipStep,
    LabelStep,
    MaxPoolStep,
    ReluStep,
    TruncateStep,
)
from secure_computation.engines.masked.plan.crypten_step import MAX_CRYPTEN_ELEMENTS, CrypTenStep
from secure_computation.engines.masked.plan.step_bases import (
    MAX_RING_BITS,
    BaseStep,
    Factor,
    FixedValue,
    RingInteger,
    Scale,
)
from secure_computation.network import (
    INPUT,
    MAX_ACTIVATION_ELEMENTS,
    MAX_MULTIPLICATIONS,
    MAX_OPERATIONS,
    MAX_TENSOR_ELEMENTS,
    NO_PADDING,
    Add,
    AveragePool,
    Concat,
    Convolution2d,
    FullyConnected,
    Multiply,
    Pad,
    Padding,
    Pair,
    Reshape,
    Shape,
    ValueName,
)

MAX_STEPS = 4 * MAX_OPERATIONS


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


class MaskedLowering(Strict):
    """The public part of a model that the masked engine adds: steps in topological order, `input` first."""

    steps: tuple[Annotated[Step, Field(discriminator="kind")], ...] = Field(
        min_length=2, max_length=MAX_STEPS, fail_fast=True
    )
    output: ValueName
    """The logits: the model owner sends its share, cut to this value's ring. Or a LabelStep."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values: dict[str, BaseStep] = {}
        known: set[str] = set()
        for step in self.steps:
            where = f"step '{step.name}' ({step.kind})"
            if step.name in values:
                raise ValueError(f"{where}: the name is taken twice")
            if isinstance(step, InputStep) != (step is self.steps[0] and step.name == INPUT):
                raise ValueError(f"{where}: the first step must be '{INPUT}' and no other may be one")
            if any(name not in values for name in step.inputs):
                raise ValueError(f"{where}: reads a value that no earlier step makes")
            inputs = [values[name] for name in step.inputs]
            try:
                inferred = step.infer(tuple(source.shape for source in inputs))
                step.check_rings(tuple(source.value for source in inputs))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if inferred != step.shape:
                raise ValueError(f"{where}: makes shape {inferred}, but declares {step.shape}")
            if isinstance(step, LinearStep | MultiplyStep) and not known.issuperset(step.inputs):
                raise ValueError(f"{where}: reads a value whose mask the dealer does not know")
            values[step.name] = step
            if _mask_is_dealt(step, known):
                known.add(step.name)
        if self.output not in values:
            raise ValueError(f"no step makes the output '{self.output}'")
        self._check_label()
        self._check_heat_map()
        self._check_totals()
        return self

    def _check_label(self) -> None:
        labels = [step for step in self.steps if isinstance(step, LabelStep)]
        if labels and (labels != [self.steps[-1]] or self.output != labels[0].name):
            raise ValueError("a label must be the last step and the output, and there is one at most")

    def _check_heat_map(self) -> None:
        maps = [step for step in self.steps if isinstance(step, HeatMapStep)]
        if not maps:
            return
        last = self.steps[-1]
        if maps != [self.steps[-2]] or not isinstance(last, TruncateStep) or last.inputs != (maps[0].name,):
            raise ValueError(
                "a heat map must be the last step but one, truncated by the last, and there is one at most"
            )
        if last.widens:
            raise ValueError("a heat map is truncated into a ring of what is left of its bits")
        head = {step.name: step for step in self.steps}.get(maps[0].weights_of)
        classes, channels, height, width = maps[0].operation.weight_shape
        if not isinstance(head, LinearStep) or head.weight_shape != (classes, channels) or (height, width) != (1, 1):
            raise ValueError("a heat map must apply the weights of a fully connected layer at every place")
        if self.output == last.name:
            raise ValueError("a heat map is opened beside the logits, not in their place")

    def _check_totals(self) -> None:
        if max(step.elements for step in self.steps) > MAX_TENSOR_ELEMENTS:
            raise ValueError("a value has more elements than are supported")
        if sum(step.elements for step in self.steps) > 4 * MAX_ACTIVATION_ELEMENTS:
            raise ValueError("the values together have more elements than are supported")
        if sum(step.elements for step in self.steps if isinstance(step, CrypTenStep)) > 8 * MAX_CRYPTEN_ELEMENTS:
            raise ValueError("more elements to be computed by CrypTen than are supported")
        linear = (step.operation.multiplications() for step in self.steps if isinstance(step, LinearStep))
        if sum(linear) > MAX_MULTIPLICATIONS:
            raise ValueError("more multiplications than are supported")

    def step(self, name: str) -> Step:
        """The step that makes this value. Raises KeyError where none does."""
        return {step.name: step for step in self.steps}[name]

    @property
    def gives_label(self) -> bool:
        """Whether the data owner learns a label and no logits."""
        return isinstance(self.steps[-1], LabelStep)

    @property
    def heat_map(self) -> TruncateStep | None:
        """The step whose value is opened to the data owner beside the logits, if any."""
        last = self.steps[-1]
        mapped = len(self.steps) > 1 and isinstance(self.steps[-2], HeatMapStep)
        return last if mapped and isinstance(last, TruncateStep) else None

    @property
    def is_exact(self) -> bool:
        """Whether the engine equals the integer reference in every element: not where CrypTen computes."""
        return not any(isinstance(step, CrypTenStep) for step in self.steps)

    def last_uses(self) -> dict[str, int]:
        """Index of the last step that reads each value, so that an evaluator can let it go after that."""
        return {name: index for index, step in enumerate(self.steps) for name in step.inputs}


def _mask_is_dealt(step: Step, known: set[str]) -> bool:
    """Whether the dealer knows the mask of this step's value."""
    if isinstance(step, InputStep | MultiplyStep | ReluStep | TruncateStep | ClipStep | CrypTenStep):
        return True
    return not isinstance(step, LinearStep) and known.issuperset(step.inputs)
