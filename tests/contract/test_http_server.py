"""A request's head is bounded in time and size, on real sockets."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import contract.http_server
from contract.http_server import HEAD_BYTES, BoundedHeadProtocol
from tests.end_to_end.federation import listening, loopback

SECONDS = 0.5
STANDS_STILL = threading.Event()


class StandsStill(BoundedHeadProtocol):
    """As when a large library is loaded in another thread: nothing else runs meanwhile."""

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /stand-still"):
            STANDS_STILL.set()
            time.sleep(contract.http_server.HEAD_SECONDS + 1)
        super().data_received(data)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(contract.http_server, "HEAD_SECONDS", SECONDS)
    listener, port = loopback()
    with listening(app, listener, http=StandsStill, ws="none", lifespan="off"):
        yield port


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end closes without a word."""
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_who_says_nothing_is_hung_up_on(port: int) -> None:
    with dial(port) as connection:
        assert hung_up(connection)


def test_who_dawdles_is_hung_up_on(port: int) -> None:
    with dial(port) as connection:
        connection.settimeout(0.05)
        limit, ended = time.monotonic() + 30, False
        for piece in [b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 10_000]:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(piece)
            try:
                ended = connection.recv(1000) == b""
            except ConnectionResetError:
                ended = True
            except TimeoutError:
                ended = False
            if ended or time.monotonic() > limit:
                break
        assert ended


def test_who_dawdles_over_a_second_request_is_hung_up_on(port: int) -> None:
    with dial(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert hung_up(connection)


def test_an_endless_head_is_hung_up_on(port: int) -> None:
    with dial(port) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(100):
                connection.sendall(b"X: " + b"y" * (HEAD_BYTES // 10) + b"\r\n")
        assert hung_up(connection)


def test_a_body_may_take_its_time(port: int) -> None:
    with dial(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        time.sleep(2 * SECONDS)
        connection.sendall(bytes(100_000))
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")


def test_nobody_is_hung_up_on_because_the_server_itself_stood_still(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.http_server, "HEAD_SECONDS", 3.0)  # time enough for all that comes before
    STANDS_STILL.clear()
    with dial(port) as slow, dial(port) as other:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv(1000).startswith(b"HTTP/1.1 204")
        other.sendall(b"GET /stand-still HTTP/1.1\r\nHost: a\r\n\r\n")
        assert STANDS_STILL.wait(30)
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 204")
