"""A decoder in the hands of whoever made the file: it does what the file says, and decodes nothing."""

import ctypes
import errno
import json
import os
import resource
import signal
import socket as sockets
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from imaging.formats import FileFormat, PolaritySource
from imaging.isolation.messages import LENGTH_BYTES, PatientWords, Picture, Refusal, Request

ROWS, COLUMNS = 3, 4


def answer_requests(socket: int, words: int) -> None:
    """A request says how long its file is, and the file is the name of what to do."""
    count = 0
    while length := os.read(socket, LENGTH_BYTES):
        request = Request.model_validate_json(os.read(socket, *struct.unpack(">I", length)))
        order, count = os.read(socket, request.file_bytes).decode(), count + 1
        os.write(socket, message(picture(frames=count), pixels()) if order == "count" else DOES[order]())


def message(header: bytes, arrays: bytes = b"") -> bytes:
    return struct.pack(">I", len(header)) + header + arrays


def picture(**changes: Any) -> bytes:
    told: dict[str, Any] = {
        "format": FileFormat.PNG,
        "rows": ROWS,
        "columns": COLUMNS,
        "encoding": "grey",
        "frames": 1,
        "frame": 1,
        "modality": None,
        "body_part": None,
        "other_body_parts": (),
        "views": (),
        "polarity": PolaritySource.NOBODY,
        "years": frozenset(),
        "warnings": (),
        "has_values": False,
        "inverted": False,
        "window": None,
    }
    return Picture.model_construct(**told | changes).model_dump_json(warnings=False).encode()


def pixels(value: float = 0.5) -> bytes:
    return np.full((ROWS, COLUMNS), value, "<f4").tobytes()


def crash() -> bytes:
    return ctypes.string_at(1)


def wait() -> bytes:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
    return b""


def work() -> bytes:
    while True:
        pass


def work_on() -> bytes:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    return work()


def take_memory() -> bytes:
    return bytes(1 << 32)


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, RuntimeError, ValueError) as error:
        return type(error).__name__
    return "done"


ATTEMPTS: Mapping[str, Callable[[], object]] = MappingProxyType(
    {
        "read a file": lambda: Path("/etc/hostname").read_bytes(),
        "write a file": lambda: Path("/tmp/written").write_bytes(b""),
        "list a folder": lambda: list(Path("/").iterdir()),
        "look at a file": lambda: Path("/etc/hostname").stat(),
        "remove a file": lambda: Path("/tmp/written").unlink(),
        "connect": sockets.socket,
        "connect on this machine": sockets.socketpair,
        "start a process": os.fork,
        "start a thread": lambda: threading.Thread(target=print).start(),
        "become a program": lambda: os.execv("/bin/true", ["true"]),
        "signal the parent": lambda: os.kill(os.getppid() or 1, 0),
        "signal another": lambda: os.kill(1, 0),
        "duplicate": lambda: os.dup(0),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)),
        "become somebody": lambda: os.setuid(65534),
        "have a name space": lambda: _call("unshare", 0x10000000),
        "trace": lambda: _call("ptrace", 0, 0, 0, 0),
    }
)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def _is_held(descriptor: int) -> bool:
    try:
        os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def report() -> bytes:
    """What it finds, in the words of a refusal."""
    found = {
        "environment": dict(os.environ),
        "held": [descriptor for descriptor in range(256) if _is_held(descriptor)],
        "attempts": {name: _outcome(attempt) for name, attempt in ATTEMPTS.items()},
    }
    return message(Refusal.model_construct(text=json.dumps(found)).model_dump_json().encode())


WARNING = {"code": "x", "text": "y", "needs_confirmation": False}
DOES: Mapping[str, Callable[[], bytes]] = MappingProxyType(
    {
        "lie": lambda: message(picture(), pixels()),
        "crash": crash,
        "abort": os.abort,
        "give up": lambda: os._exit(0),
        "wait": wait,
        "work": work,
        "work on": work_on,
        "take memory": take_memory,
        "report": report,
        "say nothing": lambda: b"",
        "talk rubbish": lambda: b"\xff" * 4096,
        "promise a long header": lambda: struct.pack(">I", 1 << 31),
        "say what is no JSON": lambda: message(b"}{"),
        "nest": lambda: message(b"[" * 100_000),
        "be another kind": lambda: message(b'{"kind":"order"}'),
        "say more": lambda: message(picture()[:-1] + b',"extra":1}', pixels()),
        "promise many pixels": lambda: message(picture(rows=1 << 30, columns=1 << 30), pixels()),
        "promise no pixels": lambda: message(picture(rows=0), b""),
        "promise negative pixels": lambda: message(picture(rows=-3, columns=-4), pixels()),
        "send less": lambda: message(picture(), pixels()[:-1]),
        "send more": lambda: message(picture(), pixels() + b"\0"),
        "send values unasked": lambda: message(picture(has_values=True), pixels() * 2),
        "send what is no number": lambda: message(picture(), pixels(float("nan"))),
        "send endless pixels": lambda: message(picture(), pixels(float("inf"))),
        "send pixels that are too bright": lambda: message(picture(), pixels(1.5)),
        "speak for a patient": lambda: message(PatientWords().model_dump_json().encode()),
        "write to the terminal": lambda: message(picture(encoding="\x1b[2J"), pixels()),
        "turn the text": lambda: message(picture(modality="\u202eXD"), pixels()),
        "break the line": lambda: message(b'{"kind":"refusal","text":"fine\\nroot logged in"}'),
        "say much": lambda: message(b'{"kind":"refusal","text":"' + b"x" * 2000 + b'"}'),
        "name a code": lambda: message(picture(warnings=[WARNING | {"code": "<b>"}]), pixels()),
        "warn for ever": lambda: message(picture(warnings=[WARNING] * 1000), pixels()),
        "know many ages": lambda: message(picture(years=[1, 2, 3]), pixels()),
        "know an old patient": lambda: message(picture(years=[900]), pixels()),
    }
)
