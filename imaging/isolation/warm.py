"""The warm process: it has loaded every decoder, and forks a confined child for each file.

Started with nothing of its parent's but one socket, and no environment. Each message there brings two sockets: on one
the child reads its file and answers, on the other this process tells how the child ended; if the parent closes that
one, the child is killed. The warm process itself reads no byte of a file, and ends with its parent.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final, NoReturn

from imaging.isolation.confinement import close_all_but, confine

_SOCKET, _ERRORS, _WORDS = 0, 2, 3
"""File descriptors of a child: its socket, standard error, and the pipe's other end; 1 is /dev/null. It has no more."""
ENDED: Final = struct.Struct("i")
"""How a child ended, as waitpid gives it."""
UNCONFINED: Final = 3
"""Exit status of a child that could not be confined, and read nothing."""

Answering = Callable[[int, int], None]
"""What a child does: with its socket, and with where to read what was written to standard error."""


@dataclass(frozen=True, kw_only=True)
class WarmProcess:
    """One process's children."""

    control: socket.socket
    answering: Answering
    cpu_seconds: int
    address_space: int
    children: dict[int, socket.socket] = field(default_factory=dict)
    """Process -> where to tell how it ended."""

    def serve(self) -> None:
        """Fork a child for every request until the parent is gone."""
        ended, ending = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ending, warn_on_full_buffer=False)
        while True:
            watched = {status.fileno(): process for process, status in self.children.items()}
            ready, _, _ = select.select([self.control.fileno(), ended, *watched], [], [])
            for one in ready:
                if one == self.control.fileno():
                    if not self._take():
                        return
                elif one == ended:
                    os.read(ended, 1 << 16)
                else:
                    os.kill(watched[one], signal.SIGKILL)
            self._bury()

    def _take(self) -> bool:
        """Fork a child for the next request; whether there was one."""
        message, descriptors, _, _ = socket.recv_fds(self.control, 1, 2)
        if not message:
            return False
        files, status = (socket.socket(fileno=one) for one in descriptors)
        with files, contextlib.suppress(BlockingIOError):  # no process may be left: the parent sees both sockets end
            if (process := os.fork()) == 0:
                self._become_child(files.fileno())
            self.children[process] = status
        return True

    def _become_child(self, files: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            words, errors = os.pipe2(os.O_NONBLOCK)
            for held, place in ((files, _SOCKET), (errors, _ERRORS), (words, _WORDS)):
                os.dup2(held, place)
            close_all_but(_WORDS)
            status = UNCONFINED
            confine(cpu_seconds=self.cpu_seconds, address_space=self.address_space)
            status = 1
            self.answering(_SOCKET, _WORDS)
            status = 0
        finally:
            os._exit(status)

    def _bury(self) -> None:
        """Tell how each child ended that has."""
        for process, status in list(self.children.items()):
            found, how = os.waitpid(process, os.WNOHANG)
            if found:
                del self.children[process]
                with status, contextlib.suppress(OSError):  # nobody may be waiting any more
                    status.send(ENDED.pack(how), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


def main() -> None:
    """Serve as the arguments say: socket, seconds, bytes of address space, and what children do (module:function)."""
    gc.disable()  # loading makes no rubbish
    sys.modules["requests"] = None  # type: ignore[assignment]  # pydicom would load it to fetch samples, if installed
    from imaging.isolation.confined import load_decoders  # with every decoder: this process's parent has none

    control, cpu_seconds, address_space = (int(argument) for argument in sys.argv[1:4])
    module, _, function = sys.argv[4].partition(":")
    load_decoders()
    os.environ.clear()
    gc.freeze()  # children leave the pages alone that are filled by now
    gc.enable()
    answering: Answering = getattr(import_module(module), function)
    with socket.socket(fileno=control) as socket_:
        WarmProcess(control=socket_, answering=answering, cpu_seconds=cpu_seconds, address_space=address_space).serve()
