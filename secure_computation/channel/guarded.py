"""uvicorn's WebSocket, hardened against whoever connects.

What uvicorn leaves open: pings are answered however much lies unread already; frames that bring nothing are taken in
without end; a connection that is to be closed lives for as long as its peer does not read.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CTRL_OPCODES, Frame
from websockets.http11 import Request

from plumbing.http_server import STRANGER, Alarm
from plumbing.lobby import Lobby, find_origin
from secure_computation.channel.websocket import WRITE_BUFFER_BYTES

BYTES_OF_A_STRANGER: Final = 16 << 10
"""What is read before the peer's certificate has been accepted; its part of a TLS handshake is some 3 KiB. What it
sends ahead stays on its way until then."""
SLIVER_BYTES: Final = 22
"""Data frames below this hold no TLS record, so no party sends them."""
SLIVERS: Final = 64
"""Control frames and slivers that a connection may have at once, and one more for each second of its life: a party's
keep-alive is two in 20 s."""
LAST_WORDS_SECONDS: Final = 30.0
"""For a known party to take what was written before its connection was closed."""
STRANGERS_LAST_WORDS_SECONDS: Final = 1.0
"""The same for a stranger."""
_SLICE_BYTES: Final = 16 << 10
"""Parsed at once: a read of the socket may bring 40,000 empty frames."""


@dataclass(frozen=True)
class Connection:
    """What a server of channels may do with the connection under a WebSocket, in the loop's thread."""

    known: Callable[[], None]
    """Its peer has shown who it is."""
    abort: Callable[[], None]
    """It ends now, whatever lies unread."""


def connection_of(scope: MutableMapping[str, Any]) -> Connection:
    """The connection under a WebSocket of `GuardedProtocol`."""
    found = scope.get("extensions", {}).get(STRANGER, {})
    return Connection(known=found.get("known", _nothing), abort=found.get("abort", _nothing))


class GuardedProtocol(WebSocketsSansIOProtocol):
    """Reads little of a stranger, answers pings only to whoever reads, and hangs up if frames bring nothing.

    A slow reader holds its sender back: uvicorn waits for `writable` before it sends, but never unsets it.
    """

    def __init__(self, *arguments: Any, lobby: Lobby | None = None, **named: Any) -> None:
        """As uvicorn makes it; `lobby` has a seat for each connection until its peer has shown who it is."""
        super().__init__(*arguments, **named)
        self._lobby = lobby
        self._is_known = False
        self._is_lost = False
        self._room = BYTES_OF_A_STRANGER
        self._held = bytearray()
        self._slivers = 0
        self._since = self.loop.time()
        self._end = Alarm(self.loop)

    def connection_made(self, transport: Any) -> None:
        """The head of the request has come already."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self._lobby is not None:
            self._lobby.enter(self, find_origin(self.client[0] if self.client else None), transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let waiting senders go: they find the connection closed."""
        self._leave_lobby()
        self._end.stop()
        self._is_lost = True
        self.writable.set()
        super().connection_lost(exc)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Of a stranger, hold what is beyond its bound, and read no further."""
        if not self.handshake_initiated:  # the head, once more: this time it is parsed by another library
            super().data_received(data)
            if not self.handshake_initiated:
                self._abort()
            return
        if not self._is_known:
            self._held += data[self._room :]
            data = data[: self._room]
            self._room -= len(data)
            self._hold_back()
        for start in range(0, len(data), _SLICE_BYTES):
            if self.transport.is_closing():
                break
            super().data_received(data[start : start + _SLICE_BYTES])
        if self.transport.is_closing():
            self._end_soon()

    async def receive(self) -> Any:
        """See uvicorn, which reads on once all is taken."""
        message = await super().receive()
        self._hold_back()
        return message

    def handle_connect(self, event: Request) -> None:
        """Give the app a hold on the connection."""
        super().handle_connect(event)
        if not self.handshake_complete:  # else it was refused
            self.scope["extensions"][STRANGER] = {"known": self._known, "abort": self._abort}

    def handle_events(self) -> None:
        """Count before anything is done."""
        now = self.loop.time()
        self._slivers += sum(isinstance(event, Frame) and _is_sliver(event) for event in self.conn.events)
        if self._slivers > SLIVERS + now - self._since:
            self._abort()
        else:
            super().handle_events()

    def handle_ping(self) -> None:
        """Answer if nothing lies unread: RFC 6455 asks for the last answer only, and ours need none."""
        answer = b"".join(self.conn.data_to_send())
        if not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.write(answer)

    def handle_text(self, event: Frame) -> None:
        """No party sends text."""
        self._abort()

    # Writing

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self.writable.set()

    # The end

    async def run_asgi(self) -> None:
        """Run the app; what it has written then gets a limited time."""
        try:
            await super().run_asgi()
        finally:
            self._end_soon()

    def _known(self) -> None:
        self._is_known = True
        self._leave_lobby()
        held, self._held = bytes(self._held), bytearray()
        self.data_received(held)
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _hold_back(self) -> None:
        if not self._is_known and not self._room and not self.transport.is_closing():
            self.transport.pause_reading()

    def _leave_lobby(self) -> None:
        if self._lobby is not None:
            self._lobby.let_go(self)

    def _end_soon(self) -> None:
        if not self._end.is_set and not self._is_lost:
            seconds = LAST_WORDS_SECONDS if self._is_known else STRANGERS_LAST_WORDS_SECONDS
            self._end.set(seconds, self._abort)

    def _abort(self) -> None:
        self.transport.abort()


def _is_sliver(frame: Frame) -> bool:
    return frame.opcode in CTRL_OPCODES or len(frame.data) < SLIVER_BYTES


def _nothing() -> None:
    return
