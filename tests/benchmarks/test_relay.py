"""The relay is the network that it was asked to be. Other work on the machine may slow it down, never speed it up."""

import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks import emulation
from benchmarks.emulation import measure_link
from benchmarks.relay import HOST, start_relay
from benchmarks.wiring import Wiring
from contract.errors import ComputationFailed

SLOW = Wiring(name="slow", one_way_milliseconds=20.0, megabits_per_second=80.0)


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(60)
        yield server


def send_all(client: socket.socket, content: bytes) -> None:
    client.sendall(content)
    client.shutdown(socket.SHUT_WR)


def test_round_trip_and_throughput_are_within_5_percent_of_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Load only adds time, so the best of tries is the relay's own; many tries, for a machine that others work on.
    monkeypatch.setattr(emulation, "TRANSFER_SECONDS", 0.5)
    trips, rates = [], []
    with start_relay(SLOW) as relay:
        for _ in range(40):
            found = measure_link(relay, SLOW, round_trips=10, transfers=1)
            assert found.megabits_per_second is not None
            trips.append(found.round_trip_milliseconds)
            rates.append(found.megabits_per_second)
            assert found.round_trip_milliseconds >= 40.0
            if min(trips) < 42.0 and max(rates) > 76.0:
                break
    assert 40.0 <= min(trips) < 42.0
    assert 76.0 < max(rates) < 84.0


def test_a_round_trip_over_a_lan_is_within_5_percent_of_what_was_asked() -> None:
    # The median of many, tried until other work on the machine lets one try pass undisturbed.
    lan = Wiring(name="lan", one_way_milliseconds=1.0, megabits_per_second=None)
    medians: list[float] = []
    limit = time.monotonic() + 60
    with start_relay(lan) as relay:
        while not medians or (min(medians) >= 2.1 and time.monotonic() < limit):
            medians.append(measure_link(relay, lan, round_trips=50).median_round_trip_milliseconds)
    assert 1.9 <= min(medians) < 2.1


def test_no_byte_comes_before_its_latency_and_all_come_in_order() -> None:
    content = np.random.default_rng(1).integers(0, 256, 400_000, dtype=np.uint8).tobytes()
    with start_relay(SLOW) as relay, listening() as server:
        port = relay.route("link", server.getsockname()[1])
        started = time.perf_counter()
        with socket.create_connection((HOST, port)) as client:
            sender = threading.Thread(target=send_all, args=(client, content))
            sender.start()
            accepted, _ = server.accept()
            with accepted:
                assert time.perf_counter() - started >= 0.040  # the handshake went to and fro
                received = accepted.recv(1)
                assert time.perf_counter() - started >= 0.060
                while part := accepted.recv(65_536):
                    received += part
                assert time.perf_counter() - started >= 0.060 + 0.95 * len(content) * 8 / 80e6
                accepted.sendall(b"after the other side ended")
                accepted.shutdown(socket.SHUT_WR)
                assert client.recv(100) == b"after the other side ended"
                assert client.recv(100) == b""
            sender.join()
    assert received == content


def test_a_receiver_that_does_not_read_stops_the_sender() -> None:
    # 64 MB never fit: what is under way is bounded, in the relay and in the sockets before and behind it.
    link = Wiring(name="quick", one_way_milliseconds=1.0, megabits_per_second=10_000.0)
    with (
        start_relay(link) as relay,
        listening() as server,
        socket.create_connection((HOST, relay.route("link", server.getsockname()[1]))) as client,
    ):
        accepted, _ = server.accept()
        client.settimeout(1.0)
        with accepted, pytest.raises(TimeoutError):
            client.sendall(bytes(64_000_000))


def test_connections_of_a_link_share_its_rate() -> None:
    size = 500_000
    with start_relay(SLOW) as relay, listening() as server:
        port = relay.route("link", server.getsockname()[1])
        started = time.perf_counter()
        clients = [socket.create_connection((HOST, port)) for _ in range(2)]
        for client in clients:
            threading.Thread(target=client.sendall, args=(bytes(size),), daemon=True).start()
        for _ in clients:
            accepted, _ = server.accept()
            with accepted:
                left = size
                while left:
                    left -= len(accepted.recv(min(left, 65_536)))
        assert time.perf_counter() - started >= 0.95 * 2 * size * 8 / 80e6
        for client in clients:
            client.close()


def test_nobody_behind_it_breaks_the_connection_off() -> None:
    with listening() as server:
        target = server.getsockname()[1]
    with start_relay(SLOW) as relay, socket.create_connection((HOST, relay.route("link", target))) as client:
        client.settimeout(60)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_sender_that_breaks_off_is_heard_to_break_off() -> None:
    with start_relay(SLOW) as relay, listening() as server:
        client = socket.create_connection((HOST, relay.route("link", server.getsockname()[1])))
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(60)
            client.sendall(b"last words")
            assert accepted.recv(100) == b"last words"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)


def test_it_ends_with_its_block_and_does_not_answer_afterwards() -> None:
    with start_relay(SLOW) as relay:
        pass
    with pytest.raises(ComputationFailed, match="relay"):
        relay.route("link", 1)


def test_it_ends_with_who_started_it_however_that_ended() -> None:
    import sys

    start = (
        "import os, signal\n"
        "from benchmarks.relay import start_relay\n"
        "from benchmarks.wiring import Wiring\n"
        "with start_relay(Wiring(name='slow', one_way_milliseconds=1.0, megabits_per_second=None)) as relay:\n"
        "    print(relay.control_port, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    limit = time.monotonic() + 30
    with pytest.raises(ConnectionRefusedError):  # noqa: PT012 - it ends a moment later
        while time.monotonic() < limit:
            socket.create_connection((HOST, int(done.stdout)), timeout=5).close()
            time.sleep(0.05)
