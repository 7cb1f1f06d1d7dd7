"""The warm process as its parent sees it: started when it is first needed, asked for a confined child for each file."""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import ConfigurationError

MOST_SECONDS: Final = 60
"""Of a processor's time for one file. The largest pictures that are read take a third of it."""
MOST_WAITING: Final = 180.0
"""Seconds by the clock for one file, on a machine that has other things to do."""
MOST_ADDRESS_SPACE: Final = 4 << 30
"""Bytes of memory for one file."""
_STOP_SECONDS: Final = 5.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_START: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from imaging.isolation.warm import main; main()"
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""While libraries load; emptied before the first file comes."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one file may take."""

    cpu_seconds: int = MOST_SECONDS
    wall_seconds: float = MOST_WAITING
    address_space: int = MOST_ADDRESS_SPACE


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that waits for a file. It is killed when both sockets are closed."""

    connection: socket.socket
    """To it."""
    status: socket.socket
    """On which the warm process tells how it ended (`warm.ENDED`); closed without that if no child could be had."""


@dataclass(frozen=True, kw_only=True)
class _Running:
    """A warm process."""

    parent: int
    process: subprocess.Popen[bytes]
    control: socket.socket


class Processes:
    """Starts a warm process when it is first needed, and another when that has ended. Threads may share it."""

    def __init__(self, bounds: Bounds, *, answering: str = "imaging.isolation.confined:answer_requests") -> None:
        """`answering`: what children do (module:function). Nothing is started yet."""
        self.bounds = bounds
        self._arguments = (str(bounds.cpu_seconds), str(bounds.address_space), answering)
        self._lock = threading.Lock()
        self._warm: _Running | None = None

    @contextmanager
    def child(self) -> Iterator[Child]:
        """A confined process, gone at the end. Raises ConfigurationError if none can be had."""
        connection, its_connection = socket.socketpair()
        status, its_status = socket.socketpair()
        with connection, status:
            with its_connection, its_status:
                self._hand_over([its_connection.fileno(), its_status.fileno()])
            yield Child(connection=connection, status=status)

    @property
    def warm(self) -> int | None:
        """The warm process's number; None if there is none."""
        return None if self._warm is None else self._warm.process.pid

    def start(self) -> None:
        """Begin to load decoders, so that the first file need not wait. Raises ConfigurationError."""
        self._running()

    def close(self) -> None:
        """End the warm process, and with it all that it reads."""
        with self._lock:
            warm, self._warm = self._warm, None
        if warm is None:
            return
        warm.control.close()
        if warm.parent != os.getpid():
            return
        try:
            warm.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            warm.process.kill()
            warm.process.wait()

    def _hand_over(self, descriptors: list[int]) -> None:
        """Send a child's sockets to the warm process, or to another one if that has ended since the last file."""
        for _ in range(2):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._running(), [b"."], descriptors)
                return
        raise ConfigurationError(
            "the process that reads pictures ends as soon as it starts: install the software again, and check that "
            "this machine has memory left"
        )

    def _running(self) -> socket.socket:
        with self._lock:
            warm = self._warm
            if warm is not None and warm.parent == os.getpid() and warm.process.poll() is not None:
                warm.control.close()
                warm = None
            if warm is None or warm.parent != os.getpid():  # after a fork the other process has its own
                warm = self._started()
            self._warm = warm
            return warm.control

    def _started(self) -> _Running:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [sys.executable, "-I", "-c", _START, str(_ROOT), str(its.fileno()), *self._arguments]
        with its:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    env=_ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,  # whoever interrupts a command at the terminal does not interrupt this one
                )
            except OSError as error:
                ours.close()
                raise ConfigurationError(
                    f"the process that reads pictures cannot be started ({error.strerror}): free memory or processes"
                ) from error
        atexit.register(self.close)
        return _Running(parent=os.getpid(), process=process, control=ours)


SHARED: Final = Processes(Bounds())
"""Read every file of this process. It holds no more than a process of its own, from the first file or `start` on."""
