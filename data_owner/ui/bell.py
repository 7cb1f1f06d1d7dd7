"""Tells browsers that something has changed: threads ring, requests wait."""

import asyncio
import threading


class Bell:
    """A number that grows with each change, and those who wait for the next."""

    def __init__(self) -> None:
        """Nothing has changed yet."""
        self._lock = threading.Lock()
        self._revision = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._closed = False

    def ring(self) -> None:
        """Something has changed. From any thread."""
        with self._lock:
            self._revision += 1
            waiting = tuple(self._waiting)
            self._waiting.clear()
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Nobody waits any more, now or later."""
        self._closed = True
        self.ring()

    async def wait(self, *, since: int, seconds: float) -> int:
        """The revision, when it is another than `since` or the time is over."""
        event = asyncio.Event()
        one = (asyncio.get_running_loop(), event)
        with self._lock:
            if self._revision != since or self._closed:
                return self._revision
            self._waiting.add(one)
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting.discard(one)
        return self._revision
