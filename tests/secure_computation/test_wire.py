"""Frames byte by byte, and what becomes of bytes that are no frames."""

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import DeadlineExceeded, PeerDisconnected, PeerReported, PeerViolation
from contract.identity import Party, Role
from secure_computation import wire
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.memory import MemoryStream, memory_pair
from secure_computation.channel.stream import Deadline
from secure_computation.wire import Frame, Header, Kind, Phase

PEER = Party(role=Role.MODEL_OWNER, organisation="north-lab")
SELF = Party(role=Role.DATA_OWNER, organisation="st-mary")
DEADLINES = Deadlines(connect_seconds=1, step_seconds=1)
WAIT = Deadline(peer="peer", step="test", seconds=1)

CONV1 = "4ae47b2b"  # first four bytes of SHA-256("conv1")


def sent(send: Any) -> str:
    """Hexadecimal of what a channel writes."""
    near, far = MemoryStream.pair()
    channel = Channel(near, peer=PEER, deadlines=DEADLINES)
    channel.set_phase(Phase.ONLINE)
    send(channel)
    near.close()
    data = b""
    while True:
        try:
            data += far.read_some(WAIT)
        except PeerDisconnected:
            return data.hex()


def golden(kind: str, length: str, body: str) -> str:
    magic, version, phase, reserved, sequence, depth = "454d4946", "02", "02", "00", "00000000", "01000000"
    return magic + version + kind + phase + reserved + CONV1 + sequence + depth + length + body


GOLDEN = {
    "hello": (
        lambda channel: channel.send_hello({"a": 1}, step="conv1"),
        golden("01", "0700000000000000", b'{"a":1}'.hex()),
    ),
    "seed": (
        lambda channel: channel.send_seed(bytes(range(32)), step="conv1"),
        golden("02", "2000000000000000", bytes(range(32)).hex()),
    ),
    "tensor int64": (
        lambda channel: channel.send_tensor(np.array([[1, -2]], np.int64), step="conv1"),
        golden("03", "1a00000000000000", "010201000000020000000100000000000000feffffffffffffff"),
    ),
    "tensor int32": (
        lambda channel: channel.send_tensor(np.array(258, np.int32), step="conv1"),
        golden("03", "0600000000000000", "020002010000"),
    ),
    "tensor uint8": (
        lambda channel: channel.send_tensor(np.array([255], np.uint8), step="conv1"),
        golden("03", "0700000000000000", "030101000000ff"),
    ),
    "bytes": (
        lambda channel: channel.send_bytes(b"\x00\xff", step="conv1"),
        golden("04", "0200000000000000", "00ff"),
    ),
    "error": (
        lambda channel: channel.send_error("refused", "no", step="conv1"),
        golden("05", "0a00000000000000", b"refused\nno".hex()),
    ),
    "end": (lambda channel: channel.send_end(step="conv1"), golden("06", "0000000000000000", "")),
}


@pytest.mark.parametrize(("send", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_golden_frames(send: Any, expected: str) -> None:
    assert sent(send) == expected


def test_big_endian_arrays_travel_as_little_endian() -> None:
    own = np.array([1, 2], ">i8")
    assert sent(lambda channel: channel.send_tensor(own, step="s")) == sent(
        lambda channel: channel.send_tensor(own.astype(np.int64), step="s")
    )


headers = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    phase=st.sampled_from(Phase),
    step_digest=st.binary(min_size=4, max_size=4),
    sequence=st.integers(0, 2**32 - 1),
    depth=st.integers(0, 2**32 - 1),
    length=st.integers(0, 2**64 - 1),
)


@given(headers)
def test_headers_round_trip(header: Header) -> None:
    assert Header.parse(header.pack(), peer="peer", step="step") == header


@given(st.binary(max_size=40) | st.binary(min_size=20, max_size=20).map(lambda rest: b"EMIF\x01\x03\x02\x00" + rest))
def test_a_garbage_header_parses_or_is_a_violation(data: bytes) -> None:
    try:
        assert Header.parse(data, peer="peer", step="step").pack() == data
    except PeerViolation as refused:
        words = str(refused)
    else:
        return
    assert "peer broke the protocol in step 'step'" in words


@given(st.binary(max_size=200))
def test_a_garbage_hello_parses_or_is_a_violation(data: bytes) -> None:
    try:
        assert isinstance(wire.parse_hello(data, peer="peer", step="step"), dict)
    except PeerViolation:
        return


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60000,
        b'{"a":' * 10000,
        b"{" + b'"a":1,' * 2 + b'"b":2}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
        b"{}{}",
        b"\xff\xfe",
    ],
)
def test_a_hostile_hello_is_a_violation(body: bytes) -> None:
    with pytest.raises(PeerViolation, match="expected a JSON object in HELLO"):
        wire.parse_hello(body, peer="peer", step="step")


@given(st.binary(max_size=100) | st.text(max_size=100).map(lambda text: b"refused\n" + text.encode("utf-8", "ignore")))
def test_a_garbage_error_parses_or_is_a_violation(data: bytes) -> None:
    try:
        _, message = wire.parse_error(data, peer="peer", step="step")
    except PeerViolation:
        return
    assert message.isprintable()


@given(st.text(max_size=3000))
def test_what_encode_error_writes_can_be_shown(message: str) -> None:
    body = wire.encode_error("refused", message)
    assert len(body) <= wire.MAX_ERROR_BYTES
    code, words = wire.parse_error(body, peer="peer", step="step")
    assert code == "refused"
    assert message.isprintable() is False or message.encode().startswith(words.encode())


def test_error_codes_are_words() -> None:
    with pytest.raises(ValueError, match="error code"):
        wire.encode_error("Not A Code", "x")


EXPECTATIONS = {
    "hello": lambda channel: channel.receive_hello(step="s"),
    "seed": lambda channel: channel.receive_seed(step="s"),
    "tensor": lambda channel: channel.receive_tensor((2, 3), np.int64, step="s"),
    "empty tensor": lambda channel: channel.receive_tensor((0,), np.uint8, step="s"),
    "bytes": lambda channel: channel.receive_bytes_at_most(64, step="s"),
    "end": lambda channel: channel.receive_end(step="s"),
}

plausible = st.builds(
    lambda kind, length, body: (
        Header(
            kind=kind, phase=Phase.HANDSHAKE, step_digest=wire.step_digest("s"), sequence=0, depth=1, length=length
        ).pack()
        + body
    ),
    st.sampled_from(Kind),
    st.integers(0, 80),
    st.binary(max_size=80),
)


@settings(max_examples=200)
@given(data=st.binary(max_size=120) | plausible, name=st.sampled_from(sorted(EXPECTATIONS)))
def test_garbage_on_a_channel_parses_or_ends_the_session(data: bytes, name: str) -> None:
    near, far = MemoryStream.pair()
    channel = Channel(near, peer=PEER, deadlines=DEADLINES)
    far.write((data,), WAIT)
    far.close()
    try:
        EXPECTATIONS[name](channel)
    except (PeerViolation, PeerDisconnected) as refused:
        words = str(refused)
    else:
        return
    assert str(PEER) in words
    assert words.isprintable()


@pytest.mark.parametrize("code", range(256))
def test_unknown_dtypes_and_dimensions_are_named_plainly(code: int) -> None:
    near, far = MemoryStream.pair()
    channel = Channel(near, peer=PEER, deadlines=DEADLINES)
    length = 10 + 8 * 6
    header = Header(
        kind=Kind.TENSOR, phase=Phase.HANDSHAKE, step_digest=wire.step_digest("s"), sequence=0, depth=1, length=length
    )
    far.write((header.pack(), bytes([code, code]) + bytes(length - 2)), WAIT)
    with pytest.raises(PeerViolation, match=r"expected a tensor, int64 of shape \(2, 3\)"):
        channel.receive_tensor((2, 3), np.int64, step="s")


@settings(max_examples=30)
@given(
    shape=st.lists(st.integers(0, 5), max_size=8).filter(lambda sides: math.prod(sides) < 5000).map(tuple),
    dtype=st.sampled_from([np.int64, np.int32, np.uint8]),
    seed=st.integers(0, 2**32 - 1),
    step=st.text(max_size=20),
)
def test_tensors_round_trip(shape: tuple[int, ...], dtype: Any, seed: int, step: str) -> None:
    left, right = memory_pair(SELF, PEER, DEADLINES)
    own = np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)
    left.send_tensor(own, step=step)
    assert np.array_equal(right.receive_tensor(shape, dtype, step=step), own)


def test_no_text_shows_a_body() -> None:
    seen: list[Frame] = []
    left, right = memory_pair(SELF, PEER, DEADLINES, right_recorder=seen.append)
    secret = b"very secret seed of thirty-two by"[:32]
    left.send_seed(secret, step="seed")
    right.receive_seed(step="seed")
    assert seen[0].body == secret
    assert repr(seen[0]) == str(seen[0]) == "Frame(SEED, HANDSHAKE, 'seed', 32 bytes)"
    left.send_seed(secret, step="seed")
    with pytest.raises(PeerViolation) as caught:
        right.receive_bytes(32, step="seed")
    assert "secret" not in str(caught.value)


def test_deadlines_grow_with_the_body() -> None:
    deadlines = Deadlines(step_seconds=10, slowest_bytes_per_second=1000)
    assert deadlines.for_body(5000) == 15


def test_a_trickling_peer_meets_the_deadline() -> None:
    near, far = MemoryStream.pair()
    channel = Channel(near, peer=PEER, deadlines=Deadlines(step_seconds=0.3))
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            far.write((b"E",), WAIT)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises((DeadlineExceeded, PeerViolation)):
            channel.receive_seed(step="s")
    finally:
        stop.set()
        thread.join()


def test_an_error_frame_beats_any_expectation() -> None:
    left, right = memory_pair(SELF, PEER, DEADLINES)
    left.send_error("computation-failed", "the result is implausible", step="anything")
    with pytest.raises(PeerReported, match="the result is implausible"):
        right.exchange_tensor(np.zeros(3, np.int32), step="relu")
