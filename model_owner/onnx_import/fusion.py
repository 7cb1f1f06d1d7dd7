"""What only the builder knows joins a neighbour: scales and shifts by channel, and channels picked and reordered.

First into the layer before, if nothing else reads that one; then into the layer behind, past pools and reshapes; what
is left becomes a layer of its own.
"""

from collections import Counter
from dataclasses import dataclass
from typing import cast

import numpy as np

from contract.errors import ModelFileError
from model_owner.onnx_import.builder import ChannelAffine, ChannelMap, Double, ErrorFunction, NetworkBuilder, PadBelow
from secure_computation.network import (
    INPUT,
    NO_PADDING,
    BaseOperation,
    Clip,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    Multiply,
    Operation,
    Reshape,
)

Tensors = dict[str, dict[str, Double]]

_STEMS = {"convolution2d": "convolution"}
_SMALL_WEIGHT = 1 << 22
"""Elements up to which a merged weight may have any size."""


@dataclass
class _Sketch:
    """Operations in their order, by name; the tensors of each; the name of the output."""

    operations: dict[str, BaseOperation]
    tensors: Tensors
    output: str

    def put(self, operation: BaseOperation, tensors: dict[str, Double] | None = None) -> None:
        """Let an operation with these tensors stand in the place of its name."""
        self.operations[operation.name], self.tensors[operation.name] = operation, tensors or {}

    def remove(self, name: str) -> None:
        """Take an operation out."""
        del self.operations[name], self.tensors[name]

    def uses(self) -> Counter[str]:
        """How often each value is read. The output is read once more."""
        return Counter([*(name for one in self.operations.values() for name in one.inputs), self.output])

    def readers(self) -> dict[str, BaseOperation]:
        """The operation that alone reads a value, by the value's name."""
        uses = self.uses()
        return {
            name: operation
            for operation in self.operations.values()
            for name in operation.inputs
            if uses[name] == 1 and name != self.output
        }


def finish(builder: NetworkBuilder, output: str) -> tuple[tuple[Operation, ...], str, dict[str, Double]]:
    """Operations with their final names, the output's name, and the private tensors by their full names.

    Raises ModelFileError for an error function that belongs to no GELU, and the like.
    """
    live = _list_live(builder.operations, output)
    sketch = _Sketch({one.name: one for one in live}, {one.name: builder.tensors[one.name] for one in live}, output)
    for operation in live:
        if isinstance(operation, ErrorFunction):
            raise ModelFileError(
                f"operator Erf in node '{operation.source}': it is no part of a GELU as exporters write it; export the "
                "model with opset 20, in which GELU is one operator, or use another activation"
            )
        if isinstance(operation, PadBelow):
            raise ModelFileError(
                f"operator Pad in node '{operation.source}': it pads with minus infinity or nearly so, which only a "
                "MaxPool behind it may read; pad with 0"
            )
    _scale_before_cutting_off(sketch)
    _merge_into_the_layer_before(sketch)
    _merge_into_the_layer_after(sketch)
    _make_layers(sketch)
    _join_siblings(sketch)
    return _rename(sketch)


def _list_live(operations: list[BaseOperation], output: str) -> list[BaseOperation]:
    needed, live = {output}, []
    for operation in reversed(operations):
        if operation.output in needed:
            needed.update(operation.inputs)
            live.append(operation)
    return live[::-1]


def _scale_before_cutting_off(sketch: _Sketch) -> None:
    """A positive factor behind a Clip, or behind the product with one, moves before the Clip, where layers may take it.

    HardSwish and HardSigmoid are written so: x * clip(x + 3, 0, 6) / 6 is x * clip(x / 6 + 1/2, 0, 1).
    """
    readers = sketch.readers()
    for name, operation in list(sketch.operations.items()):
        factor = _positive_factor(operation, sketch.tensors[name])
        made = sketch.operations.get(operation.inputs[0])
        if factor is None or made is None or readers.get(made.name) is not operation:
            continue
        places = [made.name, name]
        clip: BaseOperation | None = made
        if isinstance(made, Multiply):
            found = (sketch.operations.get(value) for value in made.inputs)
            clip = next((one for one in found if isinstance(one, Clip) and readers.get(one.name) is made), None)
            places = [clip.name, *places] if clip is not None else []
        if not isinstance(clip, Clip):
            continue
        affine, cut, *product = places
        tensors = {"scale": np.full(clip.shape[0], factor), "shift": np.zeros(clip.shape[0])}
        sketch.put(ChannelAffine(name=affine, inputs=clip.inputs, shape=clip.shape), tensors)
        sketch.put(clip.model_copy(update={"name": cut, "inputs": (affine,), "high": clip.high * factor}))
        for last in product:
            inputs = tuple(cut if value == clip.name else value for value in made.inputs)
            sketch.put(made.model_copy(update={"name": last, "inputs": inputs}))
        readers = sketch.readers()


def _positive_factor(operation: BaseOperation, tensors: dict[str, Double]) -> float | None:
    """The one factor of a value, if it is positive and nothing is added."""
    if not isinstance(operation, ChannelAffine):
        return None
    scale, shift = tensors["scale"], tensors["shift"]
    return float(scale[0]) if scale[0] > 0 and not np.ptp(scale) and not shift.any() else None


def _merge_into_the_layer_before(sketch: _Sketch) -> None:
    uses = sketch.uses()
    replaced: dict[str, str] = {}
    for name, original in list(sketch.operations.items()):
        inputs = tuple(replaced.get(value, value) for value in original.inputs)
        operation = sketch.operations[name] = original.model_copy(update={"inputs": inputs})
        if not isinstance(operation, ChannelAffine | ChannelMap):
            continue
        producer = sketch.operations.get(inputs[0])
        alone = producer is not None and uses[inputs[0]] == 1
        if _changes_nothing(operation, sketch.tensors[name]):
            uses[inputs[0]] += uses[name] - 1
        elif alone and producer is not None and _merge(sketch, producer, operation):
            uses[inputs[0]] = uses[name]
        else:
            continue
        replaced[name] = inputs[0]
        sketch.remove(name)
    sketch.output = replaced.get(sketch.output, sketch.output)


def _changes_nothing(operation: BaseOperation, tensors: dict[str, Double]) -> bool:
    return isinstance(operation, ChannelAffine) and bool((tensors["scale"] == 1).all() and not tensors["shift"].any())


def _merge(sketch: _Sketch, producer: BaseOperation, operation: ChannelAffine | ChannelMap) -> bool:
    """Let `producer` make what `operation` makes of its output; say whether it can."""
    own = sketch.tensors[producer.name]
    if isinstance(producer, ChannelMap) and isinstance(operation, ChannelAffine):
        producer, own = _make_layer(producer, own)
    if isinstance(operation, ChannelMap):
        if not (isinstance(producer, FullyConnected) or (isinstance(producer, Convolution2d) and producer.groups == 1)):
            return False
        matrix = sketch.tensors[operation.name]["matrix"]
        if _grows(own["weight"], len(matrix) / len(own["weight"])):
            return False
        merged = {role: np.tensordot(matrix, tensor, axes=1) for role, tensor in own.items()}
    elif isinstance(producer, Convolution2d | FullyConnected | ChannelAffine):
        merged = _scale(own, sketch.tensors[operation.name])
    else:
        return False
    sketch.put(_fit(producer, merged), merged)
    return True


def _grows(weight: Double, factor: float) -> bool:
    """Whether a merged weight would be much larger than the one before: two layers then take less."""
    return weight.size * factor > max(2 * weight.size, _SMALL_WEIGHT)


def _scale(producer: dict[str, Double], affine: dict[str, Double]) -> dict[str, Double]:
    """The producer's scale * (weight x + bias) + shift, as new tensors of the producer."""
    main, offset = ("scale", "shift") if "scale" in producer else ("weight", "bias")
    weight = producer[main]
    scale = affine["scale"]
    return {
        main: weight * scale.reshape(-1, *(1 for _ in weight.shape[1:])),
        offset: producer.get(offset, np.zeros_like(scale)) * scale + affine["shift"],
    }


def _fit(layer: BaseOperation, tensors: dict[str, Double]) -> BaseOperation:
    """The layer with the attributes that its new tensors ask for."""
    if isinstance(layer, ChannelAffine):
        return layer
    weight = tensors["weight"]
    changes = {"bias": "bias" in tensors, "shape": (weight.shape[0], *layer.shape[1:])}
    if isinstance(layer, Convolution2d):
        return layer.model_copy(update=changes | {"weight_shape": weight.shape})
    return layer.model_copy(update=changes | {"out_features": weight.shape[0], "in_features": weight.shape[1]})


def _merge_into_the_layer_after(sketch: _Sketch) -> None:
    for name in list(sketch.operations):
        operation = sketch.operations[name]
        if not isinstance(operation, ChannelAffine | ChannelMap):
            continue
        readers = sketch.readers()
        reader = readers.get(name)
        if isinstance(operation, ChannelAffine) and isinstance(reader, GlobalAveragePool | Reshape):
            if isinstance(_skip_pools(readers, reader), FullyConnected):
                _swap(sketch, operation, reader)
        elif reader is not None and (merged := _absorb(sketch, operation, reader)) is not None:
            sketch.put(_fit(reader, merged).model_copy(update={"inputs": operation.inputs}), merged)
            sketch.remove(name)


def _skip_pools(readers: dict[str, BaseOperation], operation: BaseOperation | None) -> BaseOperation | None:
    """The first reader that is neither a mean nor a flattening."""
    while isinstance(operation, GlobalAveragePool) or (isinstance(operation, Reshape) and len(operation.shape) == 1):
        operation = readers.get(operation.name)
    return operation


def _swap(sketch: _Sketch, affine: ChannelAffine, reader: GlobalAveragePool | Reshape) -> None:
    """Scale and shift what the reader makes instead of what it reads: a mean, or elements of a vector."""
    own = sketch.tensors[affine.name]
    times = reader.shape[0] // affine.shape[0]
    sketch.put(reader.model_copy(update={"name": affine.name, "inputs": affine.inputs}))
    moved = ChannelAffine(name=reader.name, inputs=(affine.name,), shape=reader.shape)
    sketch.put(moved, {role: np.repeat(tensor, times) for role, tensor in own.items()})


def _absorb(sketch: _Sketch, operation: BaseOperation, reader: BaseOperation) -> dict[str, Double] | None:
    """The reader's tensors when it reads what `operation` reads; None if it cannot."""
    if not (isinstance(reader, FullyConnected) or (isinstance(reader, Convolution2d) and reader.groups == 1)):
        return None
    given, own = sketch.tensors[operation.name], sketch.tensors[reader.name]
    weight = own["weight"]
    if isinstance(operation, ChannelMap):
        if _grows(weight, given["matrix"].shape[1] / weight.shape[1]):
            return None
        return own | {"weight": np.moveaxis(np.tensordot(weight, given["matrix"], axes=((1,), (0,))), -1, 1)}
    shift = given["shift"]
    if isinstance(reader, Convolution2d) and shift.any() and reader.padding != NO_PADDING:
        return None  # the padding's zeros are not shifted
    bias = own.get("bias", np.zeros(len(weight))) + weight.reshape(*weight.shape[:2], -1).sum(axis=2) @ shift
    return {"weight": weight * given["scale"].reshape(1, -1, *(1 for _ in weight.shape[2:])), "bias": bias}


def _make_layers(sketch: _Sketch) -> None:
    """What could not be merged becomes a 1 x 1 convolution or a fully connected layer."""
    plain = _Sketch({}, {}, sketch.output)
    for name, operation in sketch.operations.items():
        tensors = sketch.tensors[name]
        if isinstance(operation, ChannelAffine):
            _add_depthwise(plain, operation, tensors)
        elif isinstance(operation, ChannelMap):
            plain.put(*_make_layer(operation, tensors))
        else:
            plain.put(operation, tensors)
    sketch.operations, sketch.tensors = plain.operations, plain.tensors


def _make_layer(operation: ChannelMap, tensors: dict[str, Double]) -> tuple[BaseOperation, dict[str, Double]]:
    matrix = tensors["matrix"]
    outputs, inputs = matrix.shape
    known = {"name": operation.name, "inputs": operation.inputs, "shape": operation.shape, "bias": False}
    if len(operation.shape) == 1:
        layer = FullyConnected.model_validate(known | {"in_features": inputs, "out_features": outputs})
        return layer, {"weight": matrix}
    convolution = Convolution2d.model_validate(known | {"weight_shape": (outputs, inputs, 1, 1)})
    return convolution, {"weight": matrix[:, :, None, None]}


def _add_depthwise(plain: _Sketch, affine: ChannelAffine, tensors: dict[str, Double]) -> None:
    """A depthwise 1 x 1 convolution, of a 1 x 1 image for features."""
    channels = affine.shape[0]
    name, inputs, shape = affine.name, affine.inputs, affine.shape
    is_vector = len(shape) == 1
    if is_vector:
        image = f"{affine.name}_image"
        plain.put(Reshape(name=image, inputs=inputs, shape=(channels, 1, 1)))
        name, inputs, shape = f"{affine.name}_scaled", (image,), (channels, 1, 1)
    layer = Convolution2d(
        name=name, inputs=inputs, shape=shape, weight_shape=(channels, 1, 1, 1), bias=True, groups=channels
    )
    plain.put(layer, {"weight": tensors["scale"].reshape(channels, 1, 1, 1), "bias": tensors["shift"]})
    if is_vector:
        plain.put(Reshape(name=affine.name, inputs=(name,), shape=affine.shape))


def _join_siblings(sketch: _Sketch) -> None:
    """1 x 1 convolutions of one value that only a Concat reads, side by side, are one convolution.

    Exporters write a scale and shift of the image's channels so, one channel at a time.
    """
    readers = sketch.readers()
    for name, operation in list(sketch.operations.items()):
        found = [sketch.operations.get(value) for value in operation.inputs]
        siblings = [one for one in found if isinstance(one, Convolution2d) and readers.get(one.name) is operation]
        if not isinstance(operation, Concat) or len(siblings) != len(found) or not _alike(siblings):
            continue
        parts = [sketch.tensors[one.name] for one in siblings]
        joined = {"weight": np.concatenate([part["weight"] for part in parts])}
        if any(one.bias for one in siblings):
            joined["bias"] = np.concatenate(
                [part.get("bias", np.zeros(one.shape[0])) for part, one in zip(parts, siblings, strict=True)]
            )
        for one in siblings:
            sketch.remove(one.name)
        sketch.put(_fit(siblings[0].model_copy(update={"name": name}), joined), joined)


def _alike(siblings: list[Convolution2d]) -> bool:
    first = siblings[0]
    geometry = (first.inputs, first.stride, first.padding, (1, 1), 1)
    return all((one.inputs, one.stride, one.padding, one.weight_shape[2:], one.groups) == geometry for one in siblings)


def _rename(sketch: _Sketch) -> tuple[tuple[Operation, ...], str, dict[str, Double]]:
    """Names that say what a layer is and tell nothing of the ONNX file: convolution1, relu1, convolution2, ..."""
    names = {INPUT: INPUT}
    counts: Counter[str] = Counter()
    final: list[Operation] = []
    weights: dict[str, Double] = {}
    for operation in sketch.operations.values():
        made = cast("Operation", operation)  # what only the builder knows is gone by now
        counts[made.kind] += 1
        name = f"{_STEMS.get(made.kind, made.kind)}{counts[made.kind]}"
        names[made.name] = name
        final.append(made.model_copy(update={"name": name, "inputs": tuple(names[value] for value in made.inputs)}))
        weights |= {f"{name}.{role}": tensor for role, tensor in sketch.tensors.get(made.name, {}).items()}
    return tuple(final), names[sketch.output], weights
