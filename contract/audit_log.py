"""A party's audit log: what happened, in lines that are chained, so that nobody can take one away unseen.

One folder, for one party. Each file in it is a *segment*, named by the number of its first entry; each line is one
entry, a JSON object with a number that grows by one, the moment, the event, its details, the hash of the entry before
(64 zeros for the first), and last the SHA-256 of the line without it. An entry is on the disk before `record` returns.

What the chain shows by itself: an entry that was altered, removed, added or moved, in any segment. What it cannot show
by itself: that entries at its end were cut off, or that all of it was written anew. For that somebody else has to
remember how far it had come: front end and model owner tell each other the number and hash of their last entry, the
*head*, after each session, and `verify_log` checks the heads that the other remembers.

Retention removes whole segments, oldest first, after an entry `retired` that names the last entry removed and its
hash; the chain is checked from there on.

Entries hold no free text: who, which session, model and version, how many images, how it ended. Nothing of a patient
can get in, because no field could hold it.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AwareDatetime, Field, ValidationError

from contract.errors import AuditLogBroken, ConfigurationError
from contract.model_card import Name, OutputPolicy, Strict, Version
from contract.ticket import Engine, Purpose, Sha256

BEGINNING: Final = "0" * 64
"""What the first entry names as the hash before it."""
SEGMENT_BYTES: Final = 4 << 20
MAX_LINE_BYTES: Final = 4096
DAY_SECONDS: Final = 24 * 3600
_SEGMENT: Final = re.compile(r"[0-9]{12}\.jsonl")
_HASH_BYTES: Final = len(',"hash":"' + BEGINNING + '"}')
_LOCK_FILE: Final = "lock"

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


class Entry(Details):
    """One line, checked."""

    number: Number
    at: AwareDatetime
    event: Code
    previous: Sha256


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last entry of a log at some moment, as somebody remembers it."""

    number: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A log whose chain holds."""

    first: int
    """Number of the oldest entry that is kept; 1 where none were retired."""
    head: Head | None
    """None: the log is empty."""
    heads_found: int
    """How many remembered heads it was compared with."""


class AuditLog:
    """Writes a log. For use by several threads and processes."""

    def __init__(
        self,
        folder: Path,
        *,
        keep_days: float,
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Go on with the log in `folder`, which is made (0700) where it is missing.

        Args:
            folder: for this log alone.
            keep_days: entries older than this are removed, a segment at a time.
            segment_bytes: a segment that has reached this is followed by a new one.
            clock: seconds since 1970.
        """
        self._folder = folder
        self._keep_seconds = keep_days * DAY_SECONDS
        self._segment_bytes = segment_bytes
        self._clock = clock
        with _writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder):
                _drop_unfinished_line(folder)

    def record(self, event: str, **details: Any) -> Head:
        """Write an entry, durably, and return the log's new head. `details` are fields of `Details`."""
        known = Details(**details).model_dump(mode="json", exclude_none=True)
        with _writing(self._folder), _locked(self._folder):
            head = self._append(event, known)
            return self._retire() or head

    def head(self) -> Head | None:
        """The last entry; None of an empty log."""
        with _writing(self._folder), _locked(self._folder):
            return _last(self._folder)

    def _append(self, event: str, details: dict[str, Any]) -> Head:
        last = _last(self._folder)
        number = last.number + 1 if last is not None else 1
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        fields = {
            "number": number,
            "at": at,
            "event": event,
            **details,
            "previous": last.hash if last is not None else BEGINNING,
        }
        line, digest = _sealed(fields)
        path = self._segment(number)
        with path.open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if path.name == _name(number):
            _sync(self._folder)
        return Head(number=number, hash=digest)

    def _segment(self, number: int) -> Path:
        """Where entry `number` goes."""
        segments = _segments(self._folder)
        if segments and segments[-1].stat().st_size < self._segment_bytes:
            return segments[-1]
        return self._folder / _name(number)

    def _retire(self) -> Head | None:
        """Remove segments that are too old; the new head if any were."""
        oldest = self._clock() - self._keep_seconds
        segments = _segments(self._folder)
        old = []
        for path in segments[:-1]:
            entry, head = _parsed(path, _last_line(path))
            if entry.at.timestamp() >= oldest:
                break
            old.append((path, head))
        if not old:
            return None
        through = old[-1][1]
        head = self._append("retired", {"entry": through.number, "hash": through.hash})
        for path, _ in old:
            path.unlink()
        _sync(self._folder)
        return head


def read_log(folder: Path) -> Iterator[Entry]:
    """Every entry that is kept, the oldest first, its chain checked. Raises AuditLogBroken where it does not hold."""
    for entry, _ in _chain(folder):
        yield entry


def verify_log(folder: Path, heads: Sequence[Head] = ()) -> Verified:
    """Check that nothing was altered, removed, added, moved or cut off.

    `heads`: what others remember of this log; without any, entries cut off at the end cannot be noticed.

    Raises AuditLogBroken, which names the first entry that is wrong.
    """
    wanted = {head.number: head.hash for head in heads}
    if len(wanted) != len({(head.number, head.hash) for head in heads}):
        raise AuditLogBroken("others remember two different entries under one number: the log was written anew")
    first, last, found, retired = 0, None, 0, {}
    start = BEGINNING
    for entry, head in _chain(folder):
        if last is None:
            first, start = entry.number, entry.previous
        if entry.event == "retired" and entry.entry is not None and entry.hash is not None:
            retired[entry.entry] = entry.hash
        if wanted.get(head.number, head.hash) != head.hash:
            raise AuditLogBroken(
                f"entry {head.number} is another one than was seen by others: the log was written anew; look for a copy"
            )
        found += head.number in wanted
        last = head
    if first > 1 and retired.get(first - 1) != start:
        raise AuditLogBroken(
            f"entries 1 to {first - 1} are missing, and no later entry says that they were retired: look for a copy"
        )
    latest = max(wanted, default=0)
    if latest > (last.number if last is not None else 0):
        end = f"ends at entry {last.number}" if last is not None else "is empty"
        raise AuditLogBroken(f"the log {end}, but others have seen entry {latest}: its end was cut off")
    return Verified(first=first, head=last, heads_found=found)


def copy_log(folder: Path, target: Path) -> None:
    """Copy a log as it is at one moment, for a backup. Raises OSError where that fails."""
    target.mkdir(mode=0o700)
    if not folder.is_dir():
        return
    with _locked(folder):
        for path in _segments(folder):
            shutil.copy2(path, target / path.name)


def _chain(folder: Path) -> Iterator[tuple[Entry, Head]]:
    before: Head | None = None
    for path, lines in _lines(folder):
        for position, line in enumerate(lines):
            entry, head = _parsed(path, line)
            if position == 0 and path.name != _name(entry.number):
                raise AuditLogBroken(f"{path}: begins with entry {entry.number}: it was renamed or cut; see a copy")
            if before is not None and (entry.number, entry.previous) != (before.number + 1, before.hash):
                raise AuditLogBroken(
                    f"{path}: entry {entry.number} does not follow entry {before.number}: entries were removed, added "
                    "or moved; look for a copy"
                )
            if before is None and entry.number == 1 and entry.previous != BEGINNING:
                raise AuditLogBroken(f"{path}: entry 1 is not the first of its chain; look for a copy")
            before = head
            yield entry, head


def _lines(folder: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """The lines of each segment as they are at one moment; a server may be writing."""
    if not folder.is_dir():
        return
    with _reading(folder):
        with _locked(folder):
            sizes = [(path, path.stat().st_size) for path in _segments(folder)]
        for path, size in sizes:
            with path.open("rb") as file:
                lines = file.read(size).splitlines(keepends=True)
            if path == sizes[-1][0] and lines and not lines[-1].endswith(b"\n"):
                del lines[-1]  # a crash came in between: nobody was told of this entry
            elif not lines:
                raise AuditLogBroken(f"{path}: is empty: its entries were removed; look for a copy")
            yield path, lines


def _sealed(fields: dict[str, Any]) -> tuple[bytes, str]:
    body = json.dumps(fields, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"hash":"{digest}"}}\n'.encode(), digest


def _parsed(path: Path, line: bytes) -> tuple[Entry, Head]:
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
    return entry, Head(number=entry.number, hash=digest)


def _number_in(line: bytes) -> str:
    match = re.match(rb'\{"number":([0-9]{1,16}),', line)
    return str(int(match.group(1)) - 1) if match else "unknown"


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if _SEGMENT.fullmatch(path.name))


def _name(number: int) -> str:
    return f"{number:012d}.jsonl"


def _last(folder: Path) -> Head | None:
    segments = _segments(folder)
    return _parsed(segments[-1], _last_line(segments[-1]))[1] if segments else None


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LINE_BYTES))
        lines = file.read().splitlines(keepends=True)
    return lines[-1] if lines else b""


def _drop_unfinished_line(folder: Path) -> None:
    """What a crash left of a line that nobody was told of: `record` returns after the whole of it is on the disk."""
    segments = _segments(folder)
    if not segments:
        return
    path, line = segments[-1], _last_line(segments[-1])
    if line.endswith(b"\n"):
        return
    if len(line) == path.stat().st_size:
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - len(line))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the audit log in {folder} cannot be written ({error.strerror}): nothing is done that cannot be recorded; "
            "free space or correct its permissions"
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); run this as the party's user") from error
