"""How long, and how much, our HTTP servers take for the head of a request: uvicorn itself sets no bound to either."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS: Final = 10.0
"""For request line and headers, from the connection's first moment or, on a kept one, the request's first byte."""
LAST_LOOK_SECONDS: Final = 0.25
"""What has come by the deadline is read first: where this process itself stood still, nobody else has dawdled."""
HEAD_BYTES: Final = 64 << 10


class BoundedHeadProtocol(HttpToolsProtocol):
    """Hangs up on whoever dawdles over a request's head (slow loris), says nothing, or never comes to its end."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is due."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._look_once_more)

    def data_received(self, data: bytes) -> None:
        """Count what comes while a head is due."""
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES + len(data):  # a body may begin in the head's last piece
                self.transport.close()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request has begun; its head is due."""
        super().on_message_begin()
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._look_once_more)

    def on_headers_complete(self) -> None:
        """The head is here; the body has a deadline of its own where one is read."""
        self._head_has_come()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._head_has_come()
        super().connection_lost(exc)

    def _look_once_more(self) -> None:
        # uvloop runs timers before it reads.
        self._head_timer = self.loop.call_later(LAST_LOOK_SECONDS, self.transport.close)

    def _head_has_come(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._head_bytes = 0
