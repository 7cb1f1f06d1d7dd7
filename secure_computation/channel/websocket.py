"""Channels over WebSocket, the side that connects. `asgi` has the other.

Inside the WebSocket runs TLS with certificates on both ends (`tls`), so `ws://` is as safe as `wss://` for what the
parties say to each other; the outer TLS of `wss://`, checked as browsers do, helps through firewalls.
"""

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxyStatus,
    InvalidStatus,
    WebSocketException,
)

from authority.tls_refusal import find_cause, remedy
from contract.errors import (
    ConfigurationError,
    EncryptedInferenceError,
    PeerUnreachable,
)
from contract.identity import Party
from plumbing.listening import is_host_name
from plumbing.proxies import Proxy, find_proxy, why_unreachable
from secure_computation.channel.bridge import CLOSE_SECONDS, BridgedStream
from secure_computation.channel.channel import Channel, Deadlines, Recorder
from secure_computation.channel.identity import HANDSHAKE_STEP, Expected, describe, open_channel
from secure_computation.channel.stream import ByteStream, Deadline
from secure_computation.channel.tls import TlsContext, TlsStream

MESSAGE_BYTES = 1 << 20
"""Largest WebSocket message that either side accepts; the streams send at most 256 KiB and TLS framing."""

PING_SECONDS = 20.0
"""Keeps proxies from closing an idle connection. A missing answer ends nothing: the deadlines of the channel do."""

WRITE_BUFFER_BYTES = 1 << 20
_GATEWAY_FAILED = (502, 503, 504)


def connect_channel(
    url: str,
    *,
    context: TlsContext,
    expect: Expected,
    deadlines: Deadlines,
    recorder: Recorder | None = None,
) -> Channel:
    """Dial a party's WebSocket, authenticate both ends, return the channel.

    `context` is `tls_context(credentials, server_side=False)`. Raises PeerUnreachable, or PeerViolation if somebody
    else answers. Whether the peer accepts this party shows at the first receive: see `look_at_party`.
    """
    address = _address(url)
    peer = f"{describe(expect)} at {address}"
    party = expect if isinstance(expect, Party) else None
    deadline = Deadline(peer=peer, step=HANDSHAKE_STEP, seconds=deadlines.connect_seconds, party=party)
    context.trust().require_own_accepted()  # in better words than the peer could
    stream = TlsStream(connect_websocket(url, deadline), context, server_side=False)
    try:
        return open_channel(
            stream,
            expect=expect,
            found_at=f"the party at {address}",
            deadline=deadline,
            deadlines=deadlines,
            recorder=recorder,
        )
    except EncryptedInferenceError:
        stream.close()
        raise


def look_at_party(url: str, *, context: TlsContext, expect: Expected, deadlines: Deadlines) -> None:
    """Dial as a session would, ask the party whether it accepts this one, and leave. Raises what a session would."""
    channel = connect_channel(url, context=context, expect=expect, deadlines=deadlines)
    try:
        channel.ask_whether_accepted()
    finally:
        channel.close()


def connect_websocket(url: str, deadline: Deadline) -> ByteStream:
    """Open a `ws://` or `wss://` connection as a byte stream, through the environment's HTTP proxy if it names one.

    Its event loop runs in a daemon thread until the stream is closed.
    """
    address, proxy = _address(url), find_proxy(url)
    opened: list[BridgedStream] = []
    failed: list[BaseException] = []
    settled = threading.Event()

    async def live() -> None:
        try:
            connection = await connect(
                url,
                proxy=None if proxy is None else proxy.address,
                compression=None,
                max_size=MESSAGE_BYTES,
                write_limit=WRITE_BUFFER_BYTES,
                open_timeout=deadline.remaining(),
                close_timeout=CLOSE_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=None,
            )
        except (OSError, WebSocketException) as error:
            failed.append(error)
            settled.set()  # not only at the end of the thread: a slow name server may hold that up
            return
        stream = _client_stream(connection)
        opened.append(stream)
        settled.set()
        await stream.run()

    def thread() -> None:
        try:
            _run_loop(live())
        finally:
            settled.set()

    threading.Thread(target=thread, name=f"websocket to {address}", daemon=True).start()
    settled.wait()
    if opened:
        return opened[0]
    raise _unreachable(failed[0] if failed else None, deadline, address, proxy)


def _client_stream(connection: ClientConnection) -> BridgedStream:
    async def receive() -> bytes | None:
        try:
            message = await connection.recv(decode=False)
        except ConnectionClosed:
            return None
        return bytes(message)

    async def send(data: bytes) -> bool:
        try:
            await connection.send(data)
        except ConnectionClosed:
            return False
        return True

    async def close() -> None:
        try:
            await connection.close()
        finally:
            connection.transport.abort()  # if a peer that does not read keeps the last bytes from leaving
            await connection.wait_closed()

    return BridgedStream(asyncio.get_running_loop(), receive=receive, send=send, close=close)


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def _address(url: str) -> str:
    """Host and port, for messages: a URL may carry a secret in its path or query."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"ws": 80, "wss": 443}.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if port is None or not is_host_name(parts.hostname or ""):
        raise ConfigurationError("a party's address must look like ws://host:port/path or wss://host:port/path")
    return f"{parts.hostname}:{port}"


def _unreachable(
    error: BaseException | None, deadline: Deadline, address: str, proxy: Proxy | None
) -> EncryptedInferenceError:
    if proxy is not None and isinstance(error, InvalidProxyStatus):
        return proxy.refuses(address, error.response.status_code)
    if proxy is not None and isinstance(error, OSError) and not isinstance(error, TimeoutError | ssl.SSLError):
        return proxy.dead(address, why_unreachable(error))  # whoever is behind it is dialled by the proxy
    peer, party = deadline.peer, deadline.party
    named = peer if address in peer else f"{peer} at {address}"
    named += "" if proxy is None else f", through {proxy}"
    cause = find_cause(error)
    if cause is not None:
        words = f"{named} cannot be reached by outer TLS: {remedy(cause, by_system=True)}"
        return PeerUnreachable(words, peer=peer, party=party)
    if isinstance(error, TimeoutError):
        why = "no answer in time"
    elif isinstance(error, ssl.SSLError):
        why = f"its outer TLS is not valid here: {(error.reason or 'unknown').lower().replace('_', ' ')}"
    elif isinstance(error, OSError):
        why = error.strerror or "the connection failed"
    elif isinstance(error, InvalidHandshake):
        why = _why_not_opened(error)
    else:
        why = "the connection failed"
    words = f"{named} cannot be reached ({why}): check the address and that the party runs"
    return PeerUnreachable(words, peer=peer, party=party)


def _why_not_opened(error: InvalidHandshake) -> str:
    """In words for whoever reads the message, who need not know what a WebSocket is."""
    if isinstance(error, InvalidStatus) and error.response.status_code in _GATEWAY_FAILED:
        return f"a server on the way says that it is away, with status {error.response.status_code}"
    return "what answers there is another program, or a proxy that does not let this connection through"
