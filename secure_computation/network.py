"""The public network: operations, shapes and attributes of a compiled model, without a single weight.

Everybody may know a `Network`: the model owner who compiled it, the data owner who evaluates its half, the crypto
provider who deals for it. Private tensors appear only by name and shape ("convolution1.weight"); their values live in
`secure_computation.private_weights.PrivateWeights`, at the model owner.

Shapes leave the batch out: (channels, height, width) or (features,). Padding is (top, left, bottom, right). A value in
the network carries the name of the operation that makes it; the image is the value `input`.

A network from outside is hostile until `parse_network` returned it: its size is bounded, every shape is inferred again
and must agree, and the bytes must be the canonical ones, so that `network_hash` is one number for one network. Lists
fail at their first wrong entry: a megabyte of wrong ones would take half a gigabyte to tell.
"""

import hashlib
import json
import math
from typing import Annotated, Literal, NewType, Self

from pydantic import Field, ValidationError, model_validator

from contract.base import Strict
from contract.errors import ModelFileError
from contract.fault_words import describe_fault

NetworkHash = NewType("NetworkHash", str)
"""SHA-256 of a network's canonical bytes, 64 hexadecimal digits."""

INPUT = "input"
MAX_NETWORK_BYTES = 4 << 20
MAX_OPERATIONS = 4096
MAX_TENSOR_ELEMENTS = 1 << 26
MAX_ACTIVATION_ELEMENTS = 1 << 29
MAX_WEIGHT_ELEMENTS = 1 << 28
MAX_MULTIPLICATIONS = 1 << 42
MAX_SOFTMAX = 1 << 12
MAX_POOL_KERNEL = 1 << 9

ValueName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Extent = Annotated[int, Field(ge=1, le=1 << 24)]
Border = Annotated[int, Field(ge=0, le=1 << 12)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]

Shape = tuple[int, ...]
Image = tuple[Extent, Extent, Extent]
Vector = tuple[Extent]
AnyShape = Image | Vector
Pair = tuple[Extent, Extent]
Padding = tuple[Border, Border, Border, Border]

NO_PADDING: Padding = (0, 0, 0, 0)


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"needs an image (channels, height, width), got shape {shape}")
    return shape[0], shape[1], shape[2]


def repeats_to(small: Shape, large: Shape) -> bool:
    """Whether a value of shape `small`, repeated along axes on which it has one element, has the shape `large`."""
    return len(small) == len(large) and all(one in {1, other} for one, other in zip(small, large, strict=True))


def _windows(size: tuple[int, int], kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> tuple[int, int]:
    """How many windows fit, by height and width (rounded down)."""
    top, left, bottom, right = padding
    padded = (size[0] + top + bottom, size[1] + left + right)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    if reach[0] > padded[0] or reach[1] > padded[1]:
        raise ValueError(f"a window of {reach[0]} x {reach[1]} does not fit into {padded[0]} x {padded[1]}")
    return (padded[0] - reach[0]) // stride[0] + 1, (padded[1] - reach[1]) // stride[1] + 1


class BaseOperation(Strict):
    """What every operation has: its name (also its output's), the values it reads, the shape it makes."""

    name: ValueName
    inputs: tuple[ValueName, ...] = Field(min_length=1, max_length=256, fail_fast=True)
    shape: AnyShape

    @property
    def output(self) -> str:
        """Name of the value that this operation makes: its own."""
        return self.name

    def weight_shapes(self) -> dict[str, Shape]:
        """Names and shapes of the private tensors that this operation uses, in order."""
        return {}

    def multiplications(self) -> int:
        """Multiply-accumulates with private weights for one image."""
        return 0

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        """Output shape for these input shapes. Raises ValueError if the operation cannot take them."""
        if len(inputs) != 1:
            raise ValueError(f"needs one input, got {len(inputs)}")
        return self._infer_one(inputs[0])

    def _infer_one(self, shape: Shape) -> Shape:
        return shape


class Convolution2d(BaseOperation):
    """Cross-correlation with private weights; zero padding. Weight (out, in / groups, kernel height, kernel width)."""

    kind: Literal["convolution2d"] = "convolution2d"
    weight_shape: tuple[Extent, Extent, Extent, Extent]
    bias: bool
    stride: Pair = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)
    groups: Extent = 1

    def weight_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.name}.weight": self.weight_shape}
        return shapes | ({f"{self.name}.bias": (self.weight_shape[0],)} if self.bias else {})

    def multiplications(self) -> int:
        return math.prod(self.shape) * math.prod(self.weight_shape[1:])

    def _infer_one(self, shape: Shape) -> Shape:
        channels, height, width = _image(shape)
        out, group_in, *kernel = self.weight_shape
        if channels != group_in * self.groups or out % self.groups:
            raise ValueError(f"weight {self.weight_shape} in {self.groups} group(s) cannot take {channels} channels")
        return (
            out,
            *_windows((height, width), (kernel[0], kernel[1]), self.stride, self.padding, self.dilation),
        )


class FullyConnected(BaseOperation):
    """weight @ x + bias with private weight (out_features, in_features)."""

    kind: Literal["fully_connected"] = "fully_connected"
    in_features: Extent
    out_features: Extent
    bias: bool

    def weight_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.name}.weight": (self.out_features, self.in_features)}
        return shapes | ({f"{self.name}.bias": (self.out_features,)} if self.bias else {})

    def multiplications(self) -> int:
        return self.in_features * self.out_features

    def _infer_one(self, shape: Shape) -> Shape:
        if shape != (self.in_features,):
            raise ValueError(f"needs a vector of {self.in_features} features, got shape {shape}")
        return (self.out_features,)


class Relu(BaseOperation):
    """max(x, 0), element by element."""

    kind: Literal["relu"] = "relu"


class Clip(BaseOperation):
    """min(max(x, 0), high), element by element; ReLU6 for high = 6."""

    kind: Literal["clip"] = "clip"
    high: Annotated[Finite, Field(gt=0)]


class Activation(BaseOperation):
    """A smooth function, element by element. Only CrypTen's tensors compute it under encryption, as an approximation.

    silu(x) = x * sigmoid(x); gelu(x) = x * Phi(x) in its tanh form, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    """

    kind: Literal["activation"] = "activation"
    function: Literal["sigmoid", "tanh", "silu", "gelu"]


class Softmax(BaseOperation):
    """exp(x) / sum of exp(x): over the channels at each place, or over a vector's features. CrypTen's, as above."""

    kind: Literal["softmax"] = "softmax"

    def _infer_one(self, shape: Shape) -> Shape:
        if not 2 <= shape[0] <= MAX_SOFTMAX:
            raise ValueError(f"a softmax runs over 2 to {MAX_SOFTMAX} channels or features, not over {shape[0]}")
        return shape


class _Pool(BaseOperation):
    kernel: Pair
    stride: Pair
    padding: Padding = NO_PADDING

    def _infer_one(self, shape: Shape) -> Shape:
        channels, height, width = _image(shape)
        top, left, bottom, right = self.padding
        if max(top, bottom) >= self.kernel[0] or max(left, right) >= self.kernel[1]:
            raise ValueError("padding must be smaller than the kernel, or a window would hold nothing")
        if max(self.kernel) > MAX_POOL_KERNEL and not self._is_one_sum((height, width)):
            raise ValueError(f"a window has at most {MAX_POOL_KERNEL} values along each side")
        return (channels, *_windows((height, width), self.kernel, self.stride, self.padding, (1, 1)))

    def _is_one_sum(self, size: tuple[int, int]) -> bool:
        """Whether no party takes the windows apart, however large they are."""
        del size
        return False


class MaxPool(_Pool):
    """Largest value in each window; padding never wins (it counts as minus infinity)."""

    kind: Literal["max_pool"] = "max_pool"


class AveragePool(_Pool):
    """Mean over each window; padding counts as zeros, or is left out of sum and divisor."""

    kind: Literal["average_pool"] = "average_pool"
    count_include_pad: bool

    def _is_one_sum(self, size: tuple[int, int]) -> bool:
        return self.kernel == size and not any(self.padding)


class GlobalAveragePool(BaseOperation):
    """Mean over height and width: (channels, height, width) -> (channels, 1, 1)."""

    kind: Literal["global_average_pool"] = "global_average_pool"

    def _infer_one(self, shape: Shape) -> Shape:
        return (_image(shape)[0], 1, 1)


class Add(BaseOperation):
    """Sum of two values of one shape."""

    kind: Literal["add"] = "add"

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if len(inputs) != 2 or inputs[0] != inputs[1]:
            raise ValueError(f"needs two values of one shape, got {inputs}")
        return inputs[0]


class Multiply(BaseOperation):
    """Product of two values, element by element; the second may be repeated over axes on which it has one element.

    So the channels of an image are weighted by (channels, 1, 1), its places by (1, height, width).
    """

    kind: Literal["multiply"] = "multiply"

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if len(inputs) != 2 or not repeats_to(inputs[1], inputs[0]):
            raise ValueError(
                f"needs two values of one shape, or a second one with 1 in place of some extents, got {inputs}"
            )
        return inputs[0]


class Concat(BaseOperation):
    """Values of one height and width, one after the other along the channels (or vectors along the features)."""

    kind: Literal["concat"] = "concat"

    def infer(self, inputs: tuple[Shape, ...]) -> Shape:
        if len(inputs) < 2 or any(shape[1:] != inputs[0][1:] for shape in inputs):
            raise ValueError(f"needs values that differ only in channels, got {inputs}")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


class Pad(BaseOperation):
    """Surround each channel by a public constant."""

    kind: Literal["pad"] = "pad"
    padding: Padding
    value: Finite = 0.0

    def _infer_one(self, shape: Shape) -> Shape:
        channels, height, width = _image(shape)
        top, left, bottom, right = self.padding
        return (channels, height + top + bottom, width + left + right)


class Reshape(BaseOperation):
    """The same elements in row-major order under another shape; flattening is a reshape to one axis."""

    kind: Literal["reshape"] = "reshape"

    def _infer_one(self, shape: Shape) -> Shape:
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"cannot give {math.prod(shape)} elements the shape {self.shape}")
        return self.shape


Operation = (
    Convolution2d
    | FullyConnected
    | Relu
    | Clip
    | Activation
    | Softmax
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | Add
    | Multiply
    | Concat
    | Pad
    | Reshape
)
"""The closed set: an engine that handles these handles every network."""


class Network(Strict):
    """A compiled model: operations in topological order from `input` to `output`. Public.

    Building one checks it whole (names, order, shapes, sizes), so a `Network` that exists is consistent.
    """

    format: Literal[1] = 1
    input_shape: Image
    operations: tuple[Annotated[Operation, Field(discriminator="kind")], ...] = Field(
        min_length=1, max_length=MAX_OPERATIONS, fail_fast=True
    )
    output: ValueName
    classes: Annotated[int, Field(ge=2, le=1 << 16)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shapes = _inferred_shapes(self.input_shape, self.operations)
        if shapes.get(self.output) != (self.classes,):
            raise ValueError(f"output '{self.output}' must be a vector of {self.classes} classes")
        used = {name for operation in self.operations for name in operation.inputs} | {self.output}
        unused = [name for name in shapes if name not in used]
        if unused:
            raise ValueError(f"value '{unused[0]}' is never used")
        _check_totals(self)
        return self

    def shapes(self) -> dict[str, Shape]:
        """Shape of every value by name, `input` first, then in the order of the operations."""
        return {INPUT: self.input_shape} | {operation.output: operation.shape for operation in self.operations}

    def weight_shapes(self) -> dict[str, Shape]:
        """Name and shape of every private tensor, in the order of the operations."""
        return {name: shape for operation in self.operations for name, shape in operation.weight_shapes().items()}

    def last_uses(self) -> dict[str, int]:
        """Index of the last operation that reads each value, so that an evaluator can let it go after that."""
        return {name: index for index, operation in enumerate(self.operations) for name in operation.inputs}

    def canonical_bytes(self) -> bytes:
        """The one JSON encoding of this network: sorted keys, no spaces, ASCII."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode("ascii")

    def network_hash(self) -> NetworkHash:
        """SHA-256 over `canonical_bytes`."""
        return NetworkHash(hashlib.sha256(self.canonical_bytes()).hexdigest())


def _inferred_shapes(input_shape: Shape, operations: tuple[Operation, ...]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {INPUT: input_shape}
    for operation in operations:
        where = f"operation '{operation.name}' ({operation.kind})"
        if operation.output in shapes:
            raise ValueError(f"{where}: the name is taken twice")
        missing = [name for name in operation.inputs if name not in shapes]
        if missing:
            raise ValueError(f"{where}: reads '{missing[0]}', which no earlier operation makes")
        try:
            inferred = operation.infer(tuple(shapes[name] for name in operation.inputs))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if inferred != operation.shape:
            raise ValueError(f"{where}: makes shape {inferred}, but declares {operation.shape}")
        shapes[operation.output] = inferred
    return shapes


def _check_totals(network: Network) -> None:
    activations = [math.prod(shape) for shape in network.shapes().values()]
    weights = sum(math.prod(shape) for shape in network.weight_shapes().values())
    multiplications = sum(operation.multiplications() for operation in network.operations)
    for what, amount, limit in (
        ("elements in one value", max(activations), MAX_TENSOR_ELEMENTS),
        ("elements in all values", sum(activations), MAX_ACTIVATION_ELEMENTS),
        ("weights", weights, MAX_WEIGHT_ELEMENTS),
        ("multiplications", multiplications, MAX_MULTIPLICATIONS),
    ):
        if amount > limit:
            raise ValueError(f"{amount} {what}, more than the {limit} that are supported")


def describe_invalid(error: ValidationError) -> str:
    """One line about the first thing that is wrong in data that pydantic refused; never echoes the input itself."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {describe_fault(first)}"


def parse_network(data: bytes) -> Network:
    """Read canonical bytes from outside. Raises ModelFileError for anything that is not exactly one valid network."""
    if len(data) > MAX_NETWORK_BYTES:
        raise ModelFileError(f"network of {len(data)} bytes exceeds {MAX_NETWORK_BYTES}: import the model again")
    try:
        network = Network.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise ModelFileError(f"network is not valid ({describe_invalid(error)}): import the model again") from error
    if network.canonical_bytes() != data:
        raise ModelFileError("network is not in its canonical encoding: import the model again")
    return network
