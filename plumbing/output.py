"""What a command writes for its reader: whatever stands in it and wherever it goes, it is written or it is said.

A file's name may hold bytes that are no UTF-8, colours for a terminal, or an order to move its cursor; a terminal may
know ASCII only; a pipe may be closed and a disk full. None of it may end a command that has something to say.
"""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any, TextIO, cast

from pydantic import BaseModel

from contract.errors import ConfigurationError

_STDERR = 2


def printable(text: str) -> str:
    r"""The text on one line, with every character escaped that does not print: \x1b, \u202e, \xff.

    Also the bytes of a file's name that are no UTF-8, which Python holds as lone surrogates (PEP 383).
    """
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def is_file_name_byte(character: str) -> bool:
    """Whether it stands for a byte of a file's name that is no UTF-8."""
    return "\udc80" <= character <= "\udcff"


def _escaped(character: str) -> str:
    number = ord(character)
    if is_file_name_byte(character):
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def shown_path(path: Path) -> str:
    """A file's name for people."""
    return printable(str(path))


def path_text(path: Path) -> str:
    """A file's name as text that every reader of JSON takes: as it is, or with its bytes escaped if it is no UTF-8.

    `path_bytes` then has the name itself.
    """
    text = str(path)
    return text if path_bytes(path) is None else printable(text)


def path_bytes(path: Path) -> str | None:
    """A file's name in hexadecimal, if it is no UTF-8 and no text can hold it; else None."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return os.fsencode(path).hex()
    return None


def json_line(result: BaseModel) -> str:
    """A result as one line of JSON, in ASCII: no terminal, encoding or reader is upset by it."""
    text = json.dumps(result.model_dump(mode="json"), separators=(",", ":"))
    return text.replace("\x7f", "\\u007f")


def write_out(text: str) -> None:
    """Write a result and a line's end to stdout. Characters that its encoding lacks are escaped.

    Raises ConfigurationError if stdout is closed, its reader gone or its disk full; it is closed from then on.
    """
    stream = cast("TextIO | None", sys.stdout)
    if stream is None:
        raise ConfigurationError("the output cannot be written: standard output is closed")
    try:
        _write(stream, f"{text}\n")
    except (OSError, ValueError) as error:
        _silence(stream)
        sys.stdout = cast("TextIO", None)  # closed: what is written next must not vanish without a word
        why = error.strerror if isinstance(error, OSError) else "it is closed"
        raise ConfigurationError(f"the output cannot be written to standard output ({why})") from None


def fill_standard_streams() -> None:
    """Let descriptors 0 to 2 that were closed lead nowhere: else the next file or connection that is opened gets one.

    A library that writes to stderr would then write into it, and libuv ends a process that closes one of them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class Bystander:
    """A stream for people that fails silently: what nobody can read may stop nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`; None: to nobody."""
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                _write(self._stream, text)
            except (OSError, ValueError):
                _silence(self._stream)
                self._stream = None
        return len(text)

    def flush(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a stream: whether it is a terminal, its encoding."""
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


def for_people() -> IO[str]:
    """Stderr, as a Bystander."""
    return cast("IO[str]", Bystander(sys.stderr))


def _write(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _silence(stream: TextIO) -> None:
    """Let nothing of a stream's buffer be tried again: at the interpreter's end it would change the exit status."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
    except (OSError, ValueError):
        return  # no file of the system's: its buffer ends with it
