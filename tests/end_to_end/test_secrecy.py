"""What crosses the wire between the parties' own channels: no image, no weights, nothing that depends on either.

Both engines are looked at.

The recorders sit in the channels of the real servers and the real client, over TLS inside WebSocket.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import data_owner.session
import model_owner.server
from contract.identity import Party, Role
from contract.ticket import Engine
from crypto_provider.server import DealingHandler
from imaging.reading import read_model_input
from model_owner.server import InferenceHandler
from secure_computation.channel.channel import Channel, Recorder
from secure_computation.channel.websocket import connect_channel
from secure_computation.engines.crypten.engine import SCALE
from secure_computation.wire import Frame, Kind, Phase
from tests.end_to_end.federation import Federation
from tests.end_to_end.models import radiograph, tiny_weights
from tests.end_to_end.traces import forms

DATA_OWNER, MODEL_OWNER, DEALER = Role.DATA_OWNER, Role.MODEL_OWNER, Role.CRYPTO_PROVIDER


@dataclass
class Views:
    """Every frame that a party received in one session, by receiver and sender."""

    frames: dict[tuple[Role, Role], list[Frame]] = field(default_factory=dict)

    def recorder(self, receiver: Role, sender: Role) -> Recorder:
        return self.frames.setdefault((receiver, sender), []).append

    def of(self, receiver: Role) -> bytes:
        """All that one party received."""
        return b"".join(frame.body for (to, _), got in self.frames.items() if to is receiver for frame in got)


def record(patch: pytest.MonkeyPatch, views: Views) -> None:
    """Put recorders into the channels of the parties in this process: of both that dial, and of both that listen."""

    def dial(own: Role, url: str, *, expect: Party, **named: Any) -> Channel:
        return connect_channel(url, expect=expect, recorder=views.recorder(own, expect.role), **named)

    patch.setattr(data_owner.session, "connect_channel", partial(dial, DATA_OWNER))
    patch.setattr(model_owner.server, "connect_channel", partial(dial, MODEL_OWNER))

    def listen(own: Role, handler: Callable[[Any, Channel], None]) -> Callable[[Any, Channel], None]:
        def recorded(self: Any, channel: Channel) -> None:
            channel._recorder = views.recorder(own, channel.peer.role)
            handler(self, channel)

        return recorded

    patch.setattr(InferenceHandler, "__call__", listen(MODEL_OWNER, InferenceHandler.__call__))
    patch.setattr(DealingHandler, "__call__", listen(DEALER, DealingHandler.__call__))


def views_of(federation: Federation, path: Path, engine: Engine) -> Views:
    views = Views()
    with pytest.MonkeyPatch.context() as patch:
        record(patch, views)
        diagnosis = federation.diagnose(path, engine=engine)
    assert diagnosis.bytes.online > 0
    return views


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    return [
        radiograph(folder / "noise.dcm"),
        radiograph(folder / "inverse.dcm", PhotometricInterpretation="MONOCHROME1"),
    ]


@pytest.fixture(scope="module", params=[Engine.CRYPTEN, Engine.MASKED], ids=str)
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture(scope="module")
def two_views(federation: Federation, images: list[Path], engine: Engine) -> list[Views]:
    """Of an image and its negative. Each data owner is new, and is sent the masked weights too."""
    return [views_of(federation, path, engine) for path in images]


def secrets(federation: Federation, path: Path) -> list[bytes]:
    """The image as read, before and after normalisation, and every row of every weight tensor, as sent to no one."""
    tensor = read_model_input(path, federation.model.card.input).tensor
    stored = np.random.default_rng(0).integers(0, 4096, (48, 40), dtype=np.uint16)
    image = [*forms(tensor), *forms(tensor * 0.25 + 0.5), stored.tobytes()[:24], stored.tobytes()[-24:]]
    rows = [row for values in tiny_weights().values() if values.ndim > 1 for row in values.reshape(len(values), -1)]
    return image + [form for row in rows for form in forms(row)]


@pytest.mark.parametrize("receiver", [DATA_OWNER, MODEL_OWNER, DEALER])
def test_no_party_receives_the_image_or_the_weights(
    federation: Federation, images: list[Path], two_views: list[Views], receiver: Role
) -> None:
    for path, views in zip(images, two_views, strict=True):
        received = views.of(receiver)
        assert received
        assert not any(secret in received for secret in secrets(federation, path))


def test_the_search_would_find_them(federation: Federation, images: list[Path]) -> None:
    tensor = read_model_input(images[0], federation.model.card.input).tensor
    weights = tiny_weights()["c2.weight"]
    searched = secrets(federation, images[0])
    for scale in (SCALE, 1 << 12):
        for values in (tensor, weights):
            sent = b"some header" + np.rint(values.astype(np.float64) * scale).astype("<i8").tobytes()
            assert any(secret in sent for secret in searched)
    assert any(secret in tensor.tobytes() for secret in searched)


def test_who_hears_from_whom(two_views: list[Views], engine: Engine) -> None:
    """D hears tickets, acknowledgements and which weights are served; P0 hears seeds and a tag; P1 protocol frames."""
    seeds = 2 if engine is Engine.MASKED else 1  # s0, and that of the second mask of its image
    named = {DATA_OWNER: 1, MODEL_OWNER: 2 if engine is Engine.MASKED else 1}
    for views in two_views:
        pairs = {(MODEL_OWNER, DATA_OWNER), (DATA_OWNER, MODEL_OWNER), (DATA_OWNER, DEALER)}
        assert set(views.frames) == pairs | {(MODEL_OWNER, DEALER), (DEALER, DATA_OWNER), (DEALER, MODEL_OWNER)}
        for sender in (DATA_OWNER, MODEL_OWNER):
            assert [frame.kind for frame in views.frames[DEALER, sender]] == [Kind.HELLO] * named[sender] + [Kind.END]
        dealt = [(frame.kind, len(frame.body)) for frame in views.frames[DATA_OWNER, DEALER]]
        assert dealt == [(Kind.SEED, 32)] * seeds + [(Kind.BYTES, 16)]


@pytest.mark.parametrize("receiver", [MODEL_OWNER, DEALER, DATA_OWNER])
def test_views_of_two_images_have_equal_lengths(two_views: list[Views], receiver: Role) -> None:
    outlines = [
        {
            sender: [
                # A ticket's ids and times are of the same length; so is everything else.
                (frame.kind, frame.phase, frame.step, len(frame.body))
                for frame in frames
            ]
            for (to, sender), frames in views.frames.items()
            if to is receiver
        }
        for views in two_views
    ]
    assert outlines[0] == outlines[1]
    assert outlines[0]


def elements(views: Views, receiver: Role, sender: Role) -> NDArray[np.int64]:
    """Eight bytes each: ring elements of all TENSOR frames, packed ones of all BYTES frames.

    Without single bits: openings of B2A are 0 or 1 by construction.
    """
    frames = views.frames[receiver, sender]
    bodies = [frame.body[2 + 4 * frame.body[1] :] for frame in frames if frame.kind is Kind.TENSOR]
    bodies += [frame.body[: len(frame.body) // 8 * 8] for frame in frames if frame.kind is Kind.BYTES]
    ring: NDArray[np.int64] = np.frombuffer(b"".join(bodies), "<i8")
    many: NDArray[np.int64] = ring[(ring != 0) & (ring != 1)]
    return many


@pytest.mark.parametrize("link", [(MODEL_OWNER, DATA_OWNER), (DATA_OWNER, MODEL_OWNER), (MODEL_OWNER, DEALER)])
@pytest.mark.parametrize("which", [0, 1], ids=["image", "negative"])
def test_what_is_received_is_uniform(two_views: list[Views], link: tuple[Role, Role], which: int) -> None:
    """Chi-square over bytes and the mean of each bit, at about one in a million each."""
    ring = elements(two_views[which], *link)
    assert ring.size > 900
    octets = ring.view(np.uint8)
    expected = octets.size / 256
    assert 150 < float(((np.bincount(octets, minlength=256) - expected) ** 2 / expected).sum()) < 380
    ones = np.unpackbits(octets).reshape(-1, 64).mean(axis=0)
    assert np.all(np.abs(ones - 0.5) < 5.5 * 0.5 / np.sqrt(ring.size))


def test_the_same_image_twice_looks_like_two_images(federation: Federation, images: list[Path], engine: Engine) -> None:
    """Tickets apart, nothing that P1 receives comes again."""
    first, second = (elements(views_of(federation, images[0], engine), MODEL_OWNER, DATA_OWNER) for _ in range(2))
    assert first.size == second.size
    assert np.intersect1d(first, second).size == 0


def test_the_result_goes_to_the_data_owner_alone(two_views: list[Views], engine: Engine) -> None:
    """Frames of the phase OUTPUT travel one way."""
    for views in two_views:
        links = {link for link, got in views.frames.items() for frame in got if frame.phase is Phase.OUTPUT}
        outputs = [frame for frame in views.frames[DATA_OWNER, MODEL_OWNER] if frame.phase is Phase.OUTPUT]
        kind = Kind.BYTES if engine is Engine.MASKED else Kind.TENSOR
        assert [(frame.kind, frame.step) for frame in outputs] == [(kind, "output share")]
        assert links <= {(DATA_OWNER, MODEL_OWNER), (MODEL_OWNER, DATA_OWNER)}
        back = [frame for frame in views.frames[MODEL_OWNER, DATA_OWNER] if frame.phase is Phase.OUTPUT]
        assert [frame.kind for frame in back] == [Kind.END]
