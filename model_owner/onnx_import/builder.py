"""A network while it is being compiled: ONNX names on one side, operations with temporary names on the other.

The batch is taken as 1 throughout, so that shapes which the exporter computes from the input fold to constants.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from contract.errors import ModelFileError
from secure_computation.network import (
    INPUT,
    MAX_OPERATIONS,
    MAX_TENSOR_ELEMENTS,
    BaseOperation,
    Padding,
    Pair,
    Shape,
    describe_invalid,
)

Array = NDArray[Any]
Double = NDArray[np.float64]
Positions = NDArray[np.int64]

MADE_FOR_EACH = 4
"""Elements of constants that are computed at import, and of weights that layers get, for each one in the file."""
MADE_BESIDE = 1 << 24
"""So many more of both, whatever the file holds."""
_MAX_POSITIONS = MAX_TENSOR_ELEMENTS
"""Of all rearranged tensors together: 512 MiB."""


class ChannelAffine(BaseOperation):
    """scale * x + shift, channel by channel (batch normalisation): folded into a neighbour before the network is made.

    Tensors `scale` and `shift`, one element for each channel or feature.
    """

    kind: Literal["channel_affine"] = "channel_affine"


class ChannelMap(BaseOperation):
    """Channels (or features) picked and reordered: folded into a neighbour, or a layer, before the network is made.

    Tensor `matrix` (outputs, inputs), of zeros and ones.
    """

    kind: Literal["channel_map"] = "channel_map"
    outputs: Annotated[int, Field(ge=1, le=MAX_TENSOR_ELEMENTS)]

    def _infer_one(self, shape: Shape) -> Shape:
        return (self.outputs, *shape[1:])


class ErrorFunction(BaseOperation):
    """erf(x), element by element: stands for itself only until the product is met that makes it a GELU."""

    kind: Literal["error_function"] = "error_function"
    source: str
    """The ONNX node, for the message if none is met."""


class PadBelow(BaseOperation):
    """Surroundings that lose against every value: stands only until the MaxPool is met that it belongs to."""

    kind: Literal["pad_below"] = "pad_below"
    padding: Padding
    source: str
    """The ONNX node, for the message if none is met."""

    def _infer_one(self, shape: Shape) -> Shape:
        top, left, bottom, right = self.padding
        return (shape[0], shape[1] + top + bottom, shape[2] + left + right)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One ONNX node with decoded attributes."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(repr=False)

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
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
        return ModelFileError(f"operator {self.operator} in node '{self.shown_name}': {reason}; {advice}")

    @property
    def shown_name(self) -> str:
        """The node's name as a message may show it."""
        return (self.name if self.name.isprintable() else repr(self.name))[:80]


@dataclass
class NetworkBuilder:
    """Values, constants and operations found so far. Held by the model owner; the repr shows no tensor."""

    opset: int
    input_name: str
    input_shape: tuple[int, int, int]
    constants: dict[str, Array] = field(repr=False)
    most_made: int = MADE_BESIDE
    """Most elements of constants that are computed, and of weights that operations get: a file cannot ask for much
    more memory than it fills itself."""
    final_activation: str | None = None
    """ONNX name of what the Softmax, LogSoftmax or Sigmoid makes that ends the model, if any."""
    operations: list[BaseOperation] = field(default_factory=list)
    tensors: dict[str, dict[str, Double]] = field(default_factory=dict, repr=False)
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    """ONNX name -> name of a value here; several ONNX names may stand for one value."""
    positions: dict[str, Positions] = field(default_factory=dict, repr=False)
    """By ONNX name, only of tensors that hold a value's elements in another shape or order (see `arranging`)."""
    _remembered: int = 0
    _folded: int = 0
    _given: int = 0

    def __post_init__(self) -> None:
        """The image is there from the start."""
        self.values[self.input_name] = INPUT
        self.shapes[INPUT] = self.input_shape

    def value(self, node: Node, index: int) -> str:
        """Our name of an input that must be computed from the image."""
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
        """An input that may be left out, but must be a constant if it is given."""
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
        if node.inputs[index] in self.positions:
            self.positions[node.outputs[0]] = self.positions[node.inputs[index]]

    @property
    def left_to_move(self) -> int:
        """How many more elements may be moved."""
        return _MAX_POSITIONS - self._remembered

    def remember(self, node: Node, name: str, positions: Positions) -> None:
        """Keep the positions of an ONNX tensor. Raises ModelFileError if all of them would fill the memory."""
        self._remembered += positions.size
        if self._remembered > _MAX_POSITIONS:
            raise node.unsupported(f"more than {_MAX_POSITIONS} elements were moved", "the model is too large")
        self.positions[name] = positions

    @property
    def left_to_fold(self) -> int:
        """How many more elements of constants may be computed, for what the file holds."""
        return self.most_made - self._folded

    def count_folded(self, elements: int) -> None:
        """Note constants that were computed."""
        self._folded += elements

    def operands(self, node: Node) -> tuple[list[int], list[int]]:
        """Which inputs are computed from the image, at least one, and which are constants."""
        constants = [index for index, name in enumerate(node.inputs) if name in self.constants]
        values = [index for index in range(len(node.inputs)) if index not in constants]
        for index in values or [0]:
            self.value(node, index)
        return values, constants

    def affine(self, node: Node, value: str, *, scale: Double | float = 1.0, shift: Double | float = 0.0) -> str:
        """Let the node's first output be the value times `scale` plus `shift`: one number, or one for each channel."""
        channels = self.shapes[value][:1]
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise node.unsupported("a constant is not finite", "train or export the model again")
        tensors = {
            "scale": np.broadcast_to(scale, channels).astype(np.float64),
            "shift": np.broadcast_to(shift, channels).astype(np.float64),
        }
        return self.emit(node, ChannelAffine, (value,), tensors=tensors)

    def maker(self, value: str) -> BaseOperation | None:
        """The operation that makes a value; None for the image."""
        return self.operations[int(value[1:])] if value != INPUT else None

    def emit(self, node: Node, operation: type[BaseOperation], inputs: tuple[str, ...], **given: Any) -> str:
        """Append an operation that makes the node's first output; `given` as for `append`."""
        name = self.append(node, operation, inputs, **given)
        self.values[node.outputs[0]] = name
        return name

    def append(
        self,
        node: Node,
        operation: type[BaseOperation],
        inputs: tuple[str, ...],
        *,
        tensors: dict[str, Double] | None = None,
        **attributes: Any,
    ) -> str:
        """Append an operation that the node needs; return the name of the value that it makes.

        The shape is inferred; only a Reshape is given one.
        """
        name = f"v{len(self.operations)}"
        if len(self.operations) >= MAX_OPERATIONS:
            raise node.unsupported(f"it comes after {MAX_OPERATIONS} operations", "the model is too large")
        try:
            made = operation.model_validate({"name": name, "inputs": inputs, "shape": (1,), **attributes})
            inferred = made.infer(tuple(self.shapes[value] for value in inputs))
        except ValidationError as error:
            raise node.unsupported(describe_invalid(error), "this attribute is not supported") from error
        except ValueError as error:
            raise node.unsupported(str(error), "check the shapes of the model") from error
        if math.prod(inferred) > MAX_TENSOR_ELEMENTS:
            raise node.unsupported(f"it makes a value of {math.prod(inferred)} elements", "the model is too large")
        self._given += sum(tensor.size for tensor in (tensors or {}).values())
        if self._given > self.most_made:
            raise node.unsupported(
                f"layers use more than {self.most_made} weights, many times what the model holds",
                "use each weight in few layers",
            )
        self.operations.append(made.model_copy(update={"shape": inferred}))
        self.tensors[name] = tensors or {}
        self.shapes[name] = inferred
        return name
