"""Byte streams: what a channel runs on, whatever carries the bytes. Blocking, for worker threads."""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from contract.errors import DeadlineExceeded, PeerDisconnected, SessionCancelled
from contract.roles import OtherEnd

Piece: TypeAlias = bytes | memoryview
"""Bytes to write; a memoryview must be of format B and contiguous."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """One wait: for whom, in which step, until when. Knows the words for its own end."""

    peer: str
    step: str
    seconds: float
    party: OtherEnd | None = None
    """Who `peer` is, if that is known."""
    started: float = field(default_factory=time.monotonic)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.started + self.seconds - time.monotonic())

    def exceeded(self) -> DeadlineExceeded:
        """The wait took too long."""
        waited = time.monotonic() - self.started
        return DeadlineExceeded(peer=self.peer, step=self.step, waited_seconds=waited, party=self.party)

    def disconnected(self, why: str) -> PeerDisconnected:
        """The connection ended during the wait."""
        words = f"{self.peer} disconnected in step '{self.step}' ({why}): start a new session"
        return PeerDisconnected(words, peer=self.peer, party=self.party)

    def cancelled(self, reason: str) -> SessionCancelled:
        """This side gave up."""
        return SessionCancelled(f"the session with {self.peer} was cancelled in step '{self.step}': {reason}")


class ByteStream(ABC):
    """Two-way stream of bytes to one peer.

    One thread may write while another reads; `interrupt` and `close` may be called from anywhere. Every wait ends with
    its deadline (DeadlineExceeded), with the connection (PeerDisconnected) or with `interrupt` (SessionCancelled).
    """

    @abstractmethod
    def write(self, pieces: Sequence[Piece], deadline: Deadline) -> None:
        """Send all pieces in order. On return the caller may reuse their memory."""

    @abstractmethod
    def read_some(self, deadline: Deadline) -> memoryview:
        """The next bytes, at least one, as many as are at hand up to a chunk."""

    @abstractmethod
    def read_into(self, view: memoryview, deadline: Deadline) -> None:
        """Fill `view` (format B, contiguous) completely."""

    def hold_back(self, most: int | None) -> None:
        """Take in at most about `most` bytes that nobody reads; None: as usual. In memory there is no bound."""
        del most

    @abstractmethod
    def interrupt(self, reason: str) -> None:
        """Wake whoever waits for the peer, with SessionCancelled; later reads fail likewise, writes still pass."""

    @abstractmethod
    def close(self) -> None:
        """End the connection. The peer sees PeerDisconnected after the bytes already written. Never raises."""


CHUNK_COST = 256
"""Bytes of memory that a chunk takes beside its own: without it, a flood of tiny messages would look small."""


class InboundBuffer:
    """Bytes that arrived and wait to be read: filled by a transport, emptied by one reader thread."""

    def __init__(self, *, on_freed: Callable[[int, int], None] | None = None) -> None:
        """Start empty. `on_freed(before, after)` tells the transport how much memory is held when a read frees some."""
        self._changed = threading.Condition()
        self._chunks: deque[tuple[memoryview, int]] = deque()
        self._held = 0
        self._ended: str | None = None
        self._interrupted: str | None = None
        self._on_freed = on_freed

    def append(self, data: bytes) -> int | None:
        """Add bytes that arrived; return the memory now held. None, and they are dropped, once the stream has ended."""
        with self._changed:
            if self._ended is not None:
                return None
            if data:
                cost = len(data) + CHUNK_COST
                self._chunks.append((memoryview(data), cost))
                self._held += cost
                self._changed.notify()
            return self._held

    def end(self, why: str) -> None:
        """Nothing follows: readers see PeerDisconnected after what has arrived. The first reason stays."""
        with self._changed:
            self._ended = self._ended or why
            self._changed.notify_all()

    def interrupt(self, reason: str) -> None:
        """Make every read fail with SessionCancelled."""
        with self._changed:
            self._interrupted = self._interrupted or reason
            self._changed.notify_all()

    def read_some(self, deadline: Deadline, limit: int | None = None) -> memoryview:
        """The next bytes, at least one and at most `limit`."""
        with self._changed:
            ready = self._changed.wait_for(
                lambda: self._chunks or self._ended is not None or self._interrupted is not None, deadline.remaining()
            )
            if self._interrupted is not None:
                raise deadline.cancelled(self._interrupted)
            if not ready:
                raise deadline.exceeded()
            if not self._chunks:
                raise deadline.disconnected(self._ended or "connection ended")
            chunk, cost = self._chunks.popleft()
            if limit is not None and len(chunk) > limit:
                self._chunks.appendleft((chunk[limit:], cost))
                return chunk[:limit]
            before, self._held = self._held, self._held - cost
            after = self._held
        if self._on_freed is not None:
            self._on_freed(before, after)
        return chunk

    def read_into(self, view: memoryview, deadline: Deadline) -> None:
        """Fill `view` completely."""
        filled = 0
        while filled < len(view):
            chunk = self.read_some(deadline, limit=len(view) - filled)
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)


class BufferedStream(ByteStream):
    """A stream whose transport fills an InboundBuffer."""

    def __init__(self, inbound: InboundBuffer) -> None:
        """Read from `inbound`."""
        self._inbound = inbound

    def read_some(self, deadline: Deadline) -> memoryview:
        return self._inbound.read_some(deadline)

    def read_into(self, view: memoryview, deadline: Deadline) -> None:
        self._inbound.read_into(view, deadline)

    def interrupt(self, reason: str) -> None:
        self._inbound.interrupt(reason)
