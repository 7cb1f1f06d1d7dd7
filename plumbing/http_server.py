"""What our HTTP servers bear from strangers.

uvicorn itself bounds neither heads nor connections, and waits for ever for whoever does not read what it asked for.
"""

import asyncio
import socket
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TypeAlias

import httptools
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plumbing.lobby import Lobby, find_origin

HEAD_SECONDS: Final = 10.0
"""For request line and headers, from the connection's first moment or, on a kept one, the request's first byte; and
for the rest of a body that nobody waits for, because the request is answered."""
LAST_LOOK_SECONDS: Final = 0.25
"""What has come by the deadline is read first: if this process itself stood still, nobody else has dawdled."""
HEAD_BYTES: Final = 64 << 10
MOST_PIPELINED: Final = 8
"""Requests that may wait for the answer to an earlier one of their connection."""
WRITE_SECONDS: Final = 60.0
"""In each of these, whoever is sent something must take the last of it, or `SLOWEST_BYTES`."""
SLOWEST_BYTES: Final = 64 << 10
STRANGERS: Final = 256
"""Connections that nobody has identified yet; beyond, the oldest of the busiest address is closed."""
STRANGERS_EACH: Final = 128
"""The same, of one address."""
STRANGER: Final = "encrypted-inference.stranger"
"""Name of an ASGI extension: what an app may do with a connection that nobody has identified yet."""
Extension: TypeAlias = dict[object, Any]
"""`known`: it is known now. `abort`, of a WebSocket: it must go."""


def new_lobby() -> Lobby:
    return Lobby(seats=STRANGERS, seats_each=STRANGERS_EACH)


def vouch(scope: MutableMapping[str, Any]) -> None:
    """Say that whoever sent this request is known: its connection makes no room for strangers any more."""
    extension: Extension | None = scope.get("extensions", {}).get(STRANGER)
    if extension is not None:
        extension["known"]()


class AnnouncedServer(uvicorn.Server):
    """Says where it is when it answers there, and not before."""

    def __init__(self, configuration: uvicorn.Config, *, announce: Callable[[], None]) -> None:
        """Call `announce` once the server is up."""
        super().__init__(configuration)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._announce()


class Alarm:
    """Does something once, later, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        """Whether it was set since it was last stopped."""
        return self._timer is not None

    def set(self, seconds: float, action: Callable[[], None]) -> None:
        """Do `action` in `seconds`, and not what was to be done before."""
        self.stop()
        self._timer = self._loop.call_later(seconds, action)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BoundedHeadProtocol(HttpToolsProtocol):
    """Hangs up on whoever dawdles over a request's head (slow loris), says nothing, never comes to its end, heaps up
    requests, or does not read.
    """

    def __init__(self, *arguments: Any, lobby: Lobby | None = None, **named: Any) -> None:
        """As uvicorn makes it; `lobby` has a seat for each connection that nobody has identified yet."""
        super().__init__(*arguments, **named)
        self._lobby = lobby
        self._head = Alarm(self.loop)
        self._head_bytes = 0
        self._body_is_due = False
        self._rest = Alarm(self.loop)
        self._reading = Alarm(self.loop)
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is due."""
        super().connection_made(transport)
        # So that `pause_writing` tells of anything that lies unread; with 0, uvloop never goes on with TLS.
        transport.set_write_buffer_limits(high=1, low=0)
        self._head.set(HEAD_SECONDS, self._look_once_more)
        if self._lobby is not None:
            self._lobby.enter(self, find_origin(self.client[0] if self.client else None), transport.abort)

    def data_received(self, data: bytes) -> None:
        """Count what comes while a head is due. What is no HTTP is answered, and not worth a line in the log."""
        if self._head.is_set:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES + len(data):  # a body may begin in the head's last piece
                self.transport.abort()
                return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._take_off()
                self.handle_websocket_upgrade()
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """A request has begun; its head is due."""
        if len(self.pipeline) >= MOST_PIPELINED:
            self.transport.abort()
            raise ConnectionAbortedError  # stops the parser, which may hold thousands more
        super().on_message_begin()
        self.scope["extensions"] = {STRANGER: {"known": self._known}}
        self._body_is_due = True
        if not self._head.is_set:
            self._head.set(HEAD_SECONDS, self._look_once_more)

    def on_headers_complete(self) -> None:
        """The head is here; the body has a deadline of its own if one is read."""
        self._head_has_come()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here."""
        self._body_is_due = False
        self._rest.stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered; if its body is still on the way, then not for long."""
        super().on_response_complete()
        if self._body_is_due:
            self._rest.set(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Something lies unread."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """All was taken."""
        self._reading.stop()
        super().resume_writing()

    def shutdown(self) -> None:
        """The server ends. Whoever has its whole answer is left: it need not read the end of a TLS connection."""
        super().shutdown()
        if self.transport.is_closing() and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._take_off()
        super().connection_lost(exc)

    def _known(self) -> None:
        if self._lobby is not None:
            self._lobby.let_go(self)

    def _take_off(self) -> None:
        """This protocol no longer has to do with the connection."""
        self._known()
        self._head_has_come()
        self._rest.stop()
        self._reading.stop()

    def _look_once_more(self) -> None:
        # uvloop runs timers before it reads.
        self._head.set(LAST_LOOK_SECONDS, self.transport.abort)

    def _look_at_the_unread(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread - SLOWEST_BYTES:
            self.transport.abort()
        else:
            self._watch_reading()

    def _watch_reading(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._reading.set(WRITE_SECONDS, self._look_at_the_unread)

    def _head_has_come(self) -> None:
        self._head.stop()
        self._head_bytes = 0


EVENT_LOOP: Final = "plumbing.http_server:BoundedHandshakeLoop"
"""As `uvicorn.Config` wants a loop named: for servers that speak TLS themselves."""


class BoundedHandshakeLoop(uvloop.Loop):
    """uvloop's, except that a TLS handshake has the deadline of a request's head; by itself it waits 60 s."""

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.AbstractServer:  # type: ignore[override]
        if named.get("ssl") is not None:
            named["ssl_handshake_timeout"] = HEAD_SECONDS
        return await super().create_server(*arguments, **named)
