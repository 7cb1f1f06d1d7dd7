"""Small files of keys and certificates: read with a bound, made with their mode, replaced whole or not at all."""

import os
import stat
import tempfile
from pathlib import Path

from contract.errors import ConfigurationError

MAX_PEM_BYTES = 64 * 1024
INCOMING = ".incoming-"
"""Begins the name of a file that is not whole yet."""


def read_bounded(path: Path, *, limit: int = MAX_PEM_BYTES) -> bytes:
    """The file's bytes. Raises ConfigurationError where it cannot be read or is larger than `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > limit:
        raise ConfigurationError(f"{path}: larger than {limit} bytes; give the right file")
    return content


def refuse_existing(path: Path) -> None:
    """Raise ConfigurationError where something stands at `path`."""
    if path.exists():
        raise ConfigurationError(f"{path}: exists already and is not overwritten; choose another folder or move it")


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Create the file with its mode from the first moment; never replace one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        refuse_existing(path)
        raise ConfigurationError(f"{path}: is a dangling link; remove it") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Put a file in place of what stands at `path`, if anything: whoever reads it gets the old one or the new one."""
    name = ""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=INCOMING)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


def private_folder(folder: Path, *, check: bool = True) -> None:
    """Make a folder that only its owner can look into (0700), with what is missing above it.

    `check`: refuse one that stands there and lets others in. Raises ConfigurationError.
    """
    try:
        # `parents=True` would make those above with the mode of everybody's files.
        for parent in reversed([folder, *folder.parents]):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be made ({error.strerror}); correct its permissions") from error
    if not stat.S_ISDIR(mode):
        raise ConfigurationError(f"{folder} cannot be made (a file is in its place); move that away")
    if check and mode & 0o077:
        raise ConfigurationError(f"{folder}: other accounts can look into it; run `chmod 700` on it")
