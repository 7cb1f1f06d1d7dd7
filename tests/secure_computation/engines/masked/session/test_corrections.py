"""Where the corrections of linear layers are dealt: at a pool or a sum behind them, and nowhere else."""

import pytest

from secure_computation.engines.masked.session.corrections import find_corrected
from secure_computation.network import INPUT, Add, AveragePool, Operation, Relu
from tests.secure_computation.engines.masked.parties import check_every_value, lowered, recorded_halves, run
from tests.secure_computation.networks import classifier, convolution

CHANNELS, SIDE = 3, 6
IMAGE, SHAPE = (1, SIDE, SIDE), (CHANNELS, SIDE, SIDE)


def conv(name: str, source: str) -> Operation:
    return convolution(name, source, IMAGE if source == INPUT else SHAPE, CHANNELS, 3, padding=(1, 1, 1, 1))


def pool(name: str, source: str, *, stride: int = 2) -> Operation:
    size = (SIDE - 2) // stride + 1
    return AveragePool(
        name=name,
        inputs=(source,),
        shape=(CHANNELS, size, size),
        kernel=(2, 2),
        stride=(stride, stride),
        count_include_pad=True,
    )


def add(name: str, *sources: str) -> Operation:
    return Add(name=name, inputs=sources, shape=SHAPE)


def relu(name: str, source: str, shape: tuple[int, int, int] = SHAPE) -> Operation:
    return Relu(name=name, inputs=(source,), shape=shape)


STEM = [conv("first", INPUT), relu("active", "first")]
CASES: dict[str, tuple[list[Operation], set[str]]] = {
    "behind a pool": ([conv("first", INPUT), pool("pooled", "first"), relu("end", "pooled", (3, 3, 3))], {"pooled"}),
    "at the layer, which another reads too": (
        [
            conv("first", INPUT),
            pool("pooled", "first"),
            relu("active", "first"),
            relu("small", "pooled", (3, 3, 3)),
            pool("too", "active"),
            Add(name="end", inputs=("small", "too"), shape=(3, 3, 3)),
        ],
        {"first"},
    ),
    "once for two layers": (
        [*STEM, conv("a", "active"), conv("b", "active"), add("sum", "a", "b"), relu("end", "sum")],
        {"first", "sum"},
    ),
    "behind the pool of a sum": (
        [
            *STEM,
            conv("a", "active"),
            conv("b", "active"),
            add("sum", "a", "b"),
            pool("pooled", "sum"),
            relu("end", "pooled", (3, 3, 3)),
        ],
        {"first", "pooled"},
    ),
    "before a sum with a value that has a mask": (
        [*STEM, conv("a", "active"), add("sum", "a", "active"), relu("end", "sum")],
        {"first", "a"},
    ),
}


@pytest.mark.parametrize(("operations", "corrected"), CASES.values(), ids=CASES.keys())
def test_corrections_are_dealt(
    operations: list[Operation], corrected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lowered(classifier(IMAGE, operations))
    found = find_corrected(model.lowering)
    assert corrected < found
    assert found - corrected == {model.lowering.output}
    with recorded_halves(monkeypatch) as halves:
        result = run(model, model.images[0])
        check_every_value(model, model.images[0], halves, result)


def test_a_pool_that_leaves_more_than_the_layer_has_no_part_in_it() -> None:
    """Of a plan from outside: padding can make a pool's value larger than what it reads."""
    wide = AveragePool(
        name="pooled",
        inputs=("first",),
        shape=(CHANNELS, SIDE + 1, SIDE + 1),
        kernel=(2, 2),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
        count_include_pad=True,
    )
    operations: list[Operation] = [conv("first", INPUT), wide, relu("end", "pooled", (CHANNELS, SIDE + 1, SIDE + 1))]
    lowering = lowered(classifier(IMAGE, operations)).lowering
    assert "first" in find_corrected(lowering)
    assert "pooled" not in find_corrected(lowering)
