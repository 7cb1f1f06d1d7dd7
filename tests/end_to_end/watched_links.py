"""Relays between real processes that see each WebSocket message pass, in clear only its length, and say so."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

HOST = "127.0.0.1"
OnMessage = Callable[[], None]


class WatchedLink:
    """A relay in front of one server. `on_message` is called before each message is passed on, in either direction."""

    def __init__(self) -> None:
        """Listen on a port of its own; `target_port` may come later, before the first connection."""
        self.port = 0
        self.target_port = 0
        self.on_message: OnMessage = lambda: None

    async def listen(self, started: threading.Event, ended: asyncio.Event) -> None:
        async with serve(self._relay, HOST, 0, compression=None, ping_interval=None, close_timeout=1) as server:
            self.port = int(next(iter(server.sockets)).getsockname()[1])
            started.set()
            await ended.wait()

    async def _relay(self, near: ServerConnection) -> None:
        assert near.request is not None
        url = f"ws://{HOST}:{self.target_port}{near.request.path}"
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 1, "proxy": None}
        # A server that was killed: whoever dialled finds the connection closed, as through a proxy.
        with suppress(OSError, InvalidHandshake, ConnectionClosed):
            async with connect(url, **options) as far:
                ways = [asyncio.create_task(self._pass_on(*way)) for way in ((near, far), (far, near))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()

    async def _pass_on(self, source: Any, target: Any) -> None:
        with suppress(ConnectionClosed):
            async for message in source:
                self.on_message()
                await target.send(message)


@contextmanager
def watched_link() -> Iterator[WatchedLink]:
    """A relay that listens until the block ends."""
    link, started = WatchedLink(), threading.Event()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(link.listen(started, ended),), daemon=True)
    thread.start()
    assert started.wait(timeout=30)
    try:
        yield link
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=30)
        assert not thread.is_alive()
        loop.close()
