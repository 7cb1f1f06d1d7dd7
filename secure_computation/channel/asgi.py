"""Channels over WebSocket, the side that serves: inside an ASGI app on uvicorn, each session in a thread of its own."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from contract.errors import EncryptedInferenceError, PeerDisconnected
from plumbing.http_server import Alarm, BoundedHeadProtocol, new_lobby
from plumbing.tally import Tally
from plumbing.words_for_others import words_for_others
from secure_computation.channel.bridge import BridgedStream
from secure_computation.channel.channel import LOOK_STEP, Channel, Deadlines
from secure_computation.channel.guarded import STRANGERS_LAST_WORDS_SECONDS, GuardedProtocol, connection_of
from secure_computation.channel.identity import HANDSHAKE_STEP, Expected, open_channel
from secure_computation.channel.stream import Deadline
from secure_computation.channel.tls import TlsContext, TlsStream
from secure_computation.channel.websocket import MESSAGE_BYTES, PING_SECONDS

_LOG = logging.getLogger(__name__)


async def serve_channel(
    websocket: WebSocket,
    handler: Callable[[Channel], None],
    *,
    context: TlsContext,
    expect: Expected,
    deadlines: Deadlines,
    strangers: Tally | None = None,
) -> None:
    """Accept a WebSocket, authenticate both ends, run `handler` in a thread of its own, close.

    An EncryptedInferenceError of the handshake or the handler goes to the log and, after the handshake, to the peer;
    it never reaches the server. Whoever has shown no identity when its time is over is hung up on, whatever it reads.
    Run the server with `uvicorn_options`. `strangers`: counts those who showed none, or were refused before
    a session began; else each is a line of the log.
    """
    await websocket.accept()
    stream = _asgi_stream(websocket)
    client = f"the client at {websocket.client.host}" if websocket.client else "the client"
    loop, connection = asyncio.get_running_loop(), connection_of(websocket.scope)
    patience = Alarm(loop)
    patience.set(deadlines.connect_seconds + STRANGERS_LAST_WORDS_SECONDS, connection.abort)

    def welcome() -> None:
        patience.stop()
        connection.known()

    def work() -> None:
        try:
            tls = TlsStream(stream, context, server_side=True)
            deadline = Deadline(peer=client, step=HANDSHAKE_STEP, seconds=deadlines.connect_seconds)
            channel = open_channel(tls, expect=expect, found_at=client, deadline=deadline, deadlines=deadlines)
        except EncryptedInferenceError as error:
            if strangers is None or strangers.is_first(f"connections refused ({error.code})"):
                _LOG.warning("connection refused: %s", error)
        else:
            with suppress(RuntimeError):  # the loop has been closed, and the connection with it
                loop.call_soon_threadsafe(welcome)
            _serve(channel, handler, own=str(context.trust().own.party), strangers=strangers)
        finally:
            stream.close()

    try:
        # A limiter of its own: sessions wait for their peers most of the time and must not queue for a thread.
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.run())
            await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
    finally:
        patience.stop()


def uvicorn_options() -> dict[str, Any]:
    """What `uvicorn.Config` needs to serve channels: bounded heads and messages, few strangers, no compression, flow
    control.
    """
    return {
        "http": partial(BoundedHeadProtocol, lobby=new_lobby()),
        "ws": partial(GuardedProtocol, lobby=new_lobby()),
        "ws_max_size": MESSAGE_BYTES,
        "ws_per_message_deflate": False,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": None,
    }


def _serve(channel: Channel, handler: Callable[[Channel], None], *, own: str, strangers: Tally | None) -> None:
    try:
        handler(channel)
    except EncryptedInferenceError as error:
        if channel.is_looked_at:
            with suppress(EncryptedInferenceError):  # it has left already
                channel.send_end(step=LOOK_STEP)
        if isinstance(error, PeerDisconnected) and channel.traffic().bytes_received == 0:
            _LOG.debug("%s looked whether this server answers, and left", channel.peer)  # monitoring asks every 5 s
            return
        # A ticket that is refused, for whatever it is, can be presented without end.
        kind = f"channels of the {channel.peer} refused ({error.code})"
        if strangers is None or channel.has_begun or strangers.is_first(kind):
            _LOG.warning("session with %s failed: %s", channel.peer, error)
        # Also if a link failed: it may be another one than this, and then the peer cannot know.
        channel.send_error(error.code, words_for_others(error, own=own), step="end of session")


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
