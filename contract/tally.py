"""Lines of a log that anybody can cause: the first of a kind is written, the others of its minute are counted.

So whoever knocks ten thousand times fills no disk and hides no other line.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

SECONDS: Final = 60.0
MOST_KINDS: Final = 64


class Tally:
    """One line and one count a minute for each kind of event. For use by several threads."""

    def __init__(self, write_count: Callable[[str, int], None], *, seconds: float = SECONDS) -> None:
        """`write_count` takes a kind and how many were not written; it is called in a thread of its own."""
        self._write_count = write_count
        self._seconds = seconds
        self._lock = threading.Lock()
        self._unwritten: Counter[str] | None = None

    def is_first(self, kind: str) -> bool:
        """Whether this event is to be written; else it is counted. `kind` is one of few, never words from outside."""
        with self._lock:
            if self._unwritten is None:
                self._unwritten = Counter()
                self._start()
            if kind in self._unwritten or len(self._unwritten) >= MOST_KINDS:
                self._unwritten[kind] += 1
                return False
            self._unwritten[kind] = 0
            return True

    def flush(self) -> None:
        """Write the counts, and begin anew."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten or Counter(), None
        for kind, count in unwritten.items():
            if count:
                self._write_count(kind, count)

    def _start(self) -> None:
        timer = threading.Timer(self._seconds, self.flush)
        timer.daemon = True
        timer.start()
