"""What an audit log is made of: entries, each sealed in a line by its hash, in files named by their first entry.

A folder belongs to one log. `bookkeeping.audit_log` writes and checks it.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AwareDatetime, Field, ValidationError

from contract.api import AuditHead
from contract.base import Name, Sha256, Strict, Version
from contract.errors import AuditLogBroken
from contract.files import open_lock
from contract.model_card import OutputPolicy
from contract.ticket import Engine, Purpose

BEGINNING: Final = "0" * 64
"""What the first entry names as the hash before it."""
MAX_LINE_BYTES: Final = 4096
_SEGMENT: Final = re.compile(r"[0-9]{12}\.jsonl")
_HASH_BYTES: Final = len(',"hash":"' + BEGINNING + '"}')
_LOCK_FILE: Final = "lock"
LOCK_SECONDS: Final = 30.0
"""An entry takes milliseconds to write."""
_SHORTEST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02

Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Number = Annotated[int, Field(ge=1, lt=1 << 53)]


class Details(Strict):
    """What an entry may say beside its event."""

    session: UUID | None = None
    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    """The front end's id of an account: no name of a person."""
    organisation: Name | None = None
    """Of whoever caused the event; of whoever's head was seen."""
    role: Code | None = None
    model: Name | None = None
    version: Version | None = None
    plan_hash: Sha256 | None = None
    card_hash: Sha256 | None = None
    purpose: Purpose | None = None
    engine: Engine | None = None
    images: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    output_policy: OutputPolicy | None = None
    state: Code | None = None
    """Of a session, or of what an order was answered with: a code of contract.errors."""
    entry: Number | None = None
    hash: Sha256 | None = None
    """With `entry`: the head of somebody else's log, or the last entry that retention removed."""
    item: Sha256 | None = None
    """Of a violation: the name of the item of material."""
    record: Sha256 | None = None
    """Of a violation: the hash of its record's file."""
    torn_bytes: Annotated[int, Field(ge=0, le=MAX_LINE_BYTES)] | None = None
    """Of `mended`: how much there was of the line that a full disk or a power cut had left without its end."""


class Entry(Details):
    """One line, checked."""

    number: Number
    at: AwareDatetime
    event: Code
    previous: Sha256


def seal_entry(fields: dict[str, Any]) -> tuple[bytes, str]:
    """The line of an entry, and its hash."""
    body = json.dumps(fields, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"hash":"{digest}"}}\n'.encode(), digest


def parse_entry(path: Path, line: bytes) -> tuple[Entry, AuditHead]:
    """An entry and its hash. Raises AuditLogBroken unless the line is exactly what was written."""
    body, tail = line[: -_HASH_BYTES - 1] + b"}", line[-_HASH_BYTES - 1 :]
    digest = hashlib.sha256(body).hexdigest()
    broken = f"{path}: after entry {{}}: a line was altered or cut; look for a copy"
    if tail != f',"hash":"{digest}"}}\n'.encode():
        raise AuditLogBroken(broken.format(_number_in(line)))
    try:
        entry = Entry.model_validate_json(body)
    except ValidationError:
        raise AuditLogBroken(broken.format(_number_in(line))) from None
    return entry, AuditHead(number=entry.number, hash=digest)


def _number_in(line: bytes) -> str:
    match = re.match(rb'\{"number":([0-9]{1,16}),', line)
    return str(int(match.group(1)) - 1) if match else "unknown"


def list_segments(folder: Path) -> list[Path]:
    """A log's files, the oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if _SEGMENT.fullmatch(path.name))


def name_segment(number: int) -> str:
    """Of the file that begins with entry `number`."""
    return f"{number:012d}.jsonl"


def find_last_head(folder: Path) -> AuditHead | None:
    """The last entry that is whole."""
    for path in reversed(list_segments(folder)):
        line = read_last_line(path)
        if is_torn(line):
            line = read_last_line(path, before=path.stat().st_size - len(line))
        if line:
            return parse_entry(path, line)[1]
    return None


def read_last_line(path: Path, *, before: int | None = None) -> bytes:
    """The last line among the first `before` bytes of a segment, its end included if it has one."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) if before is None else before
        start = max(0, size - MAX_LINE_BYTES - 1)
        file.seek(start)
        content = file.read(size - start)
    return content[content.rfind(b"\n", 0, -1) + 1 :]


def split_lines(content: bytes) -> list[bytes]:
    """Its lines with their ends; the last one may lack its own."""
    return list(io.BytesIO(content))


def is_torn(line: bytes) -> bool:
    """Whether a line has no end. One longer than any entry may be is something else."""
    return bool(line) and not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES


def find_torn_line(folder: Path) -> tuple[Path, bytes] | None:
    """The file whose last line is torn, and what there is of it: nothing of a file that is empty."""
    segments = list_segments(folder)
    line = read_last_line(segments[-1]) if segments else b"\n"
    return (segments[-1], line) if is_torn(line) or not line else None


def require_whole(path: Path, end: int) -> None:
    """Raise AuditLogBroken unless the first `end` bytes of a segment are entries that follow each other."""
    before: AuditHead | None = None
    with path.open("rb") as file:
        for line in split_lines(file.read(end)):
            if not is_entry(path, line, before):
                raise AuditLogBroken(
                    f"{path}: its last line is torn, and lines before it were altered; look for a copy"
                )
            before = parse_entry(path, line)[1]


def is_entry(path: Path, line: bytes, before: AuditHead | None) -> bool:
    """Whether a line is an entry that follows `before`; None: whatever it follows."""
    try:
        entry, _ = parse_entry(path, line)
    except AuditLogBroken:
        return False
    return before is None or (entry.number, entry.previous) == (before.number + 1, before.hash)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers, and readers who need one moment, away: of this process and of others.

    Raises TimeoutError if somebody keeps this one away for LOCK_SECONDS: a program that was stopped, say.
    """
    descriptor = open_lock(folder / _LOCK_FILE)
    try:
        _lock(descriptor)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also if a process that was forked meanwhile has it open
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    limit, pause = time.monotonic() + LOCK_SECONDS, _SHORTEST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > limit:
                words = f"another program has kept it locked for {LOCK_SECONDS:.0f} s"
                raise TimeoutError(errno.ETIMEDOUT, words) from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return
