"""Strangers that flood a server of channels: what they send is counted, and they are hung up on. Sessions go on."""

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import ClientConnection, connect

from contract.errors import TransportError
from contract.identity import Credentials, Role
from plumbing.http_server import BoundedHeadProtocol
from plumbing.lobby import Lobby
from plumbing.tally import Tally
from secure_computation.channel import guarded
from secure_computation.channel.asgi import serve_channel, uvicorn_options
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.guarded import GuardedProtocol
from secure_computation.channel.identity import open_channel
from secure_computation.channel.stream import ByteStream, Deadline, Piece
from secure_computation.channel.tls import TlsStream, tls_context
from secure_computation.channel.websocket import connect_channel
from tests.end_to_end.federation import listening, loopback
from tests.secure_computation.channel.conftest import DEADLINES, LABORATORY

UNHURRIED = Deadlines(connect_seconds=120, step_seconds=10)
"""Whoever is hung up on is so for what it does, not because its time is over."""
SEATS = 4
FLOOD_BYTES = 8 << 20
FINAL, CONTINUATION, TEXT, BINARY, PING, PONG = 0x80, 0x0, 0x1, 0x2, 0x9, 0xA


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame; its mask of zeros changes nothing."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([opcode]) + size + bytes(4) + payload


FLOODS = {
    "pings": frame(FINAL | PING, bytes(125)),
    "empty pings": frame(FINAL | PING),
    "pongs": frame(FINAL | PONG, bytes(125)),
    "empty messages": frame(FINAL | BINARY),
    "empty text": frame(FINAL | TEXT),
    "text": frame(FINAL | TEXT, b"x" * 100),
    "text that is none": frame(FINAL | TEXT, b"\xff" * 100),
    "empty fragments": frame(CONTINUATION),
    "fragments of a byte": frame(CONTINUATION, b"x"),
    "compressed frames": frame(FINAL | 0x40 | BINARY, bytes(100)),
    "messages of a byte": frame(FINAL | BINARY, b"\x16"),
}
START = {name: frame(BINARY, b"\x16") for name in ("empty fragments", "fragments of a byte")}


class Door:
    """A server of channels that hands each to the test, and shows its own connections."""

    def __init__(self, credentials: Credentials, deadlines: Deadlines) -> None:
        self.accepted: queue.Queue[Channel] = queue.Queue()
        self.release = threading.Event()
        self.connections: list[GuardedProtocol | BoundedHeadProtocol] = []
        self.counts: list[tuple[str, int]] = []
        self.tally = Tally(lambda kind, count: self.counts.append((kind, count)))
        context = tls_context(credentials, server_side=True)

        def handler(channel: Channel) -> None:
            self.accepted.put(channel)
            self.release.wait()

        async def endpoint(websocket: WebSocket) -> None:
            await serve_channel(
                websocket, handler, context=context, expect=Role.DATA_OWNER, deadlines=deadlines, strangers=self.tally
            )

        self.app = Starlette(routes=[WebSocketRoute("/channel", endpoint)])

    def watched(self, kind: type, **named: object) -> Callable[..., object]:
        def make(*arguments: object, **others: object) -> object:
            self.connections.append(kind(*arguments, **named, **others))
            return self.connections[-1]

        return make

    def open_connections(self) -> int:
        """TCP connections that this server holds."""
        return len(self.connections[0].connections)

    @contextmanager
    def listening(self) -> Iterator[str]:
        listener, port = loopback()
        options = uvicorn_options() | {
            "http": self.watched(BoundedHeadProtocol, lobby=Lobby(seats=SEATS, seats_each=SEATS)),
            "ws": self.watched(GuardedProtocol, lobby=Lobby(seats=SEATS, seats_each=SEATS)),
        }
        with listening(self.app, listener, lifespan="off", **options):
            try:
                yield f"ws://127.0.0.1:{port}/channel"
            finally:
                self.release.set()


@pytest.fixture
def door(laboratory: Credentials) -> Door:
    return Door(laboratory, UNHURRIED)


def until(condition: Callable[[], bool]) -> None:
    """Wait, as long as a busy machine may need."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        threading.Event().wait(0.01)


def tcp(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=30)


def upgraded(url: str, *headers: str) -> socket.socket:
    """An open WebSocket as a bare socket."""
    connection = tcp(url)
    lines = (
        f"GET {urlsplit(url).path} HTTP/1.1",
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Extensions: permessage-deflate",
        *headers,
    )
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    if not headers:
        assert b"permessage-deflate" not in connection.recv(4096)
    return connection


def is_hung_up_on(connection: socket.socket) -> bool:
    """Whether the other end has closed; what it sent before is not looked at."""
    limit = time.monotonic() + 30
    try:
        while connection.recv(1 << 16):
            if time.monotonic() > limit:  # pings come again and again
                return False
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def use(url: str, credentials: Credentials, door: Door) -> None:
    """An honest session: one message each way."""
    channel = connect_channel(
        url, context=tls_context(credentials, server_side=False), expect=LABORATORY, deadlines=DEADLINES
    )
    channel.send_seed(bytes(32), step="seed")
    theirs = door.accepted.get(timeout=30)
    assert theirs.receive_seed(step="seed") == bytes(32)
    theirs.send_end(step="end")
    channel.receive_end(step="end")
    channel.close()


@pytest.mark.parametrize("kind", FLOODS)
def test_a_stranger_that_floods_is_hung_up_on(door: Door, hospital: Credentials, kind: str) -> None:
    flood = FLOODS[kind] * ((64 << 10) // len(FLOODS[kind]))
    with door.listening() as url, upgraded(url) as stranger:
        with suppress(OSError):
            stranger.sendall(START.get(kind, b""))
            for _ in range(FLOOD_BYTES // len(flood)):
                stranger.sendall(flood)
        assert is_hung_up_on(stranger)
        use(url, hospital, door)


def test_of_a_stranger_little_is_read(door: Door) -> None:
    """A client's first TLS message says that it has 100 KB; they would be taken in, to be looked at in the end."""
    hello = b"\x16\x03\x01\x40\x00\x01\x01\x86\xa0" + bytes((16 << 10) - 4)
    with door.listening() as url, upgraded(url) as stranger:
        stranger.settimeout(0.2)
        with suppress(TimeoutError):
            for _ in range(4096):
                stranger.sendall(frame(FINAL | BINARY, hello[: 16 << 10]))
        (protocol,) = [one for one in door.connections if isinstance(one, GuardedProtocol)]
        until(lambda: not protocol.transport.is_reading())
        assert protocol.queue.empty()
        assert len(protocol.conn.reader.buffer) <= guarded.BYTES_OF_A_STRANGER


def test_a_head_that_only_the_second_parser_refuses_is_hung_up_on(door: Door) -> None:
    with door.listening() as url, upgraded(url, *(f"X-{number}: y" for number in range(200))) as stranger:
        assert is_hung_up_on(stranger)


def test_many_strangers_make_room_for_who_says_who_it_is(door: Door, hospital: Credentials) -> None:
    with door.listening() as url, ExitStack() as stack:
        for _ in range(3 * SEATS):
            stack.enter_context(tcp(url))
            stack.enter_context(upgraded(url))
        use(url, hospital, door)
        until(lambda: door.open_connections() <= 2 * SEATS)
        for _ in range(3):
            use(url, hospital, door)


def test_whoever_is_known_makes_room_for_nobody(door: Door, hospital: Credentials) -> None:
    context = tls_context(hospital, server_side=False)
    with door.listening() as url, ExitStack() as stack:
        sessions = []
        for _ in range(2 * SEATS):
            channel = connect_channel(url, context=context, expect=LABORATORY, deadlines=DEADLINES)
            stack.callback(channel.close)
            sessions.append((channel, door.accepted.get(timeout=30)))
        for _ in range(2 * SEATS):
            stack.enter_context(upgraded(url))
        for channel, theirs in sessions:
            theirs.send_end(step="end")
            channel.receive_end(step="end")


def test_a_silent_stranger_is_hung_up_on_at_its_deadline(laboratory: Credentials) -> None:
    door = Door(laboratory, Deadlines(connect_seconds=0.2))
    with door.listening() as url, upgraded(url) as stranger:
        stranger.sendall(frame(FINAL | BINARY, b"\x16\x03\x01\x02\x00" + bytes(100)))
        assert is_hung_up_on(stranger)


class Bare(ByteStream):
    """Over a WebSocket that reads when it is asked to, and not before."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def write(self, pieces: Sequence[Piece], deadline: Deadline) -> None:
        self.connection.send(b"".join(pieces))

    def read_some(self, deadline: Deadline) -> memoryview:
        return memoryview(bytes(self.connection.recv(decode=False)))

    def read_into(self, view: memoryview, deadline: Deadline) -> None:
        raise NotImplementedError

    def interrupt(self, reason: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.connection.close()


def send_much(channel: Channel) -> None:
    for _ in range(256):
        channel.send_bytes(bytes(1 << 20), step="much")


def test_whoever_is_known_and_reads_nothing_more_is_hung_up_on(
    door: Door, hospital: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "LAST_WORDS_SECONDS", 0.2)
    monkeypatch.setattr("secure_computation.channel.bridge.CLOSE_SECONDS", 0.2)
    with door.listening() as url, connect(url, compression=None, max_size=None, max_queue=1, close_timeout=0) as bare:
        stream = TlsStream(Bare(bare), tls_context(hospital, server_side=False), server_side=False)
        open_channel(
            stream,
            expect=LABORATORY,
            found_at="it",
            deadline=Deadline(peer="it", step="hello", seconds=30),
            deadlines=DEADLINES,
        )
        theirs = door.accepted.get(timeout=30)
        theirs.deadlines = Deadlines(step_seconds=0.2, slowest_bytes_per_second=1e12)
        with pytest.raises(TransportError):
            send_much(theirs)
        door.release.set()
        until(lambda: door.open_connections() == 0)


def test_strangers_are_a_line_and_a_count(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with door.listening() as url:
        for _ in range(20):
            with upgraded(url) as stranger:
                stranger.sendall(frame(FINAL | BINARY, b"no TLS" * 20))  # chance might begin a record of TLS
                assert is_hung_up_on(stranger)
    door.tally.flush()
    (line,) = [message for message in caplog.messages if message.startswith("connection")]
    assert "refused: the client at 127.0.0.1 broke the protocol in step 'tls handshake'" in line
    assert door.counts == [("connections refused (peer-violation)", 19)]
