"""The network's own troubles: nobody there, strangers, slow peers, a server that stops."""

import socket
import threading
import time

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from contract.errors import (
    ConfigurationError,
    DeadlineExceeded,
    PeerDisconnected,
    PeerReported,
    PeerUnreachable,
    Refused,
    TransportError,
)
from contract.identity import Credentials, Role
from secure_computation.channel.asgi import serve_channel, uvicorn_options
from secure_computation.channel.bridge import INBOUND_BYTES, OUTBOUND_BYTES
from secure_computation.channel.channel import EXCHANGE_AHEAD_BYTES, Channel, Deadlines
from secure_computation.channel.stream import Deadline, InboundBuffer
from secure_computation.channel.tls import TlsContext, tls_context
from secure_computation.channel.websocket import MESSAGE_BYTES, connect_channel
from tests.fake_proxy import dead_proxy, refusing_proxy
from tests.secure_computation.channel.conftest import DEADLINES, LABORATORY, Authority, Server


@pytest.fixture(scope="module")
def context(hospital: Credentials) -> TlsContext:
    return tls_context(hospital, server_side=False)


def dial(url: str, context: TlsContext, deadlines: Deadlines = DEADLINES) -> Channel:
    return connect_channel(url, context=context, expect=LABORATORY, deadlines=deadlines)


def test_nobody_listens(context: TlsContext) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(PeerUnreachable, match=f"model-owner of north-lab at 127.0.0.1:{port} cannot be reached"):
            dial(f"ws://127.0.0.1:{port}/channel?token=secret", context)


def test_a_dead_proxy_is_named(context: TlsContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with dead_proxy() as url:
        where = url.removeprefix("http://")
        monkeypatch.setenv("HTTP_PROXY", f"http://radiology:canary@{where}")
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(PeerUnreachable) as caught:
            dial("ws://model.invalid:8081/channel", context)
    assert str(caught.value).startswith(f"the proxy {where}, which HTTP_PROXY names, cannot be reached (")
    assert "canary" not in str(caught.value)


def test_a_proxy_that_refuses_is_named(context: TlsContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_proxy(403) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(PeerUnreachable, match=r"not let this machine through to model.invalid:8081 \(HTTP 403\)"):
            dial("ws://model.invalid:8081/channel", context)


def test_no_proxy_stands_between_parties_of_one_machine(
    context: TlsContext, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dead_proxy() as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "")
        dial(server.url, context).close()


def test_an_unknown_host(context: TlsContext) -> None:
    with pytest.raises(PeerUnreachable, match=r"at nowhere\.invalid:80 cannot be reached"):
        dial("ws://nowhere.invalid/channel", context)


def test_a_silent_host_is_given_up(context: TlsContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(PeerUnreachable, match="no answer in time"):
            dial(f"ws://127.0.0.1:{port}/", context, Deadlines(connect_seconds=0.2))
        assert time.monotonic() - started < 8  # websockets alone would wait for 10 s


def test_a_wrong_path(context: TlsContext, server: Server) -> None:
    with pytest.raises(PeerUnreachable, match="what answers there is another program") as caught:
        dial(server.url + "/secret-path", context)
    assert "secret" not in str(caught.value)


def test_outer_tls_where_there_is_none(context: TlsContext, server: Server) -> None:
    with pytest.raises(PeerUnreachable, match="outer TLS"):
        dial(server.url.replace("ws://", "wss://"), context)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "ws://", "localhost:80", "ws://host:notaport/", "ws://host:99999/"]
)
def test_a_malformed_address(url: str, context: TlsContext) -> None:
    with pytest.raises(ConfigurationError, match="ws://host:port/path"):
        dial(url, context)


def send_until_refused(connection: ClientConnection, message: bytes) -> None:
    """A long message may be refused while it is still on its way."""
    connection.send(message)
    while True:
        connection.recv(timeout=30)


def send_many(channel: Channel) -> None:
    """Send more than a reader that stalls, and everything on the way, can take."""
    for _ in range((INBOUND_BYTES + OUTBOUND_BYTES + (64 << 20)) >> 20):
        channel.send_bytes(bytes(1 << 20), step="corrections")


@pytest.fixture
def _short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secure_computation.channel.bridge.CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("secure_computation.channel.websocket.CLOSE_SECONDS", 0.3)


@pytest.mark.parametrize("message", [b"", b"\x00" * 100, "text", b"\x16\x03\x01\x02\x00" + bytes(512), bytes(2 << 20)])
def test_strangers_leave_the_server_healthy(message: bytes | str, server: Server, context: TlsContext) -> None:
    with connect(server.url, compression=None, max_size=None) as stranger:
        if message and not isinstance(message, str):
            with pytest.raises(ConnectionClosed):
                send_until_refused(stranger, message)
        else:
            stranger.send(message)
    channel = dial(server.url, context)
    channel.send_seed(bytes(32), step="seed")
    assert server.accepted.get(timeout=30).receive_seed(step="seed") == bytes(32)
    channel.close()


@pytest.mark.usefixtures("_short_close")
def test_a_reader_that_stalls_holds_the_writer_back_until_the_deadline(server: Server, context: TlsContext) -> None:
    channel = dial(server.url, context)
    stalled = server.accepted.get(timeout=30)
    channel.send_bytes(bytes(INBOUND_BYTES), step="corrections")  # is taken in, however busy the machine is
    channel.deadlines = Deadlines(step_seconds=0.5, slowest_bytes_per_second=1e12)
    with pytest.raises(DeadlineExceeded, match=r"model-owner of north-lab did not answer .* in step 'corrections'"):
        send_many(channel)
    stalled.close()
    channel.close()


@pytest.mark.usefixtures("_short_close")
def test_a_server_is_held_back_by_a_stalled_client(server: Server, context: TlsContext) -> None:
    channel = dial(server.url, context)
    dealer = server.accepted.get(timeout=30)
    dealer.deadlines = Deadlines(step_seconds=0.5, slowest_bytes_per_second=1e12)
    with pytest.raises(DeadlineExceeded):
        send_many(dealer)
    channel.close()
    dealer.close()


@pytest.mark.usefixtures("_short_close")
def test_a_cancelled_writer_stops_waiting(server: Server, context: TlsContext) -> None:
    channel = dial(server.url, context)
    server.accepted.get(timeout=30)
    timer = threading.Timer(0.5, channel.cancel, ("shutting down",))
    timer.start()
    with pytest.raises(TransportError, match="shutting down"):
        channel.send_bytes(bytes(INBOUND_BYTES + (64 << 20)), step="corrections")
    channel.close()


@pytest.mark.usefixtures("_short_close")
def test_a_party_that_is_held_back_fills_little_memory(server: Server, context: TlsContext) -> None:
    channel = dial(server.url, context, Deadlines(step_seconds=0.5, slowest_bytes_per_second=1e12))
    theirs = server.accepted.get(timeout=30)
    with theirs.held_back(64 << 10):
        with pytest.raises(DeadlineExceeded):
            send_many(channel)
        assert theirs._stream._inner._inbound._held <= (64 << 10) + 2 * MESSAGE_BYTES  # type: ignore[attr-defined]
    theirs.receive_bytes(1 << 20, step="corrections")
    theirs.close()
    channel.close()


def test_transports_take_in_what_an_exchange_writes_ahead() -> None:
    assert INBOUND_BYTES >= 2 * EXCHANGE_AHEAD_BYTES


def test_sessions_run_at_once(server: Server, context: TlsContext) -> None:
    pairs = []
    for _ in range(12):
        channel = dial(server.url, context)
        pairs.append((channel, server.accepted.get(timeout=30)))
    for number, (own, theirs) in enumerate(pairs):
        own.send_tensor(np.array([number]), step="who")
        theirs.send_tensor(np.array([-number]), step="who")
    for number, (own, theirs) in enumerate(pairs):
        assert own.receive_tensor((1,), np.int64, step="who") == [-number]
        assert theirs.receive_tensor((1,), np.int64, step="who") == [number]
    for own, _ in pairs:
        own.close()


@pytest.fixture
def one_shot(laboratory: Credentials) -> "OneShot":
    return OneShot(tls_context(laboratory, server_side=True))


class OneShot:
    """A server whose handler is the test's."""

    def __init__(self, context: TlsContext) -> None:
        self.context = context
        self.handler = lambda channel: None
        self.options: dict[str, object] = {}

    def __enter__(self) -> str:
        async def endpoint(websocket: WebSocket) -> None:
            await serve_channel(
                websocket, self.handler, context=self.context, expect=Role.DATA_OWNER, deadlines=DEADLINES
            )

        app = Starlette(routes=[WebSocketRoute("/", endpoint)])
        options = uvicorn_options() | self.options
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off", **options)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"ws://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_a_handlers_error_reaches_the_peer_in_words(one_shot: OneShot, context: TlsContext) -> None:
    def refuse(channel: Channel) -> None:
        channel.receive_hello(step="hello")
        raise Refused("the budget of this account is spent: ask the model owner")

    one_shot.handler = refuse
    with one_shot as url:
        channel = dial(url, context)
        channel.send_hello({}, step="hello")
        with pytest.raises(PeerReported, match=r"in step 'relu' \(refused\): the budget of this account is spent"):
            channel.receive_tensor((2,), np.int64, step="relu")
        channel.close()


def test_outer_tls_is_checked_as_browsers_do(
    one_shot: OneShot, context: TlsContext, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = authority.issue(hosts=("localhost",))
    one_shot.options = {"ssl_keyfile": site.key, "ssl_certfile": site.certificate}
    one_shot.handler = lambda channel: channel.send_seed(bytes(32), step="seed")
    with one_shot as url:
        address = url.replace("ws://127.0.0.1", "wss://localhost")
        with pytest.raises(
            PeerUnreachable, match="by outer TLS: its certificate is of no authority that this machine knows"
        ):
            dial(address, context)
        monkeypatch.setenv("SSL_CERT_FILE", str(site.authority))
        channel = dial(address, context)
        assert channel.receive_seed(step="seed") == bytes(32)
        channel.close()


def test_a_flood_of_tiny_messages_counts_as_the_memory_it_takes() -> None:
    buffer = InboundBuffer()
    held = [buffer.append(b"x") for _ in range(3)]
    assert held == [257, 514, 771]
    deadline = Deadline(peer="peer", step="x", seconds=1)
    buffer.read_into(memoryview(bytearray(2)), deadline)
    assert buffer.append(b"") == 257


def test_the_end_of_a_handler_flushes_and_closes(one_shot: OneShot, context: TlsContext) -> None:
    own = np.arange(2 << 20)
    one_shot.handler = lambda channel: channel.send_tensor(own, step="all")
    with one_shot as url:
        channel = dial(url, context)
        time.sleep(0.1)
        assert np.array_equal(channel.receive_tensor(own.shape, np.int64, step="all"), own)
        with pytest.raises(PeerDisconnected):
            channel.receive_seed(step="more")
        channel.close()


def test_a_server_that_stops_ends_its_sessions(one_shot: OneShot, context: TlsContext) -> None:
    ended: list[TransportError] = []

    def wait(channel: Channel) -> None:
        try:
            channel.receive_seed(step="never")
        except TransportError as error:
            ended.append(error)

    one_shot.handler = wait
    with one_shot as url:
        channel = dial(url, context)
    assert [type(error) for error in ended] == [PeerDisconnected]
    with pytest.raises(PeerDisconnected):
        channel.receive_seed(step="never")
    channel.close()


def test_threads_end_with_their_channels(server: Server, context: TlsContext) -> None:
    before = threading.active_count()
    for _ in range(5):
        channel = dial(server.url, context)
        server.accepted.get(timeout=30)
        channel.close()
    for thread in threading.enumerate():
        if thread.name.startswith("websocket to"):
            thread.join(30)
            assert not thread.is_alive()
    assert threading.active_count() <= before + 5
