"""From an event loop to worker threads and back: a byte stream whose messages an asyncio connection carries."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from secure_computation.channel.stream import BufferedStream, Deadline, InboundBuffer, Piece

INBOUND_BYTES = 128 << 20
"""What the loop takes in while nobody reads, then the peer is held back. It must exceed what two parties may both
write before they read (`channel.EXCHANGE_AHEAD_BYTES`, 32 MiB), and bounds the memory a peer can occupy."""

OUTBOUND_BYTES = 4 << 20
"""What a writer may hand over before it waits for the connection to take it."""

CLOSE_SECONDS = 5.0
"""How long `close` waits for bytes already written to leave, before it drops them."""


class BridgedStream(BufferedStream):
    """Sync stream for worker threads on an asyncio connection that lives in `loop`.

    The loop's side is `run`: it moves messages both ways until the connection ends or `close` has been called and all
    is sent. `receive` returns None when the connection has ended; `send` may wait, which holds writers back.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        receive: Callable[[], Awaitable[bytes | None]],
        send: Callable[[bytes], Awaitable[bool]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Nothing moves before `run`. `send` returns False once the connection has ended; `close` ends it."""
        super().__init__(InboundBuffer(on_freed=self._on_freed))
        self._loop = loop
        self._receive = receive
        self._send = send
        self._close = close
        self._room = asyncio.Event()
        self._most_inbound = INBOUND_BYTES
        self._changed = threading.Condition()
        self._outbound: deque[bytes] = deque()
        self._unsent = 0
        self._work = asyncio.Event()
        self._aborted = asyncio.Event()
        self._closing = False
        self._interrupted: str | None = None
        self._ended = False
        self._finished = threading.Event()

    # The worker's side

    def write(self, pieces: Sequence[Piece], deadline: Deadline) -> None:
        """See ByteStream. All pieces together become one message."""
        message = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        with self._changed:
            self._changed.wait_for(self._can_decide, deadline.remaining())
            if self._ended or self._closing:
                raise deadline.disconnected("connection closed")
            if self._unsent >= OUTBOUND_BYTES:
                raise deadline.exceeded() if self._interrupted is None else deadline.cancelled(self._interrupted)
            was_empty = not self._outbound
            self._outbound.append(message)
            self._unsent += len(message)
        if was_empty:
            self._call(self._work.set)

    def _can_decide(self) -> bool:
        return self._unsent < OUTBOUND_BYTES or self._ended or self._closing or self._interrupted is not None

    def hold_back(self, most: int | None) -> None:
        self._most_inbound = INBOUND_BYTES if most is None else most
        self._call(self._room.set)

    def interrupt(self, reason: str) -> None:
        super().interrupt(reason)
        with self._changed:
            self._interrupted = self._interrupted or reason
            self._changed.notify_all()

    def close(self) -> None:
        """See ByteStream. Waits up to CLOSE_SECONDS for bytes already written; call it from a worker thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._call(self._work.set)
        if not self._finished.wait(CLOSE_SECONDS):
            self._call(self._aborted.set)

    def _call(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop has been closed, and `run` with it
            self._end()
            self._finished.set()

    def _on_freed(self, before: int, after: int) -> None:
        if before >= self._most_inbound > after:
            self._call(self._room.set)

    # The loop's side

    async def run(self) -> None:
        """Carry messages until the connection ends or this side has closed and everything is sent."""
        pump: asyncio.Task[Any] = asyncio.create_task(self._pump())
        drain: asyncio.Task[Any] = asyncio.create_task(self._drain())
        abort: asyncio.Task[Any] = asyncio.create_task(self._aborted.wait())
        try:
            done, _ = await asyncio.wait((pump, drain, abort), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._end()
            for task in (pump, drain, abort):
                task.cancel()
            await asyncio.gather(pump, drain, abort, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._close()
            self._finished.set()

    async def _pump(self) -> None:
        while (message := await self._receive()) is not None:
            self._room.clear()
            held = self._inbound.append(message)
            if held is not None and held >= self._most_inbound:
                await self._room.wait()

    async def _drain(self) -> None:
        while True:
            with self._changed:
                message = self._outbound.popleft() if self._outbound else None
                if message is None:
                    if self._closing:
                        return
                    self._work.clear()
            if message is None:
                await self._work.wait()
                continue
            if not await self._send(message):
                return
            with self._changed:
                self._unsent -= len(message)
                self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._inbound.end("connection closed")
