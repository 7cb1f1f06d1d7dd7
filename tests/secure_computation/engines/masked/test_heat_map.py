"""Encrypted class activation maps: the opened map is the reference's and float's; what it adds leaks nothing more."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract.errors import ModelFileError, PeerViolation
from contract.model_card import OutputPolicy
from contract.ticket import Engine
from secure_computation import float_reference
from secure_computation.deal_tag import TAG_STEP
from secure_computation.engines.choosing import offered_engines, output_of
from secure_computation.engines.crypten.lowering import lower
from secure_computation.engines.masked.lowering.heat_map import SHOWN_BITS, add_heat_map
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import HeatMapStep, TruncateStep
from secure_computation.engines.masked.session.costs import masked_weight_bytes, total_cost
from secure_computation.engines.masked.session.decoys import AUDIT_STEP
from secure_computation.network import INPUT, Network, Relu
from secure_computation.plan import Lowerings, Plan, parse_plan
from secure_computation.randomness import Seed
from secure_computation.wire import Kind, Phase
from tests.secure_computation.engines.masked.parties import (
    Image,
    Model,
    check_every_value,
    parties_of,
    recorded_halves,
    run,
)
from tests.secure_computation.engines.masked.sessions import Body, Session
from tests.secure_computation.networks import classifier, convolution, random_weights, small_network

SIDE = 20


def _network() -> Network:
    first = convolution("c1", INPUT, (1, SIDE, SIDE), 4, 3, padding=(1, 1, 1, 1))
    second = convolution("c2", "r1", (4, SIDE, SIDE), 6, 3, stride=(2, 2), padding=(1, 1, 1, 1))
    relus = [Relu(name=f"r{c.name[1]}", inputs=(c.name,), shape=c.shape) for c in (first, second)]
    return classifier((1, SIDE, SIDE), [first, relus[0], second, relus[1]])


NETWORK = _network()
WEIGHTS = random_weights(NETWORK, 3)
IMAGES: Image = np.random.default_rng(8).normal(size=(6, *NETWORK.input_shape)).astype(np.float32)
PLAIN = lower_masked(NETWORK, WEIGHTS, IMAGES)
LOWERING = add_heat_map(NETWORK, PLAIN, WEIGHTS, IMAGES)
INTEGERS = round_weights(LOWERING, WEIGHTS)
MODEL = Model(NETWORK, LOWERING, INTEGERS, IMAGES)
SUMS, SHOWN = LOWERING.steps[-2:]


def true_map(image: Image) -> NDArray[np.float64]:
    """In float: the head's weights at every place of the last feature map."""
    seen: dict[str, NDArray[np.float64]] = {}
    float_reference.evaluate(
        NETWORK, WEIGHTS, torch.from_numpy(image[None]), observe=lambda name, value: seen.update({name: value.numpy()})
    )
    return np.asarray(np.einsum("kc,cyx->kyx", WEIGHTS["fc.weight"], seen["r2"][0]), np.float64)


def opened_map(session: Session) -> NDArray[np.float64]:
    """As the data owner is given it, in a session of its own channels."""
    assert len(session.heat_maps) == 1
    return session.heat_maps[0]


@pytest.mark.parametrize("index", range(3))
def test_the_map_is_the_references_and_close_to_float(index: int) -> None:
    image = IMAGES[index]
    session = Session(parties_of(MODEL), image).run()
    np.testing.assert_array_equal(session.honest(), MODEL.expected_logits(image, session.seeds))
    opened = opened_map(session)
    np.testing.assert_array_equal(opened, MODEL.expected(image, session.seeds)[SHOWN.name] / SHOWN.value.scale)
    expected = true_map(image)
    # In steps in which the map is shown. Features that the head averages have few bits each, so it is not half a step.
    assert np.abs(opened - expected).max() < 4 / SHOWN.value.scale
    assert np.abs(expected).max() > 20 / SHOWN.value.scale


def test_a_map_averages_to_its_logit() -> None:
    session = Session(parties_of(MODEL), IMAGES[0]).run()
    means = opened_map(session).mean(axis=(1, 2)) + WEIGHTS["fc.bias"]
    assert np.abs(means - session.honest()).max() < 1 / SHOWN.value.scale


def test_every_value_equals_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded_halves(monkeypatch) as halves:
        result = run(MODEL, IMAGES[1])
    check_every_value(MODEL, IMAGES[1], halves, result)


def test_logits_and_streams_before_the_map_stay_as_they_were() -> None:
    plain = Model(NETWORK, PLAIN, round_weights(PLAIN, WEIGHTS), IMAGES)
    np.testing.assert_array_equal(MODEL.expected_logits(IMAGES[0]), plain.expected_logits(IMAGES[0]))
    assert [step.name for step in LOWERING.steps[:-2]] == [step.name for step in PLAIN.steps]


def test_about_eight_bits_are_shown() -> None:
    assert isinstance(SUMS, HeatMapStep)
    assert isinstance(SHOWN, TruncateStep)
    assert SHOWN.value.calibrated_bits == SHOWN_BITS
    assert SHOWN.value.ring_bits == SHOWN_BITS + 3
    assert not SHOWN.widens
    for image in IMAGES:
        assert np.abs(MODEL.expected(image)[SHOWN.name]).max() <= 1 << SHOWN_BITS


def test_cost_is_as_declared() -> None:
    total = total_cost(LOWERING)
    session = Session(parties_of(MODEL), IMAGES[0]).run()

    def measured(link: str, *, online: bool) -> int:
        frames = [
            frame
            for frame in session.frames[link]
            if frame.kind is Kind.BYTES and frame.step not in {TAG_STEP, AUDIT_STEP}
        ]
        kept = [frame for frame in frames if (frame.phase in {Phase.ONLINE, Phase.OUTPUT}) == online]
        return sum(len(frame.body) for frame in kept)

    assert measured("model_owner_from_dealer", online=False) == total.dealer_to_model_owner
    assert measured("model_owner_from_data_owner", online=False) == total.data_owner_to_model_owner_offline
    assert measured("model_owner_from_data_owner", online=True) == total.data_owner_to_model_owner
    assert measured("data_owner_from_model_owner", online=True) == total.model_owner_to_data_owner
    assert measured("data_owner_from_model_owner", online=False) == masked_weight_bytes(LOWERING)
    assert run(MODEL, IMAGES[0]).online.one_way_trips == total.trips == total_cost(PLAIN).trips


# What is seen


def test_the_weights_second_mask_is_independent_of_the_first() -> None:
    """Delta and Delta' hide one W; their difference is A' - A, which says nothing about W: uniform, and not zero."""
    differences = []
    for _ in range(60):
        session = Session(parties_of(replace(MODEL, key=Seed.fresh())), IMAGES[0]).run()
        frames = {frame.step: frame.body for frame in session.frames["data_owner_from_model_owner"]}
        first, second = (np.frombuffer(frames[f"masked weights, {name}"], np.uint8) for name in ("fc", SUMS.name))
        size = min(first.size, second.size) - 1  # the last byte is filled up with zeros
        differences.append(np.unpackbits(first[:size] ^ second[:size]))
    means = np.mean(differences, axis=0)
    assert np.all(np.abs(means - 0.5) < 5.5 * 0.5 / np.sqrt(60))


def test_the_share_of_the_map_is_uniform_whatever_the_map_is() -> None:
    zero = replace(MODEL, integers=IntegerWeights({name: np.zeros_like(t) for name, t in INTEGERS.items()}))
    for model, image in ((MODEL, IMAGES[0]), (zero, 0 * IMAGES[0])):
        parties, bodies = parties_of(model), []
        for _ in range(20):
            session = Session(parties, image).run()
            (share,) = [f for f in session.frames["data_owner_from_model_owner"] if f.step == "heat map share"]
            assert share.phase is Phase.OUTPUT
            bodies.append(np.frombuffer(share.body, np.uint8)[:-1])
        ones = np.unpackbits(np.concatenate(bodies))
        assert abs(ones.mean() - 0.5) < 5.5 * 0.5 / np.sqrt(ones.size)


def test_a_share_cut_short_names_peer_and_step() -> None:
    def change(step: str, body: Body) -> Body:
        return body[:-1] if step == "heat map share" else body

    session = Session(parties_of(MODEL), IMAGES[0], change=change).run()
    (error,) = session.errors.values()
    assert type(error) is PeerViolation
    assert "'heat map share'" in str(error)


# Engines


def test_what_a_plan_gives_is_read_from_it_and_the_other_engine_gives_logits() -> None:
    plan = parse_plan(
        Plan(network=NETWORK, engines=Lowerings(crypten=lower(NETWORK), masked=LOWERING)).canonical_bytes()
    )
    assert output_of(plan) is OutputPolicy.LOGITS_AND_HEAT_MAP
    assert offered_engines(plan) == (Engine.MASKED, Engine.CRYPTEN)


# Plans that do not fit


def test_a_map_that_is_opened_in_a_wider_ring_is_refused() -> None:
    steps = [step.model_dump() for step in LOWERING.steps]
    steps[-1]["value"]["ring_bits"] += 1
    with pytest.raises(ValueError, match="a ring of what is left of its bits"):
        MaskedLowering.model_validate({"steps": steps, "output": "fc", "arithmetic": LOWERING.arithmetic})


def test_a_head_without_relu_or_a_label_is_refused() -> None:
    network = small_network(16)  # a convolution before the pool
    weights = random_weights(network)
    images = np.random.default_rng(1).normal(size=(2, 1, 16, 16)).astype(np.float32)
    lowering = lower_masked(network, weights, images)
    with pytest.raises(ModelFileError, match="needs a head of ReLU, global average pool and fully connected"):
        add_heat_map(network, lowering, weights, images)
    labels = lower_masked(NETWORK, WEIGHTS, IMAGES, label_only=True)
    with pytest.raises(ModelFileError, match="needs a plan whose output is a fully connected layer with logits"):
        add_heat_map(NETWORK, labels, WEIGHTS, IMAGES)


@pytest.mark.parametrize(
    ("kept", "output", "changes", "words"),
    [
        (slice(None), SHOWN.name, {}, "with the logits"),
        (slice(None), "fc", {"weights_of": "c1"}, "weights of a fully connected layer"),
        (slice(None), "fc", {"weights_of": "nothing"}, "weights of a fully connected layer"),
        (slice(0, -1), "fc", {}, "the last step but one"),
    ],
)
def test_plans_that_open_something_else_are_refused(
    kept: slice, output: str, changes: dict[str, str], words: str
) -> None:
    steps = [step.model_dump() for step in LOWERING.steps]
    steps[-2] |= changes
    with pytest.raises(ValueError, match=words):
        MaskedLowering.model_validate({"steps": steps[kept], "output": output, "arithmetic": LOWERING.arithmetic})
