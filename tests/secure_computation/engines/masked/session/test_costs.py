"""Declared costs are measured ones: for every step, in every direction, to the byte; and so many trips."""

from collections import defaultdict

import pytest

from contract.model_card import Arithmetic
from secure_computation.deal_tag import TAG_STEP
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import ClipStep, MaxPoolStep, MultiplyStep, ReluStep, TruncateStep
from secure_computation.engines.masked.session.costs import Cost, declared_costs, masked_weight_bytes, total_cost
from secure_computation.engines.masked.session.decoys import AUDIT_STEP, audit_bytes, count_layers
from secure_computation.network import Network
from secure_computation.wire import HEADER_BYTES, TAG_BYTES, Frame, Kind
from tests.secure_computation.engines.masked.parties import (
    lowered,
    narrow_resnet18,
    network_of,
    parties_of,
    random_network,
    run,
)
from tests.secure_computation.engines.masked.sessions import Session

NETWORKS = {
    "conv relu": network_of("conv", "relu"),
    "pools": network_of("conv", "relu", "max", "average", seed=2),
    "clip and branches": network_of("conv", "clip", "branches", seed=4),
    "products": network_of("conv", "squeeze", "gate", seed=2),
    **{f"random {seed}": random_network(seed) for seed in range(30, 36)},
}


def _bytes_by_step(frames: list[Frame], message: str, output: str) -> dict[str, int]:
    """Bytes of the bodies of one kind of message ('opening, NAME (MOVE)'), by the step's name."""
    total: dict[str, int] = defaultdict(int)
    for frame in frames:
        kind, _, move = frame.step.partition(", ")
        if kind == message and frame.kind is Kind.BYTES:
            total[move.partition(" (")[0] or {"masked image": "input", "output share": output}[kind]] += len(frame.body)
    return total


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_bytes_of_every_step(network: Network) -> None:
    model = lowered(network)
    session = Session(parties_of(model), model.images[0]).run()
    session.honest()
    output = model.lowering.output

    def measured(link: str, *messages: str) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for message in messages:
            for step, size in _bytes_by_step(session.frames[link], message, output).items():
                total[step] += size
        return total

    dealt = measured("model_owner_from_dealer", "correction")
    hidden = measured("model_owner_from_data_owner", "hidden share")
    to_p1 = measured("model_owner_from_data_owner", "masked image", "answer")
    to_p0 = measured("data_owner_from_model_owner", "opening", "output share")
    for name, cost in declared_costs(model.lowering).items():
        assert cost == Cost(
            dealer_to_model_owner=dealt[name],
            data_owner_to_model_owner_offline=hidden[name],
            data_owner_to_model_owner=to_p1[name],
            model_owner_to_data_owner=to_p0[name],
            trips=cost.trips,
        )
    weights = sum(measured("data_owner_from_model_owner", "masked weights").values())
    assert weights == masked_weight_bytes(model.lowering)
    for link, frames in session.frames.items():
        counted = {
            "model_owner_from_dealer": sum(dealt.values()),
            "model_owner_from_data_owner": sum(hidden.values()) + sum(to_p1.values()),
            "data_owner_from_model_owner": weights + sum(to_p0.values()),
        }.get(link, 0)
        of_every_item = {TAG_STEP, AUDIT_STEP}
        bodies = [frame.body for frame in frames if frame.kind is Kind.BYTES and frame.step not in of_every_item]
        assert counted == sum(map(len, bodies)), link


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_totals_and_trips_on_the_channels(network: Network) -> None:
    """As the channels count them, headers included."""
    model = lowered(network)
    result = run(model, model.images[0])
    total = total_cost(model.lowering)
    assert result.online.one_way_trips == total.trips
    frames = result.online.frames_sent + result.online.frames_received
    assert result.online.bytes_sent + result.online.bytes_received == total.online_bytes + frames * HEADER_BYTES
    of_every_item = 64 + TAG_BYTES + audit_bytes(count_layers(model.lowering))
    headers = result.dealt.frames_received * HEADER_BYTES
    assert result.dealt.bytes_received == total.dealer_to_model_owner + headers + of_every_item


def comparisons(lowering: MaskedLowering) -> int:
    """Round trips: one for each ReLU, truncation, clip and product, one for each level of each axis of a max pool.

    None for a dithered truncation, unless it widens.
    """
    levels = 0
    for step in lowering.steps:
        if isinstance(step, ReluStep | ClipStep | MultiplyStep):
            levels += 1
        if isinstance(step, TruncateStep):
            levels += step.widens or lowering.arithmetic is Arithmetic.EXACT
        if isinstance(step, MaxPoolStep):
            levels += sum((side - 1).bit_length() for side in step.kernel)
    return levels


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_two_trips_for_each_comparison_and_product(network: Network, arithmetic: Arithmetic) -> None:
    model = lowered(network, arithmetic=arithmetic)
    costs = declared_costs(model.lowering)
    assert total_cost(model.lowering).trips == 2 * comparisons(model.lowering) + 2
    for step in model.lowering.steps:
        if isinstance(step, ReluStep) and step.name != model.lowering.output:
            assert costs[step.name].trips == 2


def test_trips_of_resnet18() -> None:
    """17 ReLU layers, the image and the result: 36 one-way trips, measured and declared."""
    model = lowered(narrow_resnet18(32))
    assert sum(isinstance(step, ReluStep) for step in model.lowering.steps) == 17
    assert run(model, model.images[0]).online.one_way_trips == total_cost(model.lowering).trips == 36


def test_masked_weights_are_paid_once() -> None:
    model = lowered(network_of("conv", "relu"))
    parties = parties_of(model)
    first, second = (run(model, model.images[0], parties=parties).offline for _ in range(2))
    weights = [step for step in model.lowering.steps if step.kind == "linear"]
    assert first.bytes_received - second.bytes_received == masked_weight_bytes(model.lowering) + HEADER_BYTES * len(
        weights
    )
