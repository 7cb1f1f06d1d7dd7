"""A request's head is bounded in time and size, on real sockets."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import plumbing.http_server
from authority.enrolment import create_request
from authority.signing import create_authority
from contract.identity import Party, Role
from plumbing.http_server import EVENT_LOOP, HEAD_BYTES, MOST_PIPELINED, BoundedHeadProtocol, vouch
from plumbing.lobby import Lobby
from tests.end_to_end.federation import listening, loopback
from tests.signed_requests import sign_request

SECONDS = 0.5
MUCH = 64 << 20
"""More than lies between two sockets."""
STANDS_STILL = threading.Event()
LOST = threading.Event()


class StandsStill(BoundedHeadProtocol):
    """As when a large library is loaded in another thread: nothing else runs meanwhile. Tells of lost connections."""

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /stand-still"):
            STANDS_STILL.set()
            time.sleep(plumbing.http_server.HEAD_SECONDS + 1)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        LOST.set()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/known":
        vouch(scope)
    if scope["path"] != "/unread":
        while (await receive()).get("more_body"):
            pass
    if scope["path"] == "/much":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(MUCH)})
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(plumbing.http_server, "HEAD_SECONDS", SECONDS)
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
    monkeypatch.setattr(plumbing.http_server, "HEAD_SECONDS", 3.0)  # time enough for all that comes before
    STANDS_STILL.clear()
    with dial(port) as slow, dial(port) as other:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv(1000).startswith(b"HTTP/1.1 204")
        other.sendall(b"GET /stand-still HTTP/1.1\r\nHost: a\r\n\r\n")
        assert STANDS_STILL.wait(30)
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 204")


def test_requests_that_pile_up_are_hung_up_on(port: int) -> None:
    with dial(port) as connection:
        with suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
        answers = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answers += piece
        assert answers.count(b"HTTP/1.1 204") <= MOST_PIPELINED + 1


def test_a_body_that_nobody_waits_for_does_not_come_for_ever(port: int) -> None:
    with dial(port) as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        connection.sendall(b"x")  # uvicorn by itself then forgets that a connection may be idle for 5 s only
        assert hung_up(connection)


def test_a_late_body_of_an_answered_request_is_taken(port: int) -> None:
    with dial(port) as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        connection.sendall(b"bodyGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")


def test_whoever_does_not_read_is_hung_up_on(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plumbing.http_server, "WRITE_SECONDS", 0.2)
    LOST.clear()
    with dial(port) as connection:
        connection.sendall(b"GET /much HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert LOST.wait(30)
        read = 0
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                read += len(piece)
        assert read < MUCH


def test_whoever_reads_gets_all(port: int) -> None:
    with dial(port) as connection:
        connection.sendall(b"GET /much HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        read = 0
        while piece := connection.recv(1 << 20):
            read += len(piece)
        assert read > MUCH


def test_what_is_no_http_is_answered_without_a_line_in_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    for words in (b"SSH-2.0-x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"):
        with dial(port) as connection:
            connection.sendall(words)
            assert connection.recv(1000).startswith(b"HTTP/1.1 ")
    assert not caplog.records


def test_strangers_make_room_for_each_other_and_whoever_is_known_for_nobody() -> None:
    listener, port = loopback()
    protocol = partial(BoundedHeadProtocol, lobby=Lobby(seats=8, seats_each=2))
    with listening(app, listener, http=protocol, ws="none", lifespan="off", timeout_keep_alive=60), dial(port) as known:
        known.sendall(b"GET /known HTTP/1.1\r\nHost: a\r\n\r\n")
        assert known.recv(1000).startswith(b"HTTP/1.1 204")
        with dial(port) as first, dial(port), dial(port):
            assert hung_up(first)
        known.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert known.recv(1000).startswith(b"HTTP/1.1 204")


def test_a_server_that_ends_does_not_wait_for_who_has_its_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a connection with TLS, the other end would have to take part in closing it."""
    create_authority(tmp_path / "authority")
    request = create_request(Party(role=Role.INFERENCE_SERVICE, organisation="registry"), tmp_path)
    certificate = tmp_path / "inference-service.pem"
    certificate.write_bytes(sign_request(tmp_path / "authority", request, hosts=["127.0.0.1"]))
    files = {"ssl_certfile": certificate, "ssl_keyfile": request.with_suffix(".key"), "loop": EVENT_LOOP}
    trusted = ssl.create_default_context(cafile=tmp_path / "authority" / "authority.pem")
    listener, port = loopback()
    with listening(app, listener, http=BoundedHeadProtocol, ws="none", lifespan="off", **files):
        kept = trusted.wrap_socket(dial(port), server_hostname="127.0.0.1")
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 204")
    kept.close()
    assert "graceful" not in caplog.text


def test_a_tls_handshake_that_does_not_begin_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbing.http_server.HEAD_SECONDS", 0.2)
    party = Party(role=Role.INFERENCE_SERVICE, organisation="front-end")
    create_authority(tmp_path / "authority")
    request = create_request(party, tmp_path / "party")
    (certificate := tmp_path / "signed.pem").write_bytes(sign_request(tmp_path / "authority", request))
    (key,) = (tmp_path / "party").glob("*key*")
    listener, port = loopback()
    with (
        listening(
            app, listener, http=BoundedHeadProtocol, ws="none", lifespan="off", loop=EVENT_LOOP,
            ssl_keyfile=key, ssl_certfile=certificate,
        ),
        dial(port) as connection,
    ):  # fmt: skip
        assert hung_up(connection)
