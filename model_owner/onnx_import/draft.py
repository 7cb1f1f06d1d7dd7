"""A network while it is being compiled: ONNX names on one side, operations with temporary names on the other.

The batch is taken as 1 throughout, so that shapes which the exporter computes from the input fold to constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from contract.errors import ModelFileError
from secure_computation.network import INPUT, MAX_OPERATIONS, BaseOperation, Pair, Shape, describe_invalid

Array = NDArray[Any]
Double = NDArray[np.float64]
AnyOperation = TypeVar("AnyOperation", bound=BaseOperation)


class ChannelAffine(BaseOperation):
    """scale * x + shift, channel by channel (batch normalisation): folded into a neighbour before the network is made.

    Tensors `scale` and `shift`, one element for each channel or feature.
    """

    kind: Literal["channel_affine"] = "channel_affine"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One ONNX node with decoded attributes."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(repr=False)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)

    def pair(self, name: str, default: Pair | None = None) -> Pair:
        """Two integers, for height and width."""
        values = tuple(int(value) for value in self.attributes.get(name, default or ()))
        if len(values) != 2:
            raise self.unsupported(f"'{name}' must have two values", "only two-dimensional images are supported")
        return values[0], values[1]

    def unsupported(self, reason: str, advice: str) -> ModelFileError:
        """The error for this node: operator, node, what is wrong with it, what to do."""
        name = self.name if self.name.isprintable() else repr(self.name)
        return ModelFileError(f"operator {self.operator} in node '{name[:80]}': {reason}; {advice}")


@dataclass
class Draft:
    """Values, constants and operations found so far. Held by the model owner; the repr shows no tensor."""

    opset: int
    input_name: str
    input_shape: tuple[int, int, int]
    constants: dict[str, Array] = field(repr=False)
    final_softmax: str | None = None
    """ONNX name of what a Softmax or LogSoftmax makes that ends the model, if any."""
    operations: list[BaseOperation] = field(default_factory=list)
    tensors: dict[str, dict[str, Double]] = field(default_factory=dict, repr=False)
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    """ONNX name -> name of the value in the draft; several ONNX names may stand for one value."""

    def __post_init__(self) -> None:
        """The image is there from the start."""
        self.values[self.input_name] = INPUT
        self.shapes[INPUT] = self.input_shape

    def value(self, node: Node, index: int) -> str:
        """Draft name of an input that must be computed from the image."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name not in self.values:
            raise node.unsupported(f"input {index} must depend on the image", "simplify the model before its export")
        return self.values[name]

    def shape(self, node: Node, index: int) -> Shape:
        """Shape (without batch) of an input that is computed from the image."""
        return self.shapes[self.value(node, index)]

    def constant(self, node: Node, index: int) -> Array:
        """An input that must be a constant."""
        constant = self.optional_constant(node, index)
        if constant is None:
            raise node.unsupported(f"input {index} must be a constant", "simplify the model before its export")
        return constant

    def optional_constant(self, node: Node, index: int) -> Array | None:
        """An input that may be left out, but must be a constant where it is given."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return None
        if name not in self.constants:
            raise node.unsupported(f"input {index} must be a constant", "simplify the model before its export")
        return self.constants[name]

    def floats(self, node: Node, index: int) -> Double:
        """A constant input that holds floats, in double precision."""
        constant = self.constant(node, index)
        if constant.dtype.kind != "f":
            raise node.unsupported(f"input {index} has type {constant.dtype}", "export the model with float weights")
        return constant.astype(np.float64)

    def alias(self, node: Node, index: int = 0) -> None:
        """The node passes one input through."""
        self.values[node.outputs[0]] = self.value(node, index)

    def emit(
        self,
        node: Node,
        operation: type[AnyOperation],
        inputs: tuple[str, ...],
        *,
        tensors: dict[str, Double] | None = None,
        shape: Shape | None = None,
        **attributes: Any,
    ) -> str:
        """Append an operation that makes the node's first output; its shape is inferred unless given."""
        name = f"v{len(self.operations)}"
        if len(self.operations) >= MAX_OPERATIONS:
            raise node.unsupported(f"it comes after {MAX_OPERATIONS} operations", "the model is too large")
        try:
            made = operation.model_validate({"name": name, "inputs": inputs, "shape": shape or (1,), **attributes})
            inferred = made.infer(tuple(self.shapes[value] for value in inputs))
        except ValidationError as error:
            raise node.unsupported(describe_invalid(error), "this attribute is not supported") from error
        except ValueError as error:
            raise node.unsupported(str(error), "check the shapes of the model") from error
        self.operations.append(made.model_copy(update={"shape": inferred}))
        self.tensors[name] = tensors or {}
        self.shapes[name] = inferred
        self.values[node.outputs[0]] = name
        return name
