"""Channels over WebSocket, the side that serves: inside an ASGI app on uvicorn, each session in a thread of its own."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio.to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from contract.errors import EncryptedInferenceError
from contract.http_server import BoundedHeadProtocol
from secure_computation.channel.bridge import BridgedStream
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.identity import HANDSHAKE_STEP, Expected, open_channel
from secure_computation.channel.stream import Deadline
from secure_computation.channel.tls import TlsContext, TlsStream
from secure_computation.channel.websocket import MESSAGE_BYTES, PING_SECONDS, WRITE_BUFFER_BYTES

_LOG = logging.getLogger(__name__)


async def serve_channel(
    websocket: WebSocket,
    handler: Callable[[Channel], None],
    *,
    context: TlsContext,
    expect: Expected,
    deadlines: Deadlines,
) -> None:
    """Accept a WebSocket, authenticate both ends, run `handler` in a thread of its own, close.

    An EncryptedInferenceError of the handshake or the handler goes to the log and, after the handshake, to the peer;
    it never reaches the server. Run the server with `uvicorn_options`.
    """
    await websocket.accept()
    stream = _asgi_stream(websocket)
    client = f"the client at {websocket.client.host}" if websocket.client else "the client"

    def work() -> None:
        try:
            _serve(stream, handler, context=context, expect=expect, deadlines=deadlines, client=client)
        finally:
            stream.close()

    # A limiter of its own: sessions wait for their peers most of the time and must not queue for a thread.
    async with asyncio.TaskGroup() as group:
        group.create_task(stream.run())
        await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))


class FlowControlledProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol waits for `writable` before it sends, but never unsets it: with this, a slow peer
    holds its sender back instead of filling this server's memory.
    """

    def connection_made(self, transport: Any) -> None:
        """Allow a few messages on the way."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let waiting senders go: they find the connection closed."""
        self.writable.set()
        super().connection_lost(exc)


def uvicorn_options() -> dict[str, Any]:
    """What `uvicorn.Config` needs to serve channels: bounded heads, message size, no compression, flow control."""
    return {
        "http": BoundedHeadProtocol,
        "ws": FlowControlledProtocol,
        "ws_max_size": MESSAGE_BYTES,
        "ws_per_message_deflate": False,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": None,
    }


def _serve(
    stream: BridgedStream,
    handler: Callable[[Channel], None],
    *,
    context: TlsContext,
    expect: Expected,
    deadlines: Deadlines,
    client: str,
) -> None:
    tls = TlsStream(stream, context, server_side=True)
    deadline = Deadline(peer=client, step=HANDSHAKE_STEP, seconds=deadlines.connect_seconds)
    try:
        channel = open_channel(tls, expect=expect, found_at=client, deadline=deadline, deadlines=deadlines)
    except EncryptedInferenceError as error:
        _LOG.warning("connection refused: %s", error)
        return
    try:
        handler(channel)
    except EncryptedInferenceError as error:
        _LOG.warning("session with %s failed: %s", channel.peer, error)
        # Also where a link failed: it may be another one than this, and then the peer cannot know.
        channel.send_error(error.code, str(error), step="end of session")


def _asgi_stream(websocket: WebSocket) -> BridgedStream:
    async def receive() -> bytes | None:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        return message.get("bytes") or b""  # text is nothing that a party sends; without bytes the handshake starves

    async def send(data: bytes) -> bool:
        try:
            await websocket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError):  # Starlette raises the latter after a disconnect it has reported
            return False
        return True

    async def close() -> None:
        try:
            await websocket.close()
        except (WebSocketDisconnect, RuntimeError):
            return

    return BridgedStream(asyncio.get_running_loop(), receive=receive, send=send, close=close)
