"""The public plan of the masked engine: its steps in order, and what must hold of them.

A plan from outside is hostile: building a `MaskedLowering` checks names, shapes, rings, layouts and totals.
"""

from typing import Annotated, Self, assert_never

from pydantic import Field, model_validator

from contract.base import Strict
from contract.model_card import Arithmetic
from secure_computation.engines.masked.plan.steps import (
    MAX_CRYPTEN_ELEMENTS,
    AddStep,
    BaseStep,
    ClipStep,
    ConcatStep,
    CrypTenStep,
    HeatMapStep,
    InputStep,
    LabelStep,
    LinearStep,
    MaxPoolStep,
    MultiplyStep,
    OffsetStep,
    PadStep,
    ReluStep,
    ReshapeStep,
    Step,
    SumPoolStep,
    TruncateStep,
)
from secure_computation.network import (
    INPUT,
    MAX_ACTIVATION_ELEMENTS,
    MAX_MULTIPLICATIONS,
    MAX_OPERATIONS,
    MAX_TENSOR_ELEMENTS,
    ValueName,
)

MAX_STEPS = 4 * MAX_OPERATIONS


class MaskedLowering(Strict):
    """The public part of a model that the masked engine adds: steps in topological order, `input` first."""

    steps: tuple[Annotated[Step, Field(discriminator="kind")], ...] = Field(
        min_length=2, max_length=MAX_STEPS, fail_fast=True
    )
    output: ValueName
    """The logits: the model owner sends its share, cut to this value's ring. Or a LabelStep."""
    arithmetic: Arithmetic
    """How every step cuts bits off."""

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
                step.check_arithmetic(self.arithmetic)
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
            raise ValueError("a heat map is opened with the logits, not instead of them")

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
        """The step that makes this value. Raises KeyError if none does."""
        return {step.name: step for step in self.steps}[name]

    @property
    def gives_label(self) -> bool:
        """Whether the data owner learns a label and no logits."""
        return isinstance(self.steps[-1], LabelStep)

    @property
    def heat_map(self) -> TruncateStep | None:
        """The step whose value is opened to the data owner with the logits, if any."""
        last = self.steps[-1]
        mapped = len(self.steps) > 1 and isinstance(self.steps[-2], HeatMapStep)
        return last if mapped and isinstance(last, TruncateStep) else None

    @property
    def is_exact(self) -> bool:
        """Whether the engine equals the integer reference in every element: not if CrypTen computes a step."""
        return not any(isinstance(step, CrypTenStep) for step in self.steps)

    def last_uses(self) -> dict[str, int]:
        """Index of the last step that reads each value, so that an evaluator can let it go after that."""
        return {name: index for index, step in enumerate(self.steps) for name in step.inputs}


def _mask_is_dealt(step: Step, known: set[str]) -> bool:
    """Whether the dealer knows the mask of this step's value."""
    match step:
        case InputStep() | MultiplyStep() | ReluStep() | TruncateStep() | ClipStep() | CrypTenStep():
            return True
        case LinearStep():
            return False
        case AddStep() | ConcatStep() | SumPoolStep() | PadStep() | ReshapeStep() | OffsetStep():
            return known.issuperset(step.inputs)
        case MaxPoolStep() | LabelStep():
            return known.issuperset(step.inputs)
        case _ as never:
            assert_never(never)
