"""Small random networks with every operation, their masked plans, and all three roles run on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from secure_computation.channel.memory import MODEL_OWNER, Recorders
from secure_computation.engines.masked.lowering.drafts import Precision
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.reference import Dithers, middle_dither
from secure_computation.engines.masked.plan.steps import LinearStep, Step
from secure_computation.engines.masked.session import sides
from secure_computation.engines.masked.session.corrections import find_corrected
from secure_computation.engines.masked.session.decoys import toss_coin
from secure_computation.engines.masked.session.dither import compute_dithers
from secure_computation.engines.masked.session.in_process import (
    InProcessParties,
    InProcessResult,
    MemoryStore,
    run_in_process,
)
from secure_computation.engines.masked.session.rows import Rows
from secure_computation.engines.masked.session.sides import DeltaStore, MaskedDataOwner, MaskedDealer, MaskedModelOwner
from secure_computation.engines.masked.session.walk import Walk
from secure_computation.engines.masked.session.weights import derive_model_seed, draw_mask, prepare_maps
from secure_computation.kernels.linear import PreparedWeights
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.network import (
    INPUT,
    Add,
    AveragePool,
    Clip,
    Concat,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Network,
    Operation,
    Pad,
    Relu,
    Reshape,
)
from secure_computation.private_weights import PrivateWeights
from secure_computation.protocols.draws import RingElements
from secure_computation.protocols.linear import mask_weights
from secure_computation.randomness import Seed
from tests.secure_computation.networks import CLASSES, classifier, convolution, random_weights

ITEM = ItemName("0" * 64)
VERSION = "0123456789abcdef" * 2

Image = NDArray[np.float32]
Shape3 = tuple[int, int, int]


# Networks


class _Builder:
    """Grows a network at random, one block at a time; `kinds` are the blocks to choose from."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._names = 0
        self.operations: list[Operation] = []
        self.shape: Shape3 = (self._int(1, 3), self._int(5, 9), self._int(5, 9))
        self.input_shape = self.shape
        self.value = INPUT

    def _int(self, low: int, high: int) -> int:
        return int(self._random.integers(low, high + 1))

    def name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.value = operation.name
        shape = operation.shape
        if len(shape) == 3:
            self.shape = (shape[0], shape[1], shape[2])

    def _inferred(self, operation: Any) -> Any:
        return operation.model_copy(update={"shape": operation.infer((self.shape,))})

    def block(self, kind: str) -> None:
        getattr(self, f"_{kind}")()

    def _convolve(self, source: str, out: int, kernel: int = 1, **more: Any) -> Operation:
        operation = convolution(self.name("conv"), source, self.shape, out, kernel, **more)
        self.operations.append(operation)
        return operation

    def _conv(self) -> None:
        channels, height, width = self.shape
        groups = channels if channels > 1 and self._int(0, 2) == 0 else 1
        dilation = (self._int(1, 2), self._int(1, 2))
        kernel = 3 if min(height, width) > 2 * max(dilation) else 1
        self.add(
            convolution(
                self.name("conv"),
                self.value,
                self.shape,
                groups * self._int(1, 3),
                kernel,
                stride=(self._int(1, 2), self._int(1, 2)),
                padding=tuple(self._int(0, 2) for _ in range(4)),
                dilation=dilation,
                groups=groups,
                bias=bool(self._int(0, 1)),
            )
        )

    def _relu(self) -> None:
        self.add(Relu(name=self.name("relu"), inputs=(self.value,), shape=self.shape))

    def _clip(self) -> None:
        high = float(self._random.choice([0.5, 1.0, 6.0]))
        self.add(Clip(name=self.name("clip"), inputs=(self.value,), shape=self.shape, high=high))

    def _window(self) -> dict[str, Any]:
        side = min(self._int(2, 3), *self.shape[1:])
        padding = tuple(self._int(0, min(1, side - 1)) for _ in range(4))
        stride = (self._int(1, 2), self._int(1, 2))
        return {"inputs": (self.value,), "shape": (1, 1, 1), "kernel": (side, side)} | {
            "stride": stride,
            "padding": padding,
        }

    def _max(self) -> None:
        self.add(self._inferred(MaxPool(name=self.name("max"), **self._window())))

    def _average(self) -> None:
        include = bool(self._int(0, 1))
        pool = AveragePool(name=self.name("average"), count_include_pad=include, **self._window())
        self.add(self._inferred(pool))

    def _pad(self) -> None:
        padding = (self._int(0, 1), self._int(0, 1), self._int(1, 2), self._int(0, 1))
        value = float(self._random.choice([0.0, 0.25, -1.0]))
        pad = Pad(name=self.name("pad"), inputs=(self.value,), shape=(1, 1, 1), padding=padding, value=value)
        self.add(self._inferred(pad))

    def _residual(self) -> None:
        """ReLU(conv(ReLU(conv(x))) + x)."""
        start, channels = self.value, self.shape[0]
        first = self._convolve(start, channels, 3, padding=(1, 1, 1, 1))
        relu = Relu(name=self.name("relu"), inputs=(first.name,), shape=first.shape)
        self.operations.append(relu)
        second = self._convolve(relu.name, channels, 3, padding=(1, 1, 1, 1), bias=False)
        self.add(Add(name=self.name("add"), inputs=(second.name, start), shape=second.shape))
        self._relu()

    def _shortcut(self) -> None:
        """conv(x) + conv(x), without a non-linearity on either branch."""
        first, second = (self._convolve(self.value, 2) for _ in range(2))
        self.add(Add(name=self.name("add"), inputs=(second.name, first.name), shape=first.shape))

    def _branches(self) -> None:
        """concat(ReLU(conv(x)), x, conv(x))."""
        start = self.value
        first, second = (self._convolve(start, self._int(1, 2)) for _ in range(2))
        relu = Relu(name=self.name("relu"), inputs=(first.name,), shape=first.shape)
        self.operations.append(relu)
        concat = Concat(name=self.name("concat"), inputs=(relu.name, start, second.name), shape=(1, 1, 1))
        shape = concat.infer((relu.shape, self.shape, second.shape))
        self.add(concat.model_copy(update={"shape": shape}))

    def _squeeze(self) -> None:
        """x * clip(conv(ReLU(conv(mean of x)))): each channel by a weight of its own."""
        start, shape = self.value, self.shape
        self.add(GlobalAveragePool(name=self.name("mean"), inputs=(start,), shape=(shape[0], 1, 1)))
        self.add(convolution(self.name("conv"), self.value, self.shape, 2, 1))
        self._relu()
        self.add(convolution(self.name("conv"), self.value, self.shape, shape[0], 1))
        self._clip()
        self.shape = shape
        self.add(Multiply(name=self.name("product"), inputs=(start, self.value), shape=shape))

    def _gate(self) -> None:
        """conv(x) * x' of one shape; or a map of places, (1, height, width), over all channels of x."""
        start, shape = self.value, self.shape
        gate = self._convolve(start, self._int(0, 1) * (shape[0] - 1) + 1)
        self.add(Multiply(name=self.name("product"), inputs=(start, gate.name), shape=shape))

    def _square(self) -> None:
        self.add(Multiply(name=self.name("square"), inputs=(self.value, self.value), shape=self.shape))

    def _turn(self) -> None:
        channels, height, width = self.shape
        self.add(Reshape(name=self.name("reshape"), inputs=(self.value,), shape=(channels, width, height)))

    def hidden_layer(self) -> None:
        """Flatten, fully connected, ReLU."""
        size = int(np.prod(self.shape))
        self.add(Reshape(name=self.name("flat"), inputs=(self.value,), shape=(size,)))
        hidden = FullyConnected(
            name=self.name("hidden"),
            inputs=(self.value,),
            shape=(4,),
            in_features=size,
            out_features=4,
            bias=True,
        )
        self.add(hidden)
        self.add(Relu(name=self.name("relu"), inputs=(self.value,), shape=(4,)))


BLOCKS = (
    "conv",
    "relu",
    "clip",
    "max",
    "average",
    "pad",
    "residual",
    "shortcut",
    "branches",
    "turn",
    "squeeze",
    "gate",
    "square",
)


def random_network(seed: int) -> Network:
    """Five blocks in random order, of which one is of the kind that the seed names; then a classifier's head."""
    random = np.random.default_rng(seed)
    kinds = ["conv", *random.choice(BLOCKS, 4), BLOCKS[seed % len(BLOCKS)]]
    random.shuffle(kinds)
    builder = _Builder(seed)
    for kind in kinds:
        builder.block(str(kind))
    if seed % 3 == 0:
        builder.hidden_layer()
    return classifier(builder.input_shape, builder.operations)


def network_of(*kinds: str, seed: int = 0) -> Network:
    """These blocks, in this order, and a head."""
    builder = _Builder(seed)
    for kind in kinds:
        builder.block(kind)
    return classifier(builder.input_shape, builder.operations)


def narrow_resnet18(size: int) -> Network:
    """The layers of ResNet-18 with an average pool in the stem, on few channels."""
    operations: list[Operation] = []

    def add(operation: Operation) -> Operation:
        operations.append(operation)
        return operation

    def relu(source: Operation) -> Operation:
        return add(Relu(name=f"{source.name}_relu", inputs=(source.name,), shape=source.shape))

    def image(operation: Operation) -> Shape3:
        shape = operation.shape
        assert len(shape) == 3
        return shape

    stem = relu(add(convolution("stem", INPUT, (1, size, size), 2, 7, stride=(2, 2), padding=(3, 3, 3, 3))))
    pool = AveragePool(
        name="pool",
        inputs=(stem.name,),
        shape=(1, 1, 1),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1, 1, 1),
        count_include_pad=True,
    )
    last = add(pool.model_copy(update={"shape": pool.infer((stem.shape,))}))
    for stage, channels in enumerate((2, 3, 4, 5)):
        for block in range(2):
            name = f"s{stage}b{block}"
            stride = (2, 2) if stage and not block else (1, 1)
            around = {"padding": (1, 1, 1, 1)}
            first = relu(add(convolution(f"{name}c1", last.name, image(last), channels, 3, stride=stride, **around)))
            second = add(convolution(f"{name}c2", first.name, image(first), channels, 3, **around))
            if stage and not block:
                last = add(convolution(f"{name}short", last.name, image(last), channels, 1, stride=stride))
            last = relu(add(Add(name=f"{name}add", inputs=(second.name, last.name), shape=second.shape)))
    return classifier((1, size, size), operations)


# Plans and parties


@dataclass(frozen=True)
class Model:
    """A lowered model with images that it may see."""

    network: Network
    lowering: MaskedLowering
    integers: IntegerWeights
    images: Image
    key: Seed = field(default_factory=Seed.fresh)
    """The dealer's."""
    version: str = VERSION
    owner: str = MODEL_OWNER.organisation

    def expected(
        self, image: Image, seeds: DealtSeeds | None = None, item: ItemName = ITEM
    ) -> dict[str, NDArray[np.int64]]:
        """Every value of the integer reference, with the dithers of an item of these seeds, or in the middle."""
        values: dict[str, NDArray[np.int64]] = {}
        dithers: Dithers = middle_dither
        if seeds is not None:
            dithers = compute_dithers(self.lowering, seeds, item, self.prepare_deltas())
        reference.evaluate(
            self.lowering,
            self.integers,
            reference.quantise_image(self.lowering, image),
            dithers=dithers,
            observe=lambda name, value: values.update({name: value.copy()}),
        )
        return values

    def expected_logits(
        self, image: Image, seeds: DealtSeeds | None = None, item: ItemName = ITEM
    ) -> NDArray[np.float64]:
        values = self.expected(image, seeds, item)
        return reference.read_logits(self.lowering, values[self.lowering.output])

    def prepare_deltas(self) -> dict[str, PreparedWeights]:
        """Delta of each map, as the data owner has it once it has met the dealer of this key."""
        seed = derive_model_seed(self.key, model_owner=self.owner, version_name=self.version, lowering=self.lowering)

        def find_delta(number: int, step: LinearStep) -> RingElements:
            mask = draw_mask(seed, number, step)
            return mask_weights(self.integers[step.weight_name], mask, bits=step.value.ring_bits).values

        return prepare_maps(self.lowering, find_delta, threads=1)


def lowered(
    network: Network,
    *,
    seed: int = 0,
    weights: PrivateWeights | None = None,
    arithmetic: Arithmetic = Arithmetic.DITHERED,
) -> Model:
    """At the usual precision, or at a coarser one where that would not fit 32 bits."""
    images = np.random.default_rng(seed + 500).normal(size=(4, *network.input_shape)).astype(np.float32)
    weights = weights or random_weights(network, seed)
    try:
        lowering = lower_masked(network, weights, images, arithmetic=arithmetic)
        integers = round_weights(lowering, weights)
    except ModelFileError:
        coarse = Precision(activation_bits=7, weight_bits=7)
        lowering = lower_masked(network, weights, images, precision=coarse, arithmetic=arithmetic)
        integers = round_weights(lowering, weights)
    return Model(network, lowering, integers, images)


def parties_of(
    model: Model, *, store: DeltaStore | None = None, toss: Callable[[float], bool] | None = None
) -> InProcessParties:
    """`toss`: whether an item is a decoy; without it, none is."""
    return InProcessParties(
        dealer=MaskedDealer(model.lowering, key=model.key, toss=toss or toss_coin),
        data_owner=MaskedDataOwner(model.lowering, store=store or MemoryStore()),
        model_owner=MaskedModelOwner(
            model.lowering, model.integers, version=model.version, audit_share=0.0 if toss is None else 0.1
        ),
    )


def run(
    model: Model,
    image: Image,
    *,
    parties: InProcessParties | None = None,
    item: ItemName = ITEM,
    recorders: Recorders | None = None,
) -> InProcessResult:
    return run_in_process(parties or parties_of(model), image, item=item, recorders=recorders)


# Halves


@dataclass(frozen=True)
class Halves:
    """Each role's half of every value, as the roles' own code computed it."""

    dealer: dict[str, RingElements] = field(default_factory=dict)
    """Where the dealer knows the mask: P0's half. Zeros elsewhere."""
    data_owner: dict[str, RingElements] = field(default_factory=dict)
    model_owner: dict[str, RingElements] = field(default_factory=dict)


def _recorded(role: type[Walk], halves: dict[str, RingElements]) -> type[Walk]:
    class Recorded(role):  # type: ignore[valid-type, misc]  # a class chosen at run time
        def _step(self, step: Step, inputs: list[Rows]) -> Rows:
            half: Rows = super()._step(step, inputs)
            self.__dict__.setdefault("recorded", {})[step.name] = half
            return half

        def run(self, on_step: Callable[[Step], None] | None = None) -> RingElements:
            result: RingElements = super().run(on_step)
            assert all(half.are_there for half in self.recorded.values()), "a value was not computed to its last row"
            halves.update({name: half.whole() for name, half in self.recorded.items()})
            return result

    return Recorded


@contextmanager
def recorded_halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Halves]:
    """Record the halves of all runs in this block; the last run's stay."""
    halves = Halves()
    with monkeypatch.context() as patch:
        for name, kept in (
            ("DealerPass", halves.dealer),
            ("DataOwnerOffline", halves.data_owner),
            ("ModelOwnerOnline", halves.model_owner),
        ):
            patch.setattr(sides, name, _recorded(getattr(sides, name), kept))
        yield halves


def find_uncorrected(lowering: MaskedLowering) -> set[str]:
    """Values of which the dealer still has a part."""
    found: set[str] = set()
    for step in lowering.steps:
        of_parts = isinstance(step, LinearStep) or (step.inputs and found.issuperset(step.inputs))
        if of_parts and step.name not in find_corrected(lowering):
            found.add(step.name)
    return found


def check_every_value(model: Model, image: Image, halves: Halves, result: InProcessResult) -> None:
    """The halves of every value add up to the reference; the dealer follows every mask that a product reads.

    Of a linear layer whose correction is dealt later, the dealer has a part.
    """
    expected = model.expected(image, result.seeds[ITEM])
    uncorrected = find_uncorrected(model.lowering)
    assert set(halves.data_owner) == set(halves.model_owner) == set(halves.dealer) == set(expected)
    for step in model.lowering.steps:
        mask = np.uint32((1 << step.value.ring_bits) - 1)
        total = halves.data_owner[step.name] + halves.model_owner[step.name]
        if step.name in uncorrected:
            total = total + halves.dealer[step.name]
        total &= mask
        wanted = expected[step.name].astype(np.uint32) & mask
        assert np.array_equal(total, wanted), f"{step.name} ({step.kind}) differs from the reference"
        if step.kind in {"linear", "multiply"}:
            for source in step.inputs:
                np.testing.assert_array_equal(halves.dealer[source], halves.data_owner[source])
    np.testing.assert_array_equal(result.logits, model.expected_logits(image, result.seeds[ITEM]))
    assert result.logits.shape == (CLASSES,)
