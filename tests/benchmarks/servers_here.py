"""A federation as `demonstration.deployment` sets it up, all of it in this process: nothing waits for one to start.

Every command line is the real one and the sockets are real; only no process is started for each: neither for a command,
nor for a server, nor for the data owner that a benchmark watches.
"""

import importlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from benchmarks.engines import product
from benchmarks.processes import Finished, cpu_seconds, peak_rss_bytes
from contract.identity import Role
from demonstration import deployment
from demonstration.commands import PROGRAMS
from plumbing.command_line import run

STOP_SECONDS = 90.0


class ServerHere:
    """One `serve` command in a thread. Has what `demonstration.deployment` asks of a server's process."""

    def __init__(self, program: str, arguments: tuple[str, ...], log: Path) -> None:
        self.program, self.log, self.process = program, log, self
        self.pid = os.getpid()
        self._uvicorn: uvicorn.Server | None = None
        self._ended: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(arguments,), name=program, daemon=True)
        log.touch()

    def _run(self, arguments: tuple[str, ...]) -> None:
        try:
            run(app_of(self.program), name=self.program, arguments=arguments)
        except BaseException as error:  # noqa: BLE001 - told by require_running, in the thread that waits
            self._ended = error

    def serves(self, server: uvicorn.Server) -> None:
        """Noted by uvicorn itself when it starts in this thread."""
        self._uvicorn = server

    def words(self) -> str:
        return repr(self._ended)

    def require_running(self) -> None:
        assert self.thread.is_alive(), f"{self.program} ended: {self._ended!r}"

    def poll(self) -> int | None:
        return None if self.thread.is_alive() else 0

    def terminate(self) -> None:
        limit = time.monotonic() + STOP_SECONDS
        while self._uvicorn is None and self.thread.is_alive() and time.monotonic() < limit:
            time.sleep(0.01)  # it is still starting
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def wait(self, timeout: float | None = None) -> int:
        self.thread.join(STOP_SECONDS)
        assert not self.thread.is_alive(), f"{self.program} does not stop"
        return 0


def app_of(program: str) -> Any:
    return importlib.import_module(PROGRAMS[program]).app


@contextmanager
def servers_here(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """While this lasts, every deployment runs here."""
    running: dict[threading.Thread, ServerHere] = {}
    one_at_a_time = threading.Lock()  # stdout is everybody's; once it is live, no server writes there
    started: Callable[..., None] = uvicorn.Server.run

    def call(program: str, *arguments: str, environment: Mapping[str, str], timeout_seconds: float = 0.0) -> str:
        output = io.StringIO()
        with one_at_a_time, redirect_stdout(output), pytest.raises(SystemExit) as ended:
            run(app_of(program), name=program, arguments=arguments)
        assert ended.value.code == 0, f"{program} {arguments[0]} failed"
        return output.getvalue()

    def run_watched(command: Sequence[str], *, name: str, environment: Mapping[str, str], **_limits: Any) -> Finished:
        _python, _c, _start, *arguments = command  # as `demonstration.commands.command` writes it
        before, begun = cpu_seconds(os.getpid()) or 0.0, time.monotonic()
        output = call(name, *arguments, environment=environment)
        spent, peak = cpu_seconds(os.getpid()) or 0.0, peak_rss_bytes(os.getpid()) or 0
        return Finished(
            output=output, peak_rss_bytes=peak, cpu_seconds=spent - before, seconds=time.monotonic() - begun
        )

    def serve(servers: dict[Role, Any], folder: Path, role: Role, _environment: Mapping[str, str]) -> None:
        arguments = ("serve", "--config", str(folder / f"{role.value}.toml"))
        server = ServerHere(role.value, arguments, folder / f"{role.value}.log")
        # Before it runs: on a busy machine it may serve before this thread's next line.
        servers[role] = running[server.thread] = server
        server.thread.start()

    def note(server: uvicorn.Server, *arguments: Any, **named: Any) -> None:
        if (here := running.get(threading.current_thread())) is not None:
            here.serves(server)
        started(server, *arguments, **named)

    with patch.context() as patched:
        patched.setattr(deployment, "call", call)
        patched.setattr(deployment, "_serve", serve)
        patched.setattr(uvicorn.Server, "run", note)
        patched.setattr(product, "run_watched", run_watched)
        yield
