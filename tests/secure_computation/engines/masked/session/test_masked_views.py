"""What each party sees: the same frames for every image and all weights, uniform, with no secret in them."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights
from secure_computation.engines.masked.plan.steps import LinearStep
from secure_computation.material import DealtSeeds
from secure_computation.network import INPUT, Add, Clip, GlobalAveragePool, MaxPool, Multiply, Network, Operation, Relu
from secure_computation.randomness import Seed
from secure_computation.ring import pack, reduce_to_ring
from secure_computation.wire import Frame, Kind, Phase
from tests.secure_computation.engines.masked.parties import VERSION, Image, Model, lowered, parties_of
from tests.secure_computation.engines.masked.sessions import LINKS, Session
from tests.secure_computation.networks import classifier, convolution

SIDE = 24


def _network() -> Network:
    """Every kind of message, with elements in multiples of eight, so that no byte holds filling."""
    first = convolution("c1", INPUT, (1, SIDE, SIDE), 4, 3, padding=(1, 1, 1, 1))
    half = (4, SIDE // 2, SIDE // 2)
    pool = MaxPool(name="m1", inputs=("r1",), shape=half, kernel=(2, 2), stride=(2, 2))
    second = convolution("c2", "m1", half, 4, 3, padding=(1, 1, 1, 1))
    body: list[Operation] = [
        first,
        Relu(name="r1", inputs=("c1",), shape=first.shape),
        pool,
        second,
        Clip(name="k2", inputs=("c2",), shape=second.shape, high=1.0),
        Add(name="a2", inputs=("k2", "m1"), shape=second.shape),
        GlobalAveragePool(name="g2", inputs=("a2",), shape=(4, 1, 1)),
        Multiply(name="p2", inputs=("a2", "g2"), shape=half),
        convolution("c3", "p2", half, 8, 3, padding=(1, 1, 1, 1)),
        Relu(name="r3", inputs=("c3",), shape=(8, SIDE // 2, SIDE // 2)),
    ]
    return classifier((1, SIDE, SIDE), body)


MODEL = lowered(_network(), seed=1)
NOISE: Image = MODEL.images[0]
BLACK: Image = np.zeros(MODEL.network.input_shape, np.float32)
BRIGHT: Image = np.full(MODEL.network.input_shape, NOISE.max(), np.float32)


def _with_weights(value: int) -> Model:
    """All weights the same, under the same public plan."""
    tensors = {name: np.full(tensor.shape, value, tensor.dtype) for name, tensor in MODEL.integers.items()}
    return replace(MODEL, integers=IntegerWeights(tensors))


CASES = {
    "noise": (MODEL, NOISE),
    "black": (MODEL, BLACK),
    "bright": (MODEL, BRIGHT),
    "no weights": (_with_weights(0), NOISE),
    "weights one": (_with_weights(1), BLACK),
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    """One session for each case, with parties of their own."""
    ran = {name: Session(parties_of(model), image).run() for name, (model, image) in CASES.items()}
    for session in ran.values():
        session.honest()
    return ran


def outline(frames: list[Frame]) -> list[tuple[Kind, Phase, str, int]]:
    return [(frame.kind, frame.phase, frame.step, len(frame.body)) for frame in frames]


def bodies(session: Session, link: str, *, shortest: int = 0) -> list[bytes]:
    return [frame.body for frame in session.frames[link] if frame.kind is Kind.BYTES and len(frame.body) >= shortest]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", [name for name in CASES if name != "noise"])
def test_frames_do_not_depend_on_image_or_weights(sessions: dict[str, Session], case: str, link: str) -> None:
    assert outline(sessions[case].frames[link]) == outline(sessions["noise"].frames[link])


def test_the_dealer_hears_a_version_and_a_share_of_decoys_and_nothing_else(sessions: dict[str, Session]) -> None:
    for session in sessions.values():
        assert session.frames["dealer_from_data_owner"] == []
        (hello,) = session.frames["dealer_from_model_owner"]
        assert (hello.kind, hello.body.decode()) == (Kind.HELLO, f'{{"weights":"{VERSION}","audit_share":0.0}}')


def test_the_dealer_gives_the_data_owner_two_seeds_and_a_tag(sessions: dict[str, Session]) -> None:
    for session in sessions.values():
        assert outline(session.frames["data_owner_from_dealer"]) == [
            (Kind.SEED, Phase.HANDSHAKE, "seed", 32),
            (Kind.SEED, Phase.HANDSHAKE, "seed of the second mask", 32),
            (Kind.BYTES, Phase.HANDSHAKE, "deal tag", 16),
        ]


UNIFORM = ["data_owner_from_model_owner", "model_owner_from_data_owner", "model_owner_from_dealer"]


@pytest.mark.parametrize("link", UNIFORM)
@pytest.mark.parametrize("case", CASES)
def test_what_is_received_is_uniform(sessions: dict[str, Session], case: str, link: str) -> None:
    """Chi-square over all bytes and the mean of each bit of a byte, at about one in a million each.

    Frames of few elements are left out: their last byte is filled up with zeros.
    """
    received = np.frombuffer(b"".join(bodies(sessions[case], link, shortest=100)), np.uint8)
    assert received.size > 10_000
    counts = np.bincount(received, minlength=256)
    expected = received.size / 256
    assert 150 < float(((counts - expected) ** 2 / expected).sum()) < 380
    ones = np.unpackbits(received).reshape(-1, 8).mean(axis=0)
    assert np.all(np.abs(ones - 0.5) < 5.5 * 0.5 / np.sqrt(received.size))


@pytest.mark.parametrize("link", UNIFORM)
@pytest.mark.parametrize("case", CASES)
def test_each_message_is_uniform_by_itself(sessions: dict[str, Session], case: str, link: str) -> None:
    """The share of ones in each message, so that a message in clear does not hide among the others."""
    tested = 0
    for body in bodies(sessions[case], link, shortest=100):
        ones = np.unpackbits(np.frombuffer(body, np.uint8))
        assert abs(ones.mean() - 0.5) < 5.5 * 0.5 / np.sqrt(ones.size)
        tested += 1
    assert tested > 3


def _forms(values: NDArray[np.integer], bits: int) -> list[bytes]:
    """The byte strings by which integers would be recognised, from two places: packed in their ring, and plain."""
    flat = values.reshape(-1).astype(np.int64)
    texts = []
    for start in (0, flat.size // 2 & ~7):
        part = flat[start : start + 16]
        texts.append(pack(reduce_to_ring(part, bits)).tobytes())
        texts += [part.astype(dtype).tobytes() for dtype in ("<i2", "<i4", "<i8", "<f4", "<f8")]
    return [text for text in texts if len(text) >= 6]


def secrets(model: Model, image: Image, seeds: DealtSeeds | None = None) -> dict[str, list[bytes]]:
    """Image, weights, every activation and the logits, as they would be recognised."""
    expected = model.expected(image, seeds)
    found = {"image floats": [image.tobytes()[:64], image.tobytes()[1024:1088]]}
    for step in model.lowering.steps:
        found[step.name] = _forms(expected[step.name], step.value.ring_bits)
        if isinstance(step, LinearStep):
            found[step.weight_name] = _forms(model.integers[step.weight_name], step.value.ring_bits)
            found[step.bias_name] = _forms(model.integers[step.bias_name], step.value.ring_bits)
    logits = reference.read_logits(model.lowering, expected[model.lowering.output])
    found["logits"] = [logits.tobytes(), logits.astype(np.float32).tobytes()]
    return found


@pytest.mark.parametrize("link", LINKS)
def test_no_frame_contains_image_weights_activations_or_logits(sessions: dict[str, Session], link: str) -> None:
    received = b"|".join(frame.body for frame in sessions["noise"].frames[link])
    for name, texts in secrets(MODEL, NOISE, sessions["noise"].seeds).items():
        assert not any(text in received for text in texts), name


def test_the_search_would_find_them() -> None:
    """In each value and each weight, packed in its ring as a message would be without a mask."""
    expected = MODEL.expected(NOISE)
    texts = secrets(MODEL, NOISE)
    for step in MODEL.lowering.steps:
        clear = pack(reduce_to_ring(expected[step.name].reshape(-1), step.value.ring_bits)).tobytes()
        assert any(text in clear for text in texts[step.name])
        if isinstance(step, LinearStep):
            weights = MODEL.integers[step.weight_name].reshape(-1)
            assert any(
                text in pack(reduce_to_ring(weights, step.value.ring_bits)).tobytes()
                for text in texts[step.weight_name]
            )


@pytest.mark.parametrize("link", UNIFORM)
def test_two_sessions_on_one_image_share_nothing(sessions: dict[str, Session], link: str) -> None:
    """No eight bytes of one come in the other: no mask is used twice, the weights' included (two dealers)."""
    other = Session(parties_of(replace(MODEL, key=Seed.fresh())), NOISE).run()
    other.honest()
    first, second = (
        np.concatenate([np.frombuffer(body[: len(body) // 8 * 8], "<u8") for body in bodies(session, link)])
        for session in (sessions["noise"], other)
    )
    assert np.intersect1d(first, second).size == 0


def test_one_model_serves_two_images_under_one_delta_and_no_other_repetition() -> None:
    """The masked weights are sent once; everything else is fresh."""
    parties = parties_of(MODEL)
    first, second = (Session(parties, image).run() for image in (NOISE, NOISE))
    for session in (first, second):
        np.testing.assert_array_equal(session.honest(), MODEL.expected_logits(NOISE, session.seeds))
    sent = [
        {frame.step for frame in session.frames["data_owner_from_model_owner"] if "masked weights, " in frame.step}
        for session in (first, second)
    ]
    linear = {f"masked weights, {step.name}" for step in MODEL.lowering.steps if isinstance(step, LinearStep)}
    assert sent == [linear, set()]
    for link in UNIFORM:
        texts = [set(bodies(session, link, shortest=8)) for session in (first, second)]
        assert not texts[0] & texts[1]


def test_the_output_share_alone_is_spread_over_its_ring() -> None:
    """What P1 sends last, for a black image and weights of zero."""
    parties = parties_of(_with_weights(0))
    shares = []
    for _ in range(60):
        session = Session(parties, BLACK).run()
        session.honest()
        shares.append(session.frames["data_owner_from_model_owner"][-1].body)
    bits = MODEL.lowering.step(MODEL.lowering.output).value.ring_bits
    ones = np.unpackbits(np.frombuffer(b"".join(shares), np.uint8).reshape(60, -1), axis=1, bitorder="little")
    means = ones[:, : 3 * bits].mean(axis=0)
    assert len(set(shares)) == 60
    assert np.all(np.abs(means - 0.5) < 5.5 * 0.5 / np.sqrt(60))
