"""Whether a server could serve a session now, found out by doing a little of what a session does.

The answer is public: it names what is wrong by a code out of a fixed list and nothing else, no path, host or number.
The operator finds the rest in the server's log, once when something goes wrong and once when it is well again.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from contract.api import Health, Unready
from contract.errors import AuditLogBroken, ConfigurationError, EncryptedInferenceError

ROOM_BYTES: Final = 64 << 20
"""Less than this free on the disk of a server's data folder, and it is about to be full."""
CHECK_SECONDS: Final = 5.0
"""An answer this old is given again: whoever asks often costs nothing."""
PATIENCE_SECONDS: Final = 3.0
"""For another party to answer."""
_TRIAL_BYTES: Final = 4096

Look = Callable[[], None]
"""Looks at one thing. Raises an error of the tree, whose words are for the operator, if it would stop a session."""


@dataclass(repr=False, eq=False)
class Readiness:
    """What a server needs, looked at when somebody asks. For use by several threads."""

    looks: Mapping[Unready, Look]
    """By the code of what they look at."""
    tell: Callable[[str], None]
    """Told in a line what changed."""
    seconds: float = CHECK_SECONDS
    """Between looks."""
    clock: Callable[[], float] = time.monotonic
    _looking: threading.Lock = field(default_factory=threading.Lock, init=False)
    _found: tuple[float, tuple[Unready, ...]] | None = field(default=None, init=False)

    def lacks(self) -> tuple[Unready, ...]:
        """Codes of what is wrong; empty: a session would be served.

        One thread looks at a time; who asks meanwhile is given what was found before.
        """
        found = self._found
        if found is not None and (self.clock() - found[0] < self.seconds or self._looking.locked()):
            return found[1]
        with self._looking:
            if self._found is None or self.clock() - self._found[0] >= self.seconds:
                self._found = (self.clock(), self._look(before=self._found[1] if self._found else ()))
            return self._found[1]

    def _look(self, *, before: tuple[Unready, ...]) -> tuple[Unready, ...]:
        lacks = []
        for code, look in self.looks.items():
            try:
                look()
            except EncryptedInferenceError as error:
                named = Unready.AUDIT_LOG_BROKEN if isinstance(error, AuditLogBroken) else code
                lacks.append(named)
                if named not in before:
                    self.tell(f"not ready ({named.value}): {error}")
        if before and not lacks:
            self.tell("ready again")
        return tuple(lacks)


def make_health(lacks: tuple[Unready, ...], *, now: datetime) -> Health:
    """The answer to whoever asks."""
    return Health(status="not-ready" if lacks else "ready", time=now, reasons=lacks)


def require_writable(folder: Path, *, room_bytes: int = ROOM_BYTES) -> None:
    """Raise ConfigurationError unless a file can be written in a folder and some room is left."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: cannot be written ({error.strerror}); free space or correct its permissions"
        ) from error
    if free < room_bytes:
        raise ConfigurationError(
            f"{folder}: {free >> 20} MiB are left on its disk, less than {room_bytes >> 20}; free space"
        )
