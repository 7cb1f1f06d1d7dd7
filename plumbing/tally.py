"""Lines of a log that anybody can cause: the first of a kind is written, the others of its minute are counted.

So whoever knocks ten thousand times fills no disk and hides no other line.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

SECONDS: Final = 60.0
MOST_KINDS: Final = 64


class Tally:
    """One line and one count a minute for each kind of event. For use by several threads.

    A count is written with the first event after its minute, or by `flush` when the server ends: no thread waits.
    """

    def __init__(self, write_count: Callable[[str, int], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`write_count` takes a kind and how many were not written."""
        self._write_count = write_count
        self._clock = clock
        self._lock = threading.Lock()
        self._unwritten: Counter[str] = Counter()
        self._ends = clock() + SECONDS

    def is_first(self, kind: str) -> bool:
        """Whether this event is to be written; else it is counted. `kind` is one of few, never words from outside."""
        if self._clock() >= self._ends:
            self.flush()
        with self._lock:
            if kind in self._unwritten or len(self._unwritten) >= MOST_KINDS:
                self._unwritten[kind] += 1
                return False
            self._unwritten[kind] = 0
            return True

    def flush(self) -> None:
        """Write the counts, and begin again."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, Counter()
            self._ends = self._clock() + SECONDS
        for kind, count in unwritten.items():
            if count:
                self._write_count(kind, count)
