"""What every channel promises, run over memory and over TLS in a WebSocket on loopback."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from contract.errors import DeadlineExceeded, PeerDisconnected, PeerReported, PeerViolation, SessionCancelled
from secure_computation import wire
from secure_computation.channel.channel import Channel
from secure_computation.channel.stream import Deadline
from secure_computation.channel.traffic import ChannelTraffic
from secure_computation.wire import Header, Kind, Phase
from tests.secure_computation.channel.conftest import DEADLINES, Pair

MEBIBYTE = 1 << 20


def both(left: Callable[[], Any], right: Callable[[], Any]) -> tuple[Any, Any]:
    """Run two parties at once."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(left), pool.submit(right)
        return first.result(60), second.result(60)


def write_raw(channel: Channel, *pieces: bytes) -> None:
    channel._stream.write(pieces, Deadline(peer="peer", step="raw", seconds=5))


def header(kind: Kind, step: str, length: int, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "phase": Phase.HANDSHAKE,
        "sequence": 0,
        "depth": 1,
        "step_digest": wire.step_digest(step),
    }
    return Header(kind=kind, length=length, **(fields | changes)).pack()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (2, 3, 5), (1,) * 8, (1025, 257)])
def test_tensor_round_trip(pair: Pair, dtype: Any, shape: tuple[int, ...]) -> None:
    own = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    pair[0].send_tensor(own, step="conv1")
    received = pair[1].receive_tensor(shape, dtype, step="conv1")
    assert received.dtype == dtype
    assert received.shape == shape
    assert np.array_equal(received, own)
    assert received.flags.writeable


def test_strided_tensor_round_trip(pair: Pair) -> None:
    own = np.arange(60, dtype=np.int64).reshape(3, 4, 5).transpose(2, 0, 1)[::2]
    pair[1].send_tensor(own, step="strided")
    assert np.array_equal(pair[0].receive_tensor((3, 3, 4), np.int64, step="strided"), own)


def test_extreme_values_pass(pair: Pair) -> None:
    own = np.array([np.iinfo(np.int64).min, -1, 0, np.iinfo(np.int64).max])
    pair[0].send_tensor(own, step="extremes")
    assert np.array_equal(pair[1].receive_tensor((4,), np.int64, step="extremes"), own)


def test_other_bodies_round_trip(pair: Pair) -> None:
    left, right = pair
    left.send_hello({"model": "Lunge", "größe": [1, 2.5, None, True]}, step="hello")
    left.send_seed(bytes(range(32)), step="seed")
    left.send_bytes(b"corrections", step="exact")
    left.send_bytes(b"", step="at most")
    left.send_bytes(memoryview(b"view"), step="into")
    left.send_end(step="end")
    assert right.receive_hello(step="hello") == {"model": "Lunge", "größe": [1, 2.5, None, True]}
    assert right.receive_seed(step="seed") == bytes(range(32))
    assert right.receive_bytes(11, step="exact") == b"corrections"
    assert right.receive_bytes_at_most(5, step="at most") == b""
    room = bytearray(4)
    right.receive_into(memoryview(room), step="into")
    assert room == b"view"
    right.receive_end(step="end")


def test_long_bytes_arrive_in_place(pair: Pair) -> None:
    data = np.random.default_rng(2).bytes(40 * MEBIBYTE + 13)
    room = np.zeros(len(data), np.uint8)
    both(
        lambda: pair[0].send_bytes(data, step="corrections"),
        lambda: pair[1].receive_into(room.data, step="corrections"),
    )
    assert room.tobytes() == data


def test_exchange_of_64_mebibytes_each_way(pair: Pair) -> None:
    left, right = (np.full(8 * MEBIBYTE, value, np.int64) for value in (3, -4))
    from_right, from_left = both(
        lambda: pair[0].exchange_tensor(left, step="open"), lambda: pair[1].exchange_tensor(right, step="open")
    )
    assert np.array_equal(from_right, right)
    assert np.array_equal(from_left, left)
    assert pair[0].traffic().one_way_trips == pair[1].traffic().one_way_trips == 1


def test_both_may_send_before_they_receive(pair: Pair) -> None:
    own = np.arange(3 * MEBIBYTE, dtype=np.int64)  # 24 MiB each, more than any socket buffers

    def party(channel: Channel) -> np.ndarray[Any, Any]:
        channel.send_tensor(own, step="share")
        return channel.receive_tensor(own.shape, np.int64, step="share")

    first, second = both(lambda: party(pair[0]), lambda: party(pair[1]))
    assert np.array_equal(first, own)
    assert np.array_equal(second, own)


def test_a_wait_ends_at_its_deadline(pair: Pair) -> None:
    with pytest.raises(
        DeadlineExceeded, match=r"model-owner of north-lab did not answer within \d+\.\d s in step 'relu'"
    ) as caught:
        pair[0].receive_tensor((2,), np.int64, step="relu", wait_seconds=0.2)
    assert 0.15 < caught.value.waited_seconds < DEADLINES.step_seconds


def test_half_a_frame_ends_at_the_deadline(pair: Pair) -> None:
    write_raw(pair[0], header(Kind.SEED, "seed", 32), b"half")
    with pytest.raises(DeadlineExceeded, match=r"data-owner of st-mary did not answer .* in step 'seed'"):
        pair[1].receive_seed(step="seed", wait_seconds=0.2)


@pytest.mark.parametrize("sent", [b"", b"EMIF", header(Kind.SEED, "seed", 32) + b"half"])
def test_a_peer_that_disconnects_is_named(pair: Pair, sent: bytes) -> None:
    if sent:
        write_raw(pair[0], sent)
    pair[0].close()
    with pytest.raises(PeerDisconnected, match="data-owner of st-mary disconnected in step 'seed'"):
        pair[1].receive_seed(step="seed")


def test_disconnect_wakes_a_waiting_receive(pair: Pair) -> None:
    def receive() -> None:
        with pytest.raises(PeerDisconnected):
            pair[0].receive_seed(step="seed")

    def leave() -> None:
        time.sleep(0.1)
        pair[1].close()

    both(receive, leave)


def test_sending_to_a_peer_that_left_fails(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(PeerDisconnected, match="model-owner of north-lab disconnected in step 'share'"):
        pair[0].send_bytes(bytes(100 * MEBIBYTE), step="share")


def test_the_peers_last_words_explain_a_failed_send(pair: Pair) -> None:
    pair[1].send_error("ticket-invalid", "the ticket has expired", step="hello")
    pair[1].close()
    time.sleep(0.1)
    with pytest.raises(PeerReported, match="the ticket has expired"):
        pair[0].send_bytes(bytes(100 * MEBIBYTE), step="share")


VIOLATIONS = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n....", "is not a frame"),
    "version": (header(Kind.SEED, "seed", 32).replace(b"EMIF\x02", b"EMIF\x01"), "version 1, not 2"),
    "kind": (header(Kind.SEED, "seed", 32).replace(b"EMIF\x02\x02", b"EMIF\x02\x63"), "unknown frame kind 99"),
    "other kind": (header(Kind.BYTES, "seed", 32), "expected SEED of 32 bytes, not BYTES"),
    "step": (header(Kind.SEED, "other", 32), "belongs to another step"),
    "phase": (header(Kind.SEED, "seed", 32, phase=Phase.ONLINE), "phase ONLINE during HANDSHAKE"),
    "replayed number": (header(Kind.SEED, "seed", 32, sequence=1), "frame number 1 came when 0 was due"),
    "depth ahead": (header(Kind.SEED, "seed", 32, depth=2), "trip depth 2"),
    "depth behind": (header(Kind.SEED, "seed", 32, depth=0), "trip depth 0"),
    "short": (header(Kind.SEED, "seed", 31), "not 31 bytes"),
    "endless": (header(Kind.SEED, "seed", (1 << 64) - 1), "not 18446744073709551615 bytes"),
    "long error": (header(Kind.ERROR, "seed", 1 << 20), "an error message of 1048576 bytes"),
    "error in binary": (header(Kind.ERROR, "seed", 4) + b"a\n\x1b[", "cannot be shown"),
}


@pytest.mark.parametrize(("sent", "words"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_frame_out_of_protocol_is_refused(pair: Pair, sent: bytes, words: str) -> None:
    write_raw(pair[0], sent)
    with pytest.raises(PeerViolation, match="data-owner of st-mary broke the protocol in step 'seed'") as caught:
        pair[1].receive_seed(step="seed")
    assert words in str(caught.value)


def test_a_wrong_shape_is_refused(pair: Pair) -> None:
    pair[0].send_tensor(np.zeros((3, 2), np.int64), step="relu")
    with pytest.raises(
        PeerViolation, match=r"expected a tensor, int64 of shape \(2, 3\), not one int64 of shape \(3, 2"
    ):
        pair[1].receive_tensor((2, 3), np.int64, step="relu")


def test_a_wrong_dtype_is_refused(pair: Pair) -> None:
    pair[0].send_tensor(np.zeros(4, np.int32), step="relu")
    with pytest.raises(PeerViolation, match=r"expected a tensor, int64 of shape \(2,\), not one int32 of shape \(4,\)"):
        pair[1].receive_tensor((2,), np.int64, step="relu")


def test_trailing_bytes_are_refused(pair: Pair) -> None:
    write_raw(pair[0], header(Kind.SEED, "seed", 32) + bytes(32) + b"trailing")
    pair[0]._sent = 1
    pair[0].send_end(step="end")
    pair[1].receive_seed(step="seed")
    with pytest.raises(PeerViolation, match="in step 'end'"):
        pair[1].receive_end(step="end")


@pytest.mark.parametrize("limit", [0, 10])
def test_an_oversized_body_is_refused_before_memory_is_taken(
    pair: Pair, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(length: int) -> memoryview:
        raise AssertionError(f"took {length} bytes")

    monkeypatch.setattr("secure_computation.channel.channel._take_memory", refuse)
    write_raw(pair[0], header(Kind.BYTES, "corrections", limit + 1))
    with pytest.raises(PeerViolation, match=f"expected BYTES of .*{limit} bytes, not {limit + 1} bytes"):
        pair[1].receive_bytes_at_most(limit, step="corrections")


def test_a_reported_error_carries_the_peers_words_without_control_characters(pair: Pair) -> None:
    with pair[0].phase(Phase.ONLINE):
        pair[0].send_error("refused", "spent budget:\n\x1b[31mwait until tomorrow " + "é" * 4000, step="anything")
    with pytest.raises(
        PeerReported, match=r"data-owner of st-mary ended the session in step 'relu' \(refused\): spent b"
    ) as e:
        pair[1].receive_tensor((2,), np.int64, step="relu")
    assert e.value.reported == "refused"
    assert str(e.value).isprintable()
    assert len(str(e.value).encode()) < wire.MAX_ERROR_BYTES + 100


def test_traffic_is_counted_alike_at_both_ends(pair: Pair) -> None:
    left, right = pair
    left.send_hello({}, step="hello")
    right.receive_hello(step="hello")
    for channel in pair:
        channel.set_phase(Phase.ONLINE)
    left.send_tensor(np.zeros((5, 2), np.int32), step="share")
    right.receive_tensor((5, 2), np.int32, step="share")
    assert left.traffic(Phase.ONLINE) == ChannelTraffic(bytes_sent=28 + 10 + 40, frames_sent=1, one_way_trips=1)
    assert right.traffic(Phase.ONLINE) == ChannelTraffic(bytes_received=78, frames_received=1, one_way_trips=1)
    assert left.traffic(Phase.HANDSHAKE).bytes_sent == right.traffic(Phase.HANDSHAKE).bytes_received == 30
    assert left.traffic(Phase.OUTPUT) == ChannelTraffic()
    assert left.traffic() == left.traffic(Phase.HANDSHAKE) + left.traffic(Phase.ONLINE)


def test_trips_are_the_longest_chain(pair: Pair) -> None:
    left, right = pair
    own = np.zeros(1, np.uint8)

    def trips() -> int:
        assert left.traffic().one_way_trips == right.traffic().one_way_trips
        return left.traffic().one_way_trips

    def exchange() -> None:
        both(lambda: left.exchange_tensor(own, step="x"), lambda: right.exchange_tensor(own, step="x"))

    left.send_end(step="one")
    left.send_end(step="two")
    right.receive_end(step="one")
    right.receive_end(step="two")
    assert trips() == 1
    right.send_end(step="reply")
    left.receive_end(step="reply")
    assert trips() == 2
    exchange()
    assert trips() == 3
    exchange()
    assert trips() == 4
    for channel in pair:
        channel.set_phase(Phase.ONLINE)
    exchange()
    assert left.traffic(Phase.ONLINE).one_way_trips == 1
    assert trips() == 5


def test_cancel_wakes_a_waiting_receive_and_leaves_room_for_words(pair: Pair) -> None:
    left, right = pair

    def receive() -> None:
        with pytest.raises(
            SessionCancelled, match=r"model-owner of north-lab .* in step 'relu': the clinician stopped it"
        ):
            left.receive_tensor((2,), np.int64, step="relu")
        left.send_error("session-cancelled", "the clinician stopped it", step="relu")

    def cancel() -> None:
        time.sleep(0.1)
        left.cancel("the clinician stopped it")

    both(receive, cancel)
    with pytest.raises(PeerReported, match="the clinician stopped it"):
        right.receive_seed(step="relu")


def test_close_twice_is_fine(pair: Pair) -> None:
    pair[0].close()
    pair[0].close()


def test_misuse_is_refused_before_anything_is_sent(pair: Pair) -> None:
    with pytest.raises(TypeError, match="float64"):
        pair[0].send_tensor(np.zeros(2), step="x")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="at most 8 dimensions"):
        pair[0].send_tensor(np.zeros((1,) * 9, np.uint8), step="x")
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        pair[0].send_seed(bytes(31), step="x")
    with pytest.raises(ValueError, match="65536"):
        pair[0].send_hello({"a": "b" * wire.MAX_HELLO_BYTES}, step="x")
    assert pair[0].traffic().frames_sent == 0


def test_many_rounds_keep_their_order(pair: Pair) -> None:
    def talk(channel: Channel, value: int) -> int:
        total = 0
        for step in range(200):
            received = channel.exchange_tensor(np.full(9, value + step, np.int32), step=f"round {step}")
            total += int(received[4]) - step
        return total

    assert both(lambda: talk(pair[0], 1), lambda: talk(pair[1], 2)) == (400, 200)
