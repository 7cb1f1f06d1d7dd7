"""First half of the lowering: which steps, at which scales (see `scales`). Rings and layouts come afterwards.

A value is `fine` from a private product until the next truncation: many bits, and a mask that the dealer does not know.
All other values are `coarse`: about `activation_bits` bits, dealt mask. A private product reads coarse values only. The
product of two values is fine as well, of two coarse ones; its scale is theirs.
"""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Final, assert_never

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.engines.masked.lowering.calibration import RealRange
from secure_computation.engines.masked.lowering.drafts import Added, Draft, Precision, refine_beside_crypten
from secure_computation.engines.masked.lowering.scales import (
    ProductScales,
    ceil_log2,
    join_scales,
    nearest_log2,
    nearest_power_of_two,
    power_of_two_scale,
    trace_scales,
)
from secure_computation.engines.masked.plan.steps import CRYPTEN_SCALE, MAX_CRYPTEN_ELEMENTS, MAX_RING_BITS
from secure_computation.network import (
    INPUT,
    Activation,
    Add,
    AnyShape,
    AveragePool,
    Clip,
    Concat,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Network,
    Operation,
    Pad,
    Relu,
    Reshape,
    Shape,
    Softmax,
)
from secure_computation.private_weights import PrivateWeights

_SPARE_BITS: Final = 4
"""A coarse value that has grown (sum pools, concatenation) by more than this is truncated before a product."""
_FEWEST_BITS, _MOST_BITS = 4, 13
"""Of the largest element of what a ReLU or a truncation reads and of what it makes, by an allotment."""
_INPUT_EXTRA_BITS: Final = 1
_SOFTMAX_BITS: Final = 10
"""Fractional bits of what a softmax reads, at least where the ring allows it."""


class Drafting:
    """Walks a network once and collects drafts in the order of evaluation."""

    def __init__(
        self,
        network: Network,
        weights: PrivateWeights,
        ranges: dict[str, RealRange],
        precision: Precision,
        arithmetic: Arithmetic,
    ) -> None:
        """`ranges`: of every value of the network, by name."""
        self.drafts: list[Draft] = []
        self._network, self._ranges = network, ranges
        self._precision = refine_beside_crypten(network, precision)
        self._arithmetic = arithmetic
        self._allotment = precision.allotment
        self._scales = ProductScales(weights, self._precision)
        self._by_value: dict[str, Draft] = {}
        self._coarse: dict[str, Draft] = {}
        self._factors: dict[str, Draft] = {}
        self._deferred: dict[str, Relu] = {}
        self._readers: dict[str, list[Operation]] = {}
        self._most_elements = max(math.prod(shape) for shape in network.shapes().values())
        self._names = {INPUT, *(operation.name for operation in network.operations)}
        for operation in network.operations:
            for name in operation.inputs:
                self._readers.setdefault(name, []).append(operation)

    def run(self) -> Draft:
        """Draft everything; returns the draft of the output."""
        bits = self._precision.activation_bits + _INPUT_EXTRA_BITS
        scale = power_of_two_scale(bits, self._ranges[INPUT].magnitude)
        if self._allotment is not None:
            scale = nearest_power_of_two(self._allotted(INPUT))
        self._by_value[INPUT] = self._draft(INPUT, Added.INPUT, (), self._network.input_shape, INPUT, scale=scale)
        for operation in self._network.operations:
            draft = self._lower(operation)
            if draft is not None:
                self._by_value[operation.name] = draft
        output = self._by_value[self._network.output]
        if output.fine:
            self._scales.settle(output, None)
        return output

    def _lower(self, operation: Operation) -> Draft | None:  # noqa: PLR0911  (one case for each kind of operation)
        match operation:
            case Convolution2d() | FullyConnected():
                source = self._for_product(operation.inputs[0])
                return self._perform(operation, (source,), fine=True)
            case Relu():
                return self._relu(operation)
            case Clip():
                return self._clip(operation)
            case Activation() | Softmax():
                return self._activation(operation)
            case MaxPool():
                return self._max_pool(operation)
            case Multiply():
                return self._multiply(operation)
            case Add() | Concat() | Pad() | Reshape() | AveragePool() | GlobalAveragePool():
                return self._public_linear(operation)
            case _:
                assert_never(operation)

    def _draft(
        self,
        name: str,
        operation: Operation | Added,
        inputs: tuple[Draft, ...],
        shape: AnyShape,
        value: str,
        *,
        fine: bool = False,
        scale: Fraction | None = None,
    ) -> Draft:
        """Append a draft whose real values are those of the network's `value`."""
        values = self._ranges[value]
        draft = Draft(name=name, operation=operation, inputs=inputs, shape=shape, range=values, fine=fine, scale=scale)
        for source in inputs:
            source.readers.append(draft)
        self.drafts.append(draft)
        return draft

    def _perform(self, operation: Operation, inputs: tuple[Draft, ...], *, fine: bool = False) -> Draft:
        """Append the draft of an operation of the network, under its own name."""
        return self._draft(operation.name, operation, inputs, operation.shape, operation.name, fine=fine)

    def _rectify(self, name: str, source: Draft, value: str) -> Draft:
        """Append a ReLU of `source`, whose real values are those of the network's `value`."""
        relu = Relu(name=name, inputs=(source.name,), shape=source.shape)
        draft = self._draft(name, relu, (source,), source.shape, value, scale=source.scale)
        draft.not_negative = True
        return draft

    def _new_name(self, base: str, suffix: str) -> str:
        name, number = f"{base[:48]}_{suffix}", 1
        while name in self._names:
            number += 1
            name = f"{base[:48]}_{suffix}{number}"
        self._names.add(name)
        return name

    # Values as their readers ask for them.

    def _for_product(self, value: str) -> Draft:
        """A coarse form of a value, with a dealt mask and not too many bits."""
        draft = self._for_sum(value)
        if not draft.fine and not self._exceeds(draft, value, _SPARE_BITS):
            return draft
        if value not in self._coarse:
            self._coarse[value] = self._truncation(draft, value)
        return self._coarse[value]

    def _exceeds(self, draft: Draft, value: str, spare: int) -> bool:
        """Whether a form of a value has more than `spare` bits too many."""
        if self._allotment is not None:  # one bit more is what the nearest power of two may bring
            return draft.known_scale() > self._allotted_scale(draft, value) * (2 << spare)
        return draft.range.magnitude * draft.known_scale() > 1 << (self._bits(draft.shape) + spare)

    def _for_factor(self, value: str) -> Draft:
        """A coarse form of a value with no spare bits, for one of two that are multiplied: their bits add up."""
        draft = self._for_product(value)
        if not self._exceeds(draft, value, 0):
            return draft
        if value not in self._factors:
            self._factors[value] = self._truncation(draft, value)
        return self._factors[value]

    def _for_sum(self, value: str) -> Draft:
        """A form of a value in any ring: the small ring of a max pool is left first."""
        draft = self._by_value[value]
        if not draft.narrow:
            return draft
        if value not in self._coarse:
            name = self._new_name(value, "wide")
            if draft.not_negative:
                wide = self._rectify(name, draft, value)
            else:
                wide = self._draft(name, Added.TRUNCATE, (draft,), draft.shape, value, scale=draft.known_scale())
            self._coarse[value] = wide
        return self._coarse[value]

    # Comparisons.

    def _truncation(self, source: Draft, value: str, *, sized_as: str | None = None) -> Draft:
        draft = self._draft(self._new_name(value, "truncated"), Added.TRUNCATE, (source,), source.shape, value)
        draft.not_negative = source.not_negative
        self._cut(draft, source, sized_as or value, self._bits(source.shape))
        return draft

    def _cut(self, draft: Draft, source: Draft, value: str, bits: int) -> None:
        """Set shift and scale so that the network's `value` has its bits; round through a bias or an offset.

        Its bits: those of the allotment, else `bits` for its largest element.
        """
        if self._allotment is not None:
            target = self._allotted_scale(source, value)
        else:  # a layer may have been dead on the calibration images
            magnitude = max(self._ranges[value].magnitude, source.range.magnitude / 64) or 1.0
            target = Fraction(1 << bits) / Fraction(magnitude)
        if source.fine:
            self._scales.settle(source, target)
        scale = source.known_scale()
        draft.shift = ceil_log2(scale / target) if self._allotment is None else nearest_log2(scale / target)
        draft.shift = min(max(0, draft.shift), MAX_RING_BITS - 4)
        draft.scale = scale / (1 << draft.shift)
        if draft.shift:
            draft.rounds = value
            self._round(draft, source, 1 << (draft.shift - 1))

    def _allotted_scale(self, source: Draft, value: str) -> Fraction:
        """The scale near the allotted one that fills the ring of `source`; a power of two if others depend on it."""
        bits = max(_FEWEST_BITS, nearest_log2(self._allotted(value, source) * source.magnitude))
        if self._stands_alone(source, value):
            unused = 1 + ((1 << self._sign_cut(value)) >> (self._precision.headroom_bits + 1))  # see `ReluStep`
            return ((1 << bits) - unused) / source.magnitude
        return nearest_power_of_two((1 << bits) / source.magnitude)

    def _allotted(self, value: str, source: Draft | None = None) -> Fraction:
        """The scale that a value should have, if its largest element then has no more than _MOST_BITS."""
        assert self._allotment is not None
        magnitude = self._ranges[value].magnitude
        if source is not None:  # the value may be dead on the calibration images
            magnitude = max(magnitude, source.range.magnitude / 64)
        return min(Fraction(self._allotment.scales[value]), Fraction(1 << _MOST_BITS) / Fraction(magnitude or 1.0))

    def _sign_cut(self, value: str) -> int:
        if self._allotment is None or self._arithmetic is Arithmetic.EXACT:
            return 0
        return self._allotment.sign_cuts.get(value, 1)

    def _stands_alone(self, source: Draft, value: str) -> bool:
        """Whether one product alone makes `source`, for `value` alone, and only products read that."""
        products, settled, between = trace_scales(source)
        if settled or len(products) != 1:
            return False
        made_by = [*products, *between]
        if any(len(self._readers.get(one.name, [])) != 1 for one in made_by):
            return False
        return all(isinstance(reader, Convolution2d | FullyConnected) for reader in self._readers.get(value, []))

    def _relu(self, operation: Relu) -> Draft | None:
        source = self._by_value[operation.inputs[0]]
        readers = self._readers.get(operation.name, [])
        if source.fine and len(readers) == 1 and isinstance(readers[0], MaxPool):
            self._deferred[operation.name] = operation
            return None
        return self._rectify_for(operation, operation.name, source)

    def _rectify_for(self, operation: Relu | Clip, name: str, source: Draft) -> Draft:
        """The ReLU of an operation, which truncates a fine value too."""
        draft = self._rectify(name, source, operation.name)
        bits = self._bits(operation.shape) - self._averaging_bits(operation.name)
        if source.fine:
            self._cut(draft, source, operation.name, bits)
            draft.sign_cut_bits = self._sign_cut(operation.name)
        return draft

    def _bits(self, shape: Shape) -> int:
        """Activation bits of a layer of this shape: half a bit more for each halving of the elements."""
        ratio = self._most_elements / math.prod(shape)
        return self._precision.activation_bits + min(self._precision.small_layer_bits, int(math.log2(ratio) / 2))

    def _averaging_bits(self, value: str) -> int:
        """Bits that a value can do without because all of its readers average it: half of log2 of the cells."""
        fewest = math.inf
        for reader in self._readers.get(value, []):
            if isinstance(reader, AveragePool):
                fewest = min(fewest, math.prod(reader.kernel))
            elif isinstance(reader, GlobalAveragePool):
                fewest = min(fewest, math.prod(self._network.shapes()[value][1:]))
            else:
                return 0
        return int(math.log2(fewest) / 2) if math.isfinite(fewest) else 0

    def _clip(self, operation: Clip) -> Draft:
        source = self._by_value[operation.inputs[0]]
        rectified = source
        if source.fine or not source.not_negative:
            rectified = self._rectify_for(operation, self._new_name(operation.name, "rectified"), source)
            rectified.range = replace(source.range, smallest=0.0, largest=max(0.0, source.range.largest))
        draft = self._perform(operation, (rectified,))
        draft.scale, draft.not_negative = rectified.scale, True
        return draft

    def _activation(self, operation: Activation | Softmax) -> Draft:
        """CrypTen reads any ring and any scale, and gives 16 fractional bits under a dealt mask."""
        if math.prod(operation.shape) > MAX_CRYPTEN_ELEMENTS:
            raise ModelFileError(
                f"'{operation.name}' has more than {MAX_CRYPTEN_ELEMENTS} elements: train with ReLU in large layers"
            )
        source = self._for_sum(operation.inputs[0])
        if source.fine:
            target = Fraction(1 << self._bits(operation.shape)) / source.magnitude
            if self._allotment is not None:
                target = self._allotted_scale(source, operation.inputs[0])
            if isinstance(operation, Softmax):  # an error of x is one of the result, relatively, however large x is
                target = max(target, Fraction(1 << _SOFTMAX_BITS))
            self._scales.settle(source, target)
        draft = self._perform(operation, (source,))
        draft.scale = Fraction(CRYPTEN_SCALE)
        return draft

    def _max_pool(self, operation: MaxPool) -> Draft:
        value = operation.inputs[0]
        relu = self._deferred.get(value)
        source = self._by_value[relu.inputs[0] if relu else value]
        if source.fine:
            base = relu.inputs[0] if relu else value
            source = self._truncation(source, base, sized_as=value)
        name = self._new_name(operation.name, "tree") if relu else operation.name
        tree = self._draft(name, operation, (source,), operation.shape, operation.name)
        tree.scale, tree.narrow, tree.not_negative = source.scale, True, source.not_negative
        tree.range = source.range
        if relu is None:
            return tree
        return self._rectify(operation.name, tree, operation.name)

    def _multiply(self, operation: Multiply) -> Draft:
        sources = tuple(self._for_factor(name) for name in operation.inputs)
        draft = self._perform(operation, sources, fine=True)
        draft.scale = sources[0].known_scale() * sources[1].known_scale()
        draft.not_negative = all(source.not_negative for source in sources)
        return draft

    # Public-linear operations.

    def _public_linear(self, operation: Add | Concat | Pad | Reshape | AveragePool | GlobalAveragePool) -> Draft:
        sources = tuple(self._for_joining(name, operation) for name in operation.inputs)
        if isinstance(operation, Add | Concat) and not any(source.fine for source in sources):
            sources = tuple(self._aligned(source, operation) for source in sources)
        draft = self._perform(operation, sources, fine=any(source.fine for source in sources))
        draft.not_negative = all(source.not_negative for source in sources) and not (
            isinstance(operation, Pad) and operation.value < 0
        )
        if not draft.fine:
            join_scales(draft)
        return draft

    def _for_joining(self, value: str, operation: Operation) -> Draft:
        """A form of a value with which the result of a public-linear operation fits a ring.

        A scale that is set already may be too fine for it: where many elements are summed, or where a small value, such
        as a product of two, joins a large one.
        """
        source = self._for_sum(value)
        settled = trace_scales(source)[1] if source.fine else [source.known_scale()]
        growth = 1
        if isinstance(operation, AveragePool | GlobalAveragePool):
            growth = math.prod(source.shape[1:] if isinstance(operation, GlobalAveragePool) else operation.kernel)
        bound = self._scales.largest_integer / (Fraction(self._ranges[operation.name].magnitude) or Fraction(1))
        if all(scale * growth <= bound for scale in settled):
            return source
        return self._aligned(source, operation) if isinstance(operation, Add | Concat) else self._for_product(value)

    def _aligned(self, source: Draft, operation: Add | Concat) -> Draft:
        """A coarse value no finer than the sum that it enters can make use of."""
        magnitude = Fraction(self._ranges[operation.name].magnitude) or Fraction(1)
        useful = Fraction(1 << (self._bits(operation.shape) + _SPARE_BITS)) / magnitude
        if self._allotment is not None:
            useful = nearest_power_of_two(self._allotted(operation.name)) * (1 << _SPARE_BITS)
        self._scales.settle(source, useful)
        if source.known_scale() <= useful:
            return source
        name = self._new_name(source.name, "aligned")
        draft = self._draft(name, Added.TRUNCATE, (source,), source.shape, operation.name)
        draft.range, draft.not_negative = source.range, source.not_negative
        draft.shift = min(ceil_log2(source.known_scale() / useful), MAX_RING_BITS - 4)
        draft.scale, draft.rounds = source.known_scale() / (1 << draft.shift), operation.name
        self._round(draft, source, 1 << (draft.shift - 1))
        return draft

    def _has_one_reader(self, draft: Draft) -> bool:
        """Whether nothing reads a draft, now or later, but the one that reads it now."""
        ever = len(self._readers.get(draft.name, [])) + (draft.name == self._network.output)
        return len(draft.readers) == 1 and ever <= 1

    def _round(self, draft: Draft, source: Draft, half: int) -> None:
        """Put `half` where it reaches only this truncation: into a bias, or into an offset of its own.

        A dither rounds by itself, without bias.
        """
        if self._arithmetic is Arithmetic.DITHERED:
            return
        origin = source
        while self._has_one_reader(origin):
            if isinstance(origin.operation, Convolution2d | FullyConnected):
                origin.rounding = half
                return
            direct = [one for one in origin.inputs if one.fine and one.scale == origin.scale]
            if not isinstance(origin.operation, Add | Reshape) or not direct:
                break
            origin = direct[0]
        offset = Draft(
            name=self._new_name(draft.name, "rounding"),
            operation=Added.OFFSET,
            inputs=(source,),
            shape=source.shape,
            range=source.range,
            fine=source.fine,
            scale=source.scale,
            rounding=half,
            not_negative=source.not_negative,
            readers=[draft],
        )
        source.readers[source.readers.index(draft)] = offset
        draft.inputs = (offset,)
        self.drafts.insert(self.drafts.index(draft), offset)
