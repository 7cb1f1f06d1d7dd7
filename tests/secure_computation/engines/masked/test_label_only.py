"""Plans that give a label: the engine's label is the reference's, and no frame holds more than the label."""

from dataclasses import replace

import numpy as np
import pytest

from contract.errors import ModelFileError, PeerViolation, Refused
from contract.identity import Role
from contract.model_card import OutputPolicy
from contract.ticket import Engine
from secure_computation.deal_tag import TAG_STEP
from secure_computation.engines.choosing import dealer_side, model_owner_side, offered_engines, output_of
from secure_computation.engines.crypten.lowering import lower
from secure_computation.engines.interface import Label
from secure_computation.engines.masked.lowering.lower import lower_masked
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import LabelStep, LinearStep
from secure_computation.engines.masked.session.costs import total_cost
from secure_computation.engines.masked.session.decoys import AUDIT_STEP
from secure_computation.engines.masked.session.in_process import run_in_process
from secure_computation.material import DealtSeeds
from secure_computation.plan import Lowerings, Plan, parse_plan
from secure_computation.randomness import Seed
from secure_computation.wire import Frame, Kind, Phase
from tests.secure_computation.engines.masked.parties import ITEM, VERSION, Image, Model, parties_of
from tests.secure_computation.engines.masked.sessions import Body, Session
from tests.secure_computation.networks import random_weights, small_network

NETWORK = small_network(16)
WEIGHTS = random_weights(NETWORK)
IMAGES: Image = np.random.default_rng(5).normal(size=(4, *NETWORK.input_shape)).astype(np.float32)


def lowered(*, label_only: bool) -> Model:
    lowering = lower_masked(NETWORK, WEIGHTS, IMAGES, label_only=label_only)
    integers = round_weights(lowering, WEIGHTS)
    return Model(NETWORK, lowering, integers, IMAGES)


MODEL = lowered(label_only=True)
LOGITS = lowered(label_only=False)
STEP = MODEL.lowering.steps[-1]


def logits(image: Image, seeds: DealtSeeds | None = None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """What is compared, and opened to nobody."""
    values: np.ndarray[tuple[int], np.dtype[np.int64]] = MODEL.expected(image, seeds)[STEP.inputs[0]]
    return values


def test_the_label_is_the_references_label() -> None:
    parties, labels = parties_of(MODEL), []
    images = np.random.default_rng(6).normal(size=(12, *NETWORK.input_shape)).astype(np.float32)
    for image in (*images, *(0.1 * images[:4]), np.zeros_like(images[0])):
        result = run_in_process(parties, image, item=ITEM)
        expected = reference.find_label(logits(image, result.seeds[ITEM]))
        assert result.answer == Label(expected)
        assert MODEL.expected(image, result.seeds[ITEM])[STEP.name].tolist() == [
            int(index == expected) for index in range(3)
        ]
        labels.append(expected)
    assert len(set(labels)) > 1


def test_ties_go_to_the_lowest_class() -> None:
    """With weights and biases of zero, all logits are equal."""
    tensors = {name: np.zeros_like(tensor) for name, tensor in MODEL.integers.items()}
    model = replace(MODEL, integers=type(MODEL.integers)(tensors))
    assert run_in_process(parties_of(model), IMAGES[0], item=ITEM).answer == Label(0)


def test_there_are_no_logits_to_read() -> None:
    with pytest.raises(TypeError, match="a label and no logits"):
        _ = run_in_process(parties_of(MODEL), IMAGES[0], item=ITEM).logits


def test_cost_is_as_declared() -> None:
    session = Session(parties_of(MODEL), IMAGES[0]).run()
    assert session.errors == {}
    cost = total_cost(MODEL.lowering)

    def body_bytes(link: str, phases: set[Phase]) -> int:
        frames = [frame for frame in session.frames[link] if frame.phase in phases and frame.kind is Kind.BYTES]
        return sum(
            len(frame.body) for frame in frames if not frame.step.startswith(("masked weights", TAG_STEP, AUDIT_STEP))
        )

    online = {Phase.ONLINE, Phase.OUTPUT}
    assert body_bytes("data_owner_from_model_owner", online) == cost.model_owner_to_data_owner
    assert body_bytes("model_owner_from_data_owner", online) == cost.data_owner_to_model_owner
    offline = {Phase.OFFLINE, Phase.HANDSHAKE}
    assert body_bytes("model_owner_from_data_owner", offline) == cost.data_owner_to_model_owner_offline
    assert body_bytes("model_owner_from_dealer", offline) == cost.dealer_to_model_owner
    # The label takes the output share's one trip, and two more for the products of three classes.
    assert cost.trips == total_cost(LOGITS.lowering).trips + 2


# The plan


def test_a_label_adds_moves_behind_all_others_and_a_spare_bit() -> None:
    """What comes before is drawn from the same streams, so that the policy changes nothing else."""
    assert [step.name for step in MODEL.lowering.steps[:-1]] == [step.name for step in LOGITS.lowering.steps]
    assert isinstance(STEP, LabelStep)
    assert STEP.ring_bits == LOGITS.lowering.step(LOGITS.lowering.output).value.ring_bits + 1
    assert MODEL.lowering.gives_label
    assert not LOGITS.lowering.gives_label


def test_a_label_in_the_middle_or_beside_the_output_is_refused() -> None:
    plan = MODEL.lowering.model_dump()
    steps = plan["steps"]
    with pytest.raises(ValueError, match="a label must be the last step"):
        MaskedLowering.model_validate(plan | {"output": STEP.inputs[0]})
    twice = [*steps, steps[-1] | {"name": "again"}]
    with pytest.raises(ValueError, match="a label must be the last step"):
        MaskedLowering.model_validate(plan | {"steps": twice, "output": "again"})


@pytest.mark.parametrize("change", [{"high_chunks": (3,)}, {"shape": (2,)}, {"ring_bits": 32}])
def test_a_label_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    steps = [step.model_dump() for step in MODEL.lowering.steps]
    with pytest.raises(ValueError, match="label"):
        MaskedLowering.model_validate(MODEL.lowering.model_dump() | {"steps": [*steps[:-1], steps[-1] | change]})


def test_logits_beyond_the_spare_bit_are_refused_by_the_audit() -> None:
    assert isinstance(STEP, LabelStep)
    tensors = dict(MODEL.integers.items())
    linear = MODEL.lowering.step(STEP.inputs[0])
    assert isinstance(linear, LinearStep)
    tensors[linear.bias_name] = np.array([1 << (STEP.ring_bits - 2), 0, 0], np.int64)
    model = replace(MODEL, integers=type(MODEL.integers)(tensors))
    with pytest.raises(ModelFileError, match=f"read by step '{STEP.name}' leaves the range"):
        model.expected(np.zeros(NETWORK.input_shape, np.float32))


# Engines


def plan_of(model: Model) -> Plan:
    return Plan(network=NETWORK, engines=Lowerings(crypten=lower(NETWORK), masked=model.lowering))


def test_only_the_masked_engine_is_offered_for_labels() -> None:
    plan = parse_plan(plan_of(MODEL).canonical_bytes())
    assert output_of(plan) is OutputPolicy.LABEL_ONLY
    assert output_of(plan_of(LOGITS)) is OutputPolicy.LOGITS
    assert offered_engines(plan) == (Engine.MASKED,)
    assert offered_engines(plan_of(LOGITS)) == (Engine.MASKED, Engine.CRYPTEN)
    with pytest.raises(Refused, match="gives labels only, and the engine 'crypten' opens logits; use --engine masked"):
        model_owner_side(plan, Engine.CRYPTEN, weights=WEIGHTS, weights_version=VERSION)
    with pytest.raises(Refused, match="gives labels only"):
        dealer_side(plan, Engine.CRYPTEN, key=Seed.fresh())


# Views


def sessions(image: Image, count: int) -> list[Session]:
    parties = parties_of(MODEL)
    return [Session(parties, image).run() for _ in range(count)]


def label_frames(session: Session) -> list[Frame]:
    """What P0 receives of the label's opening."""
    frames = session.frames["data_owner_from_model_owner"]
    return [frame for frame in frames if "label" in frame.step and frame.phase is not Phase.OFFLINE]


def test_the_data_owner_receives_uniform_bits_whatever_the_logits_are() -> None:
    """C, the chain's bits, masked factors and the last share: each bit is one half the time, for each image."""
    repetitions = 150
    labels = set()
    for image in (IMAGES[0], 4 * IMAGES[1]):
        runs = sessions(image, repetitions)
        assert all(session.errors == {} for session in runs)
        labels |= {session.label for session in runs}
        rows = [
            np.unpackbits(np.frombuffer(b"".join(frame.body for frame in label_frames(session)), np.uint8))
            for session in runs
        ]
        means = np.mean(rows, axis=0)
        used = means > 0  # the last byte of each part is filled up with zeros
        assert used.sum() > 40
        assert np.all(np.abs(means[used] - 0.5) < 5.5 * 0.5 / np.sqrt(repetitions))
    assert labels


def test_no_share_of_the_logits_is_sent() -> None:
    session = Session(parties_of(MODEL), IMAGES[0]).run()
    steps = [frame.step for frame in session.frames["data_owner_from_model_owner"]]
    assert "output share" not in steps
    assert [frame.phase for frame in label_frames(session)] == [Phase.ONLINE, Phase.ONLINE, Phase.OUTPUT]
    assert len(label_frames(session)[-1].body) == 1  # three bits


def test_frames_are_the_same_for_every_image() -> None:
    outlines = [
        {
            link: [(frame.kind, frame.phase, frame.step, len(frame.body)) for frame in frames]
            for link, frames in Session(parties_of(MODEL), image).run().frames.items()
        }
        for image in (IMAGES[0], np.zeros_like(IMAGES[0]))
    ]
    assert outlines[0] == outlines[1]


# Parties that deviate


@pytest.mark.parametrize(
    "step", ["correction, label", "hidden share, label", "opening, label", "products", "label share"]
)
def test_another_length_names_peer_and_step(step: str) -> None:
    session = Session(parties_of(MODEL), IMAGES[0], change=lambda at, body: body[:-1] if at.startswith(step) else body)
    session.run()
    assert any(type(error) is PeerViolation and f"'{step}" in str(error) for error in session.errors.values())
    assert session.label is None


@pytest.mark.parametrize("mask", [1, 2, 4, 3, 7])
def test_a_model_owner_that_spoils_the_label_learns_nothing_from_what_happens_next(mask: int) -> None:
    """P0 goes on as always: whether the label is one must not show, as it may depend on the image."""

    def change(step: str, body: Body) -> Body:
        return body ^ np.uint8(mask) if step == "label share" else body

    session = Session(parties_of(MODEL), IMAGES[0], change=change).run()
    assert session.errors == {}
    honest = reference.find_label(logits(IMAGES[0]))
    opened = [index for index in range(3) if ((1 << honest) ^ mask) >> index & 1]
    assert session.label == Label(opened[0] if len(opened) == 1 else None)
    assert Role.DATA_OWNER not in session.errors
