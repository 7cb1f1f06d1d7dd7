"""What each party sees: frames of equal lengths for every image, uniform, without image or weights in them."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_computation.channel.memory import Recorders
from secure_computation.engines.crypten.engine import SCALE
from secure_computation.private_weights import PrivateWeights
from secure_computation.wire import Frame, Kind, Phase
from tests.secure_computation.networks import random_image, random_weights, run_all, small_network

NETWORK = small_network(16)
WEIGHTS = random_weights(NETWORK)
BLACK = np.zeros(NETWORK.input_shape, np.float32)


@dataclass(frozen=True)
class Views:
    """The frames that each party received from each other one."""

    data_owner_from_model_owner: list[Frame] = field(default_factory=list)
    data_owner_from_dealer: list[Frame] = field(default_factory=list)
    model_owner_from_data_owner: list[Frame] = field(default_factory=list)
    model_owner_from_dealer: list[Frame] = field(default_factory=list)


def views(image: NDArray[np.float32], weights: PrivateWeights = WEIGHTS) -> Views:
    seen = Views()
    recorders = Recorders(**{name: frames.append for name, frames in vars(seen).items()})
    run_all(NETWORK, weights, image, recorders=recorders)
    return seen


def payload(frames: list[Frame], phase: Phase) -> NDArray[np.uint8]:
    """Elements of the tensors of a phase, without what names dtype and shape."""
    bodies = [frame.body for frame in frames if frame.phase is phase and frame.kind is Kind.TENSOR]
    return np.frombuffer(b"".join(body[2 + 4 * body[1] :] for body in bodies), np.uint8)


def forms(values: NDArray[np.float32]) -> list[bytes]:
    """The byte strings by which a tensor would be recognised: as floats and in fixed point, all of it and in part."""
    fixed = np.rint(values.astype(np.float64) * SCALE).astype(np.int64)
    whole = [values.tobytes(), values.astype(np.float64).tobytes(), fixed.tobytes(), fixed.astype(np.int32).tobytes()]
    return [text[start : start + 32] for text in whole for start in (0, len(text) // 2)]


@pytest.fixture(scope="module")
def two_views() -> tuple[Views, Views]:
    """Two images that could not differ more."""
    return views(random_image(NETWORK)), views(BLACK)


@pytest.mark.parametrize("link", vars(Views()))
def test_lengths_and_order_do_not_depend_on_the_image(two_views: tuple[Views, Views], link: str) -> None:
    outlines = [
        [(frame.kind, frame.phase, frame.step, len(frame.body)) for frame in vars(view)[link]] for view in two_views
    ]
    assert outlines[0] == outlines[1]
    assert outlines[0]


def test_the_dealer_receives_nothing_and_gives_the_data_owner_a_seed_and_a_tag(two_views: tuple[Views, Views]) -> None:
    """D's own channels have no recorder because nothing may arrive there: the parties' code never sends to it."""
    for view in two_views:
        assert [(frame.kind, len(frame.body)) for frame in view.data_owner_from_dealer] == [
            (Kind.SEED, 32),
            (Kind.BYTES, 16),
        ]


def test_no_frame_contains_image_or_weights() -> None:
    image = random_image(NETWORK)
    view = views(image)
    secrets = [*forms(image), *forms(WEIGHTS["c1.weight"]), *forms(WEIGHTS["c2.weight"]), *forms(WEIGHTS["fc.weight"])]
    for link, frames in vars(view).items():
        received = b"".join(frame.body for frame in frames)
        assert not any(secret in received for secret in secrets), link


def test_the_search_would_find_them() -> None:
    image = random_image(NETWORK)
    fixed = np.rint(image.astype(np.float64) * SCALE).astype(np.int64)
    assert any(secret in b"\1" + fixed.tobytes() for secret in forms(image))
    assert any(secret in b"\1" + image.tobytes() for secret in forms(image))


@pytest.mark.parametrize("link", ["model_owner_from_data_owner", "data_owner_from_model_owner"])
@pytest.mark.parametrize("which", [0, 1], ids=["noise", "black"])
def test_openings_are_uniform(two_views: tuple[Views, Views], link: str, which: int) -> None:
    """Chi-square over bytes and the mean of each of 64 bits, at about one in a million each.

    Openings of B2A carry one random bit in 64 (the rest is zero by construction), so they are tested by that bit.
    """
    frames = vars(two_views[which])[link]
    elements = np.concatenate([payload(frames, phase) for phase in (Phase.OFFLINE, Phase.ONLINE)]).view("<i8")
    single = elements[(elements == 0) | (elements == 1)]
    full = elements[(elements != 0) & (elements != 1)]
    assert single.size == 2 * 16 * 16
    assert abs(float(single.mean()) - 0.5) < 5 * 0.5 / np.sqrt(single.size)
    assert full.size > 10_000
    counts = np.bincount(full.view(np.uint8), minlength=256)
    expected = 8 * full.size / 256
    assert 150 < float(((counts - expected) ** 2 / expected).sum()) < 380
    ones = np.unpackbits(full.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.all(np.abs(ones - 0.5) < 5.5 * 0.5 / np.sqrt(full.size))


def test_masked_weights_are_fresh_in_each_session(two_views: tuple[Views, Views]) -> None:
    masked = [payload(view.data_owner_from_model_owner, Phase.OFFLINE).view("<i8") for view in two_views]
    assert masked[0].size == sum(WEIGHTS[name].size for name in WEIGHTS if name.endswith(".weight"))
    assert not np.intersect1d(masked[0], masked[1]).size


def test_two_runs_share_no_element(two_views: tuple[Views, Views]) -> None:
    for link in ("model_owner_from_data_owner", "data_owner_from_model_owner", "model_owner_from_dealer"):
        first, second = (
            np.concatenate([payload(vars(view)[link], phase) for phase in Phase]).view("<i8")
            for view in (two_views[0], views(random_image(NETWORK)))
        )
        assert first.size == second.size > 8000
        common = np.intersect1d(first, second)
        assert common.size == 0 or set(common.tolist()) <= {0, 1}, link


def test_output_share_alone_says_nothing_about_the_logits() -> None:
    """P1's share of the logits, which only P0 receives, is spread over the ring."""
    shares = payload(views(BLACK).data_owner_from_model_owner, Phase.OUTPUT).view("<i8")
    assert shares.size == 3
    assert np.abs(shares).max() > 1 << 40
