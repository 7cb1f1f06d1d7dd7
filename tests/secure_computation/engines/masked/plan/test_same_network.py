"""A plan's lowering is its network: ours are accepted, and one that computes something else is refused."""

from typing import Any

import pytest

from contract.errors import ModelFileError
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.same_network import require_same_network
from secure_computation.network import INPUT, AveragePool, GlobalAveragePool, MaxPool, Network, Relu
from tests.secure_computation.engines.masked.parties import BLOCKS, lowered, network_of, random_network
from tests.secure_computation.networks import classifier, convolution, random_image, random_weights

MODEL = lowered(network_of("conv", "relu", "max", "clip", "average", "pad", "branches", "residual", "gate", seed=3))


@pytest.mark.parametrize("seed", range(len(BLOCKS)))
def test_a_network_and_its_lowering_are_the_same(seed: int) -> None:
    network = random_network(seed)
    try:
        model = lowered(network, seed=seed)
    except ModelFileError:
        pytest.skip("this network does not fit 32 bits")
    require_same_network(network, model.lowering)


def test_a_label_and_a_relu_behind_its_max_pool_are_the_same() -> None:
    first = convolution("c", INPUT, (1, 8, 8), 2, 3)
    relu = Relu(name="r", inputs=("c",), shape=first.shape)
    pool = MaxPool(name="m", inputs=("r",), shape=(2, 3, 3), kernel=(2, 2), stride=(2, 2))
    network = classifier((1, 8, 8), [first, relu, pool])
    images = random_image(network)[None]
    for label_only in (False, True):
        lowering = lower_masked(network, random_weights(network), images, label_only=label_only)
        assert "r" not in {step.name for step in lowering.steps}
        require_same_network(network, lowering)


def altered(kind: str, **changes: Any) -> MaskedLowering:
    """The lowering with some attributes of the first step of a kind replaced; steps are checked one by one as ever."""
    steps = list(MODEL.lowering.steps)
    index = next(index for index, step in enumerate(steps) if step.kind == kind)
    operation = changes.pop("operation", None)
    if operation:
        changes["operation"] = steps[index].operation.model_copy(update=operation)  # type: ignore[union-attr]
    steps[index] = steps[index].model_copy(update=changes)
    return MODEL.lowering.model_copy(update={"steps": tuple(steps)})


def scaled(kind: str) -> dict[str, Any]:
    step = next(step for step in MODEL.lowering.steps if step.kind == kind)
    return {"value": step.value.model_copy(update={"scale": 2 * step.value.scale})}


@pytest.mark.parametrize(
    ("lowering", "refused"),
    [
        (altered("input", shape=(1, 7, 7)), "another shape"),
        (altered("linear", operation={"stride": (4, 4)}), "other attributes"),
        (altered("linear", operation={"name": "conv99"}), "other attributes"),
        (altered("linear", weight_scale=3.0), "another scale"),
        (altered("max_pool", kernel=(1, 1)), "not the network's"),
        (altered("clip", limit=1), "clips at another value"),
        (altered("pad", constant=3), "pads with another value"),
        (altered("sum_pool", divisor=1 << 19), "divisor"),
        (altered("concat", factors=(7, 7, 7)), "another scale"),
        (altered("add", factors=(1, 1 << 20)), "another scale"),
        (altered("relu", shift=1), "another scale"),
        *(
            (altered(kind, **scaled(kind)), "another (scale|value)")
            for kind in ("relu", "max_pool", "clip", "pad", "concat")
        ),
    ],
    ids=range(16),
)
def test_another_lowering_is_refused(lowering: MaskedLowering, refused: str) -> None:
    with pytest.raises(ValueError, match=refused):
        require_same_network(MODEL.network, lowering)


def test_a_lowering_that_leaves_a_layer_out_is_refused() -> None:
    steps = MODEL.lowering.steps
    relu = next(step for step in steps if step.kind == "relu")
    shorter = [
        step.model_copy(update={"inputs": tuple(relu.inputs[0] if one == relu.name else one for one in step.inputs)})
        for step in steps
        if step is not relu
    ]
    with pytest.raises(ValueError, match="not the network's"):
        require_same_network(MODEL.network, MODEL.lowering.model_copy(update={"steps": tuple(shorter)}))


def test_steps_that_nobody_reads_are_refused() -> None:
    steps = MODEL.lowering.steps
    extra = steps[1].model_copy(update={"name": "extra"})
    with pytest.raises(ValueError, match=r"'extra' (is never used|is not the network's)"):
        require_same_network(MODEL.network, MODEL.lowering.model_copy(update={"steps": (steps[0], extra, *steps[1:])}))
    relu = next(step for step in steps if step.kind == "relu")
    twin = relu.model_copy(update={"name": "extra"})
    at = steps.index(relu)
    with pytest.raises(ValueError, match="'extra' is never used"):
        require_same_network(
            MODEL.network, MODEL.lowering.model_copy(update={"steps": (*steps[:at], twin, *steps[at:])})
        )


def average(padding: tuple[int, int, int, int], *, include: bool) -> Network:
    first = convolution("c", INPUT, (1, 9, 9), 2, 3, padding=(1, 1, 1, 1))
    pool = AveragePool(
        name="a",
        inputs=("c",),
        shape=(1, 1, 1),
        kernel=(4, 4),
        stride=(3, 2),
        padding=padding,
        count_include_pad=include,
    )
    return classifier((1, 9, 9), [first, pool.model_copy(update={"shape": pool.infer((first.shape,))})])


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 2, 0), (2, 2, 1, 1), (3, 3, 3, 3)])
def test_uneven_windows_are_the_same_and_counted_otherwise_are_not(
    padding: tuple[int, int, int, int], include: bool
) -> None:
    network = average(padding, include=include)
    lowering = lower_masked(network, random_weights(network), random_image(network)[None])
    require_same_network(network, lowering)
    if any(padding):
        with pytest.raises(ValueError, match="not the network's"):
            require_same_network(average(padding, include=not include), lowering)


def test_a_pool_over_the_whole_picture_is_the_global_pool() -> None:
    first = convolution("c", INPUT, (1, 5, 5), 2, 1)
    pool = AveragePool(name="a", inputs=("c",), shape=(2, 1, 1), kernel=(5, 5), stride=(1, 1), count_include_pad=False)
    whole = classifier((1, 5, 5), [first, pool])
    named = classifier((1, 5, 5), [first, GlobalAveragePool(name="a", inputs=("c",), shape=(2, 1, 1))])
    for network in (whole, named):
        lowering = lower_masked(network, random_weights(network), random_image(network)[None])
        require_same_network(whole, lowering)
        require_same_network(named, lowering)


def test_thousands_of_max_pools_one_behind_the_other_are_followed() -> None:
    shape, count = (1, 8, 8), 2000
    pools = [
        MaxPool(name=f"m{i}", inputs=(f"m{i - 1}" if i else INPUT,), shape=shape, kernel=(1, 1), stride=(1, 1))
        for i in range(count)
    ]
    relu = Relu(name="r", inputs=(f"m{count - 1}",), shape=shape)
    with pytest.raises(ValueError, match="another shape"):
        require_same_network(classifier(shape, [*pools, relu]), MODEL.lowering)
