"""Small files of keys and certificates: read with a bound, made with their mode, replaced whole or not at all."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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
    """Create a file, whole or not at all, with its mode from the first moment; never replace one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with new_file(path, mode=mode) as file:
            file.write(content)
    except FileExistsError:
        refuse_existing(path)
        raise ConfigurationError(f"{path}: is a dangling link; remove it") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


def write_new_together(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Create several files, by path content and mode, that are of no use without each other: all of them or none."""
    made: list[Path] = []
    try:
        for path, (content, mode) in files.items():
            write_new(path, content, mode=mode)
            made.append(path)
    except ConfigurationError:
        for path in made:
            path.unlink()
        raise


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Put a file in place of what stands at `path`, if anything: whoever reads it gets the old one or the new one."""
    try:
        with _written_aside(path, mode) as (aside, file):
            file.write(content)
            _finish(file)
            aside.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


@contextmanager
def new_file(path: Path, *, mode: int) -> Iterator[BinaryIO]:
    """A file to write into, that appears under its name, whole and durable, at the block's end; never replaces one.

    Raises OSError where the disk will not, and at the end where something has that name.
    """
    with _written_aside(path, mode) as (aside, file):
        yield file
        _finish(file)
        _name_new(aside, path)


@contextmanager
def _written_aside(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside `path`; it is gone at the block's end unless the block has renamed it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=INCOMING)
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield aside, file
    finally:
        aside.unlink(missing_ok=True)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _name_new(aside: Path, path: Path) -> None:
    """Give a file its name. Raises FileExistsError where something has it."""
    try:
        os.link(aside, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP}:
            raise
        if path.exists() or path.is_symlink():  # a file system that knows no links: a USB stick's, say
            raise FileExistsError from None
        aside.rename(path)


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in `folder` survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
