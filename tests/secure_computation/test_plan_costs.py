"""Plans that ask for too much: counted before any work by whoever reads one, and refused by its own limits."""

import json
import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from contract.errors import ModelFileError
from contract.model_card import Arithmetic
from plumbing.settings import PlanLimits
from secure_computation.engines.crypten.lowering import CrypTenLowering, lower
from secure_computation.engines.masked.plan.layouts import best_chunks
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import (
    CrypTenFunction,
    CrypTenStep,
    FixedValue,
    InputStep,
    LabelStep,
    LinearStep,
    ReluStep,
    ReshapeStep,
    Step,
    SumPoolStep,
)
from secure_computation.engines.masked.session.costs import most_it_costs, total_cost
from secure_computation.network import (
    INPUT,
    Activation,
    AveragePool,
    Concat,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Network,
    Operation,
    Relu,
    Reshape,
)
from secure_computation.plan import Lowerings, Plan, make_plan, parse_plan, require_own_dealing_list
from secure_computation.plan_costs import crypten_cost, masked_cost, require_within
from tests.secure_computation.engines.masked.parties import Model, lowered, network_of
from tests.secure_computation.networks import classifier, convolution

NOTHING_DEALT = CrypTenLowering(requests=(), openings=0, opened_bytes_each_way=0)
SIDE = 4096


@pytest.fixture(scope="module")
def model() -> Model:
    return lowered(network_of("conv", "relu", "max", "average", "gate", "clip", seed=3))


@pytest.fixture(scope="module")
def plan(model: Model) -> Plan:
    return make_plan(model.network, model.lowering)


def value(ring: int = 20, scale: float = 1.0) -> FixedValue:
    return FixedValue(ring_bits=ring, scale=scale, calibrated_bits=8, worst_case_bits=8)


def relu_again_and_again(times: int) -> Plan:
    """ReLU of ReLU of ... a picture of 16 million elements, in the dearest layout: 200 bytes of plan for 6 GiB each."""
    shape, classes = (1, SIDE, SIDE), 2
    head = FullyConnected(name="fc", inputs=("flat",), shape=(classes,), in_features=1, out_features=classes, bias=True)
    network = Network(
        input_shape=shape,
        operations=(
            Relu(name="r", inputs=(INPUT,), shape=shape),
            GlobalAveragePool(name="gap", inputs=("r",), shape=(1, 1, 1)),
            Reshape(name="flat", inputs=("gap",), shape=(1,)),
            head,
        ),
        output="fc",
        classes=classes,
    )
    steps: list[Step] = [InputStep(name=INPUT, inputs=(), shape=shape, value=value(ring=32))]
    steps += [
        ReluStep(
            name="r" if index == times - 1 else f"r{index}",
            inputs=(f"r{index - 1}" if index else INPUT,),
            shape=shape,
            value=value(ring=32),
            ring_bits=32,
            shift=0,
            high_chunks=(6, 5, 5, 5, 5, 5),
            low_chunks=(),
        )
        for index in range(times)
    ]
    steps += [
        SumPoolStep(
            name="gap",
            inputs=("r",),
            shape=(1, 1, 1),
            value=value(scale=float(SIDE * SIDE)),
            kernel=(SIDE, SIDE),
            stride=(SIDE, SIDE),
            divisor=SIDE * SIDE,
        ),
        ReshapeStep(name="flat", inputs=("gap",), shape=(1,), value=value(scale=float(SIDE * SIDE))),
        LinearStep(
            name="fc",
            inputs=("flat",),
            shape=(classes,),
            value=value(scale=float(SIDE * SIDE)),
            operation=head,
            weight_scale=1.0,
            rounding=0,
        ),
    ]
    lowering = MaskedLowering(steps=tuple(steps), output="fc", arithmetic=Arithmetic.EXACT)
    return Plan(network=network, engines=Lowerings(crypten=NOTHING_DEALT, masked=lowering))


def test_a_small_plan_that_asks_for_terabytes_is_refused_before_any_work() -> None:
    terabyte = relu_again_and_again(120)
    plan = terabyte.canonical_bytes()
    assert len(plan) < 40_000
    tracemalloc.start()
    try:
        with pytest.raises(
            ModelFileError, match=r"GiB before it is used.* 8\.00 GiB .* plan_limits\.offline_bytes allows"
        ):
            parse_plan(plan)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20, "counting takes no memory of the plan's making"
    finally:
        tracemalloc.stop()
    assert terabyte.engines.masked is not None
    assert masked_cost(terabyte.engines.masked).offline_bytes > 1 << 39


def reduced(amount: float) -> float:
    return amount - 1 if isinstance(amount, int) else 0.99 * amount


@pytest.mark.parametrize("name", sorted(PlanLimits.model_fields))
@pytest.mark.parametrize("engine", ["masked", "crypten"])
def test_each_limit_is_the_readers_own(model: Model, plan: Plan, name: str, engine: str) -> None:
    assert plan.engines.crypten is not None
    costs = {
        "masked": masked_cost(model.lowering),
        "crypten": crypten_cost(plan.network, plan.engines.crypten),
    }
    exact = PlanLimits(**costs[engine].model_dump())
    require_within(costs[engine], exact, engine=engine)
    tighter = exact.model_copy(update={name: reduced(getattr(exact, name))})
    with pytest.raises(
        ModelFileError, match=rf"'{engine}', more than the .* that plan_limits\.{name} allows"
    ) as caught:
        require_within(costs[engine], tighter, engine=engine)
    assert "\n" not in str(caught.value)
    largest = {field: max(getattr(one, field) for one in costs.values()) for field in PlanLimits.model_fields}
    assert parse_plan(plan.canonical_bytes(), PlanLimits(**largest)) == plan
    with pytest.raises(ModelFileError, match=rf"plan_limits\.{name}"):
        parse_plan(plan.canonical_bytes(), PlanLimits(**(largest | {name: reduced(largest[name])})))


FUNCTIONS: list[tuple[CrypTenFunction, tuple[int, ...]]] = [
    *((name, (20, 2, 1)) for name in ("sigmoid", "tanh", "silu", "gelu")),
    *(("softmax", (channels, 3, 1)) for channels in (2, 7, 64)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "shape"), FUNCTIONS, ids=str)
@pytest.mark.parametrize("scale", [16.0, float(1 << 20)])
def test_what_crypten_computes_costs_no_more_than_is_counted(
    function: CrypTenFunction, shape: tuple[int, int, int], scale: float
) -> None:
    divided = 4 if scale > 1 << 16 else 0
    step = CrypTenStep(
        name="s",
        inputs=(INPUT,),
        shape=shape,
        value=value(scale=float(1 << 16)),
        function=function,
        ring_bits=30,
        multiplier=int((1 << (16 + divided)) / scale),
        divided_bits=divided,
    )
    picture = InputStep(name=INPUT, inputs=(), shape=shape, value=value(ring=30, scale=scale))
    lowering = MaskedLowering(steps=(picture, step), output="s", arithmetic=Arithmetic.EXACT)
    exact, most = total_cost(lowering), most_it_costs(lowering)
    assert exact.dealer_to_model_owner <= most.dealer_to_model_owner < 3 * exact.dealer_to_model_owner
    assert exact.online_bytes <= most.online_bytes < 3 * exact.online_bytes
    assert exact.trips <= most.trips < 1.5 * exact.trips


def work(*operations: Operation, shape: tuple[int, int, int]) -> Any:
    return crypten_cost(classifier(shape, list(operations)), NOTHING_DEALT)


def test_what_lies_within_an_operation_counts() -> None:
    """One tap in each corner: 4 products by the network, and 9 million weights by the time that they are laid out."""
    sparse = convolution("c", INPUT, (1, 3002, 3002), 1, 2, dilation=(3000, 3000))
    assert sparse.multiplications() == 16
    assert work(sparse, shape=(1, 3002, 3002)).memory_bytes > 3 * 8 * 9_000_000
    pool = MaxPool(name="m", inputs=(INPUT,), shape=(1, 513, 513), kernel=(512, 512), stride=(1, 1))
    plain = Relu(name="r", inputs=(INPUT,), shape=(1, 1024, 1024))
    assert work(pool, shape=(1, 1024, 1024)).elements > 100 * work(plain, shape=(1, 1024, 1024)).elements
    relus = [Relu(name=f"r{i}", inputs=(f"r{i - 1}" if i else INPUT,), shape=(1, 64, 64)) for i in range(8)]
    assert work(*relus, shape=(1, 64, 64)).memory_bytes == work(*relus[:2], shape=(1, 64, 64)).memory_bytes


def test_borders_of_a_convolution_and_groups_that_run_one_by_one_count() -> None:
    """By its products alone, either would be nothing."""
    bordered = convolution("c", INPUT, (8, 1, 1), 1, 1, stride=(8192, 8192), padding=(4096, 4096, 4096, 4096))
    assert work(bordered, shape=(8, 1, 1)).memory_bytes > 3 * 8 * 8 * 8192 * 8192
    channels = 1 << 20
    grouped = convolution("c", INPUT, (channels, 1, 1), channels, 1, groups=channels)
    assert work(grouped, shape=(channels, 1, 1)).processor_seconds > 5


def test_values_that_are_kept_for_a_later_reader_are_held_at_once() -> None:
    values = [Relu(name=f"r{i}", inputs=(INPUT,), shape=(1, 64, 64)) for i in range(32)]
    together = Concat(name="all", inputs=tuple(one.name for one in values), shape=(32, 64, 64))
    held = work(*values, together, shape=(1, 64, 64)).memory_bytes
    assert held >= 3 * 8 * 64 * 64 * 64


@pytest.mark.parametrize(
    ("kind", "kernel", "padding"),
    [
        (MaxPool, (1, 513), (0, 0, 0, 0)),
        (MaxPool, (1, 1 << 20), (0, 0, 0, 0)),
        (AveragePool, (1, 1000), (0, 0, 0, 0)),
        (AveragePool, (1, 1 << 20), (0, 1, 0, 1)),
    ],
)
def test_windows_that_would_be_taken_apart_value_by_value_are_bounded(
    kind: type[MaxPool] | type[AveragePool], kernel: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    more = {} if kind is MaxPool else {"count_include_pad": True}
    pool = kind(name="p", inputs=(INPUT,), shape=(1, 1, 1), kernel=kernel, stride=(1, 1), padding=padding, **more)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 512 values"):
        pool.infer(((1, 1, 1 << 20),))
    whole = AveragePool(
        name="p", inputs=(INPUT,), shape=(1, 1, 1), kernel=(1, 1 << 20), stride=(1, 1), count_include_pad=True
    )
    assert whole.infer(((1, 1, 1 << 20),)) == (1, 1, 1), "one sum, whatever its size"


WRONG_LISTS: list[tuple[str, ...]] = [
    ("network", "operations"),
    ("network", "operations", "0", "inputs"),
    ("engines", "crypten", "requests"),
    ("engines", "crypten", "requests", "0", "output"),
    ("engines", "masked", "steps"),
    ("engines", "masked", "steps", "1", "inputs"),
    ("engines", "masked", "steps", "2", "low_chunks"),
]


@pytest.mark.parametrize("path", WRONG_LISTS, ids=".".join)
def test_a_list_fails_at_its_first_wrong_entry(plan: Plan, path: tuple[str, ...]) -> None:
    """What pydantic notes of each took 500 bytes: 4 MB of zeros took 2.6 GB and 20 s."""
    content = part = json.loads(plan.canonical_bytes())
    for key in path[:-1]:
        part = part[int(key)] if isinstance(part, list) else part[key]
    assert path[-1] in part
    part[path[-1]] = [None] * 10
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate_json(json.dumps(content), strict=True)
    assert caught.value.error_count() <= len(path) < 10


def test_a_label_of_many_classes_counts_every_pair() -> None:
    classes = 1 << 16
    picture = InputStep(name=INPUT, inputs=(), shape=(classes,), value=value())
    label = LabelStep(
        name="label", inputs=(INPUT,), shape=(classes,), value=value(), ring_bits=20, high_chunks=best_chunks(19)
    )
    cost = masked_cost(MaskedLowering(steps=(picture, label), output="label", arithmetic=Arithmetic.EXACT))
    assert cost.offline_bytes > 1 << 36
    assert cost.elements > classes * (classes - 1) // 2


def test_a_dry_run_ends_at_the_first_tuple_that_was_not_declared() -> None:
    names = [f"s{index}" for index in range(12)]
    smooth = [
        Activation(name=name, inputs=(before,), shape=(1, 4, 4), function="gelu")
        for before, name in zip([INPUT, *names], names, strict=False)
    ]
    plan = Plan(network=classifier((1, 4, 4), list(smooth)), engines=Lowerings(crypten=NOTHING_DEALT))
    with pytest.raises(ModelFileError, match="asks for more than 0 tuples"):
        require_own_dealing_list(parse_plan(plan.canonical_bytes()))
    with pytest.raises(ModelFileError, match="asks for more than 7 tuples"):
        lower(plan.network, most_requests=7)


def test_a_plan_that_holds_two_models_is_refused(model: Model, plan: Plan) -> None:
    with pytest.raises(ValidationError, match="masked lowering"):
        Plan(network=network_of("conv", "relu", seed=3), engines=plan.engines)
    content = json.loads(plan.canonical_bytes())
    clip = next(step for step in content["engines"]["masked"]["steps"] if step["kind"] == "clip")
    clip["limit"] += 1
    with pytest.raises(ModelFileError, match="clips at another value"):
        parse_plan(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
