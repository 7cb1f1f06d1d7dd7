"""Child processes that never outlive their parent, and their environment."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from contract.errors import ConfigurationError

STOP_SECONDS = 8.0
LAST_WORDS_BYTES = 4000

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Flower informs nobody that it runs, asks for no newer version, and installs nothing that an application names."""


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of a Flower process; what it keeps stays in `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    return inherited | QUIET | {"FLWR_HOME": str(home)}


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def end_with_parent() -> None:
    """Watch the parent from a thread; when it has gone, end as if interrupted, and for good after some seconds."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Child(subprocess.Popen[bytes]):
    """One child process, its output in a file. As a context manager it is stopped at the end, whatever happened."""

    def __init__(
        self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str], keep_open: Sequence[int] = ()
    ) -> None:
        """Start `python ARGUMENTS`; it must call `end_with_parent` itself. It inherits the files `keep_open`."""
        self.log = log
        with log.open("ab") as output:
            super().__init__(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                pass_fds=keep_open,
                # A terminal's Ctrl-C goes to the parent alone, which then ends its children in order.
                start_new_session=True,
            )

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ended(self, *, within_seconds: float = 0.0) -> bool:
        """Whether it ends in this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(within_seconds)
        return self.returncode is not None

    def stop(self) -> None:
        """Ask it to end, and make it if it does not."""
        self.terminate()
        if not self.ended(within_seconds=STOP_SECONDS):
            self.kill()
            self.wait()

    def read_last_words(self) -> str:
        """The end of its output."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LAST_WORDS_BYTES))
            return file.read().decode(errors="replace")


@contextlib.contextmanager
def repeating(look: Callable[[], bool | None], *, seconds: float, at_once: bool = False) -> Iterator[None]:
    """Call `look` from a thread, every so many seconds, while the block lasts and until it says True."""
    done = threading.Event()

    def repeat() -> None:
        finished = at_once and look()
        while not finished and not done.wait(seconds):
            finished = look()

    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def stop_all(children: Mapping[str, Child]) -> None:
    """Stop them in the time of one."""
    for child in children.values():
        child.terminate()
    for child in children.values():
        child.stop()


@contextlib.contextmanager
def hold_lock(path: Path, *, seconds: float, what: str) -> Iterator[int]:
    """Hold the file's lock; the descriptor, when a child keeps it open, holds the lock as long as the child lives.

    Raises ConfigurationError if another process has it for longer than `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= end:
                    raise ConfigurationError(
                        f"{path.parent}: {what} runs there already; stop it, or give another folder"
                    ) from None
            time.sleep(0.1)
        yield file.fileno()


def wait_for_port(child: Child, *, host: str, port: int, seconds: float, what: str) -> None:
    """Until `child` listens. Raises ConfigurationError when it ends before, or takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if child.ended():
            raise ConfigurationError(f"{what} ended while it started: read {child.log}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.05)
    raise ConfigurationError(f"{what} does not listen on {host}:{port} after {seconds:.0f} s: read {child.log}")
