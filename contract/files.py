"""The one place that makes private files, and that puts files in place whole and durably.

The bytes are synced, then the file gets its name, then the folder is synced, all before the function returns. Whoever
reads meanwhile gets the old file or the new one. The next writer removes what one that was killed has left. A private
file is private from its first byte on.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from contract.errors import ConfigurationError

PRIVATE: Final = 0o600
"""For the account alone that writes it."""
PUBLIC: Final = 0o644
MAX_PEM_BYTES = 64 * 1024
INCOMING = ".incoming-"
"""Begins the name of a file that is not whole yet. Its writer holds a lock on it."""


def read_bounded(path: Path, *, limit: int = MAX_PEM_BYTES) -> bytes:
    """The file's bytes. Raises ConfigurationError if it cannot be read or is larger than `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > limit:
        raise ConfigurationError(f"{path}: larger than {limit} bytes; give the right file")
    return content


def refuse_existing(path: Path) -> None:
    """Raise ConfigurationError if something stands at `path`."""
    if path.exists():
        raise ConfigurationError(f"{path}: exists already and is not overwritten; choose another folder or move it")


# Whole files


def write_new(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Create a file, with the folders above it. Raises ConfigurationError, also if something has that name."""
    try:
        with explaining_failure(path):
            _make_folders(path.parent)
            create(path, content, mode=mode)
    except FileExistsError:
        refuse_existing(path)
        raise ConfigurationError(f"{path}: is a dangling link; remove it") from None


def create(path: Path, content: bytes, *, mode: int | None = PRIVATE) -> None:
    """Create a file, with a mode as in `new_file`. Raises OSError, FileExistsError if something has that name."""
    with new_file(path, mode=mode) as file:
        file.write(content)


def copy_new(source: Path, target: Path) -> None:
    """Copy a file with its mode. Raises OSError, FileExistsError if something has the name of the copy."""
    with source.open("rb") as reading:
        mode = stat.S_IMODE(os.fstat(reading.fileno()).st_mode)
        with new_file(target, mode=mode) as writing:
            shutil.copyfileobj(reading, writing)


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


def replace(path: Path, content: bytes, *, mode: int | None = PRIVATE) -> None:
    """Put a file in place of what stands at `path`, if anything. Raises ConfigurationError. `mode`: see `new_file`."""
    with explaining_failure(path), replacing_file(path, mode=mode) as file:
        file.write(content)


def try_to_replace(path: Path, content: bytes) -> bool:
    """Put a private file in place of what stands at `path`. False if the disk will not."""
    try:
        replace(path, content)
    except ConfigurationError:
        return False
    return True


@contextmanager
def explaining_failure(path: Path) -> Iterator[None]:
    """Make of an OSError in the block, other than FileExistsError, a ConfigurationError that says what to do."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


# Files that are written piece by piece


@contextmanager
def new_file(path: Path, *, mode: int | None = PRIVATE) -> Iterator[BinaryIO]:
    """A file to write into, that appears under its name at the block's end; never replaces one.

    `mode`: None leaves it to the umask. Raises OSError if the disk will not, and at the end FileExistsError if
    something has that name. A block that fails leaves nothing.
    """
    with _write_aside(path, mode) as (aside, file):
        yield file
        _finish(file)
        _name_new(aside, path)
    sync_folder(path.parent)


@contextmanager
def replacing_file(path: Path, *, mode: int | None = PRIVATE, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write into, that takes the place of what stands at `path`, if anything, at the block's end.

    `mode`: as in `new_file`. `durable`: give False for what need not survive a power cut. Raises OSError if the disk
    will not. A block that fails leaves what was there before.
    """
    with _write_aside(path, mode) as (aside, file):
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
        aside.replace(path)  # before the file is closed, which ends its lock
    if durable:
        sync_folder(path.parent)


@contextmanager
def _write_aside(path: Path, mode: int | None) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside `path`; it is gone at the block's end unless the block has renamed it."""
    remove_abandoned(path.parent)
    aside, descriptor = _open_aside(path.parent, 0o666 if mode is None else PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield aside, file
    finally:
        aside.unlink(missing_ok=True)


def _open_aside(folder: Path, mode: int) -> tuple[Path, int]:
    """A new file that is locked, which says that its writer lives."""
    while True:
        aside = folder / f"{INCOMING}{secrets.token_hex(8)}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):  # a file system without locks, where nobody takes it for abandoned either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return aside, descriptor
        os.close(descriptor)  # somebody took it for abandoned before the lock was ours


def remove_abandoned(folder: Path) -> None:
    """Delete what writers left unfinished in `folder` that were killed."""
    for path in folder.glob(f"{INCOMING}{'[0-9a-f]' * 16}"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _name_new(aside: Path, path: Path) -> None:
    """Give a file its name. Raises FileExistsError if something has it."""
    try:
        os.link(aside, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP}:
            raise
        if path.exists() or path.is_symlink():  # a file system that knows no links: a USB stick's, say
            raise FileExistsError from None
        aside.rename(path)


# Files that grow, and files that only have to be there


def open_new(path: Path) -> BinaryIO:
    """A new private file, under its name at once, which need not survive a power cut. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb")


def claim(path: Path) -> None:
    """Create an empty private file, durably. Of several who try at once one succeeds, and FileExistsError is raised for
    the others. Raises OSError.
    """
    with open_new(path) as file:
        _finish(file)
    sync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Add to a private file, durably; if the disk fails half-way, what it took of the content stays.

    Whether a new file's name survives a power cut is the caller's to see to (`sync_folder`). Raises OSError.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE), "ab") as file:
        file.write(content)
        _finish(file)


def ensure_file(path: Path) -> None:
    """Make an empty private file if there is none, for a database say. Raises OSError."""
    os.close(open_lock(path))


def open_lock(path: Path) -> int:
    """Open a private file to lock it, made if it is missing; its descriptor. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)


# Folders


def move(source: Path, target: Path) -> None:
    """Give a file or folder, which is whole and on the disk, another name, durably. Raises OSError."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in `folder` survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)


def private_folder(folder: Path, *, check: bool = True) -> None:
    """Make a folder that only its owner can look into (0700), with what is missing above it, durably.

    `check`: refuse one that stands there and lets others in. Raises ConfigurationError.
    """
    try:
        _make_folders(folder)
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be made ({error.strerror}); correct its permissions") from error
    if not stat.S_ISDIR(mode):
        raise ConfigurationError(f"{folder} cannot be made (a file is in its place); move that away")
    if check and mode & 0o077:
        raise ConfigurationError(f"{folder}: other accounts can look into it; run `chmod 700` on it")


def _make_folders(folder: Path) -> None:
    # `parents=True` would make those above with the mode of everybody's files.
    for one in reversed([folder, *folder.parents]):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)
            sync_folder(one.parent)
