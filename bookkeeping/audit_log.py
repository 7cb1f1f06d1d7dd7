"""A party's audit log: what happened, in lines that are chained, so that nobody can take one away unseen.

One folder, for one party. Each file in it is a *segment*, named by the number of its first entry; each line is one
entry, a JSON object with a number that grows by one, the moment, the event, its details, the hash of the entry before
(64 zeros for the first), and last the SHA-256 of the line without it. An entry is on the disk before `record` returns.

What the chain shows by itself: an entry that was altered, removed, added or moved, in any segment. What it cannot show
by itself: that entries at its end were cut off, or that all of it was rewritten. For that somebody else has to
remember how far it had come: front end and model owner tell each other the number and hash of their last entry, the
*head*, after each session, and `verify_log` checks the heads that the other remembers.

A full disk or a power cut in the middle of a line leaves it without its end. That is not tampering: nobody was told of
this entry, because `record` had not returned. The next entry takes the torn line's place and is itself a note of that,
`mended`; the entries before it must be whole. It hides nothing: whoever cuts the last line so that it looks torn has
removed one entry, which others' heads show as for any cut.

Retention removes whole segments, oldest first, after an entry `retired` that names the last entry removed and its
hash; the chain is checked from there on.

Entries hold no free text: who, which session, model and version, how many images, how it ended. Nothing of a patient
can get in, because no field could hold it.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bookkeeping.audit_segments import (
    BEGINNING,
    MAX_LINE_BYTES,
    Details,
    Entry,
    find_last_head,
    find_torn_line,
    is_entry,
    is_torn,
    list_segments,
    locked,
    name_segment,
    parse_entry,
    read_last_line,
    require_whole,
    seal_entry,
    split_lines,
)
from contract.api import AuditHead
from contract.errors import AuditLogBroken, ConfigurationError
from contract.files import append, copy_new, sync_folder

SEGMENT_BYTES: Final = 4 << 20
DAY_SECONDS: Final = 24 * 3600
_TRIAL_FILE: Final = "trial"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A log whose chain holds."""

    first: int
    """Number of the oldest entry that is kept; 1 if none were retired."""
    head: AuditHead | None
    """None: the log is empty."""
    heads_found: int
    """How many remembered heads it was compared with."""
    torn: bool = False
    """Whether a line follows that is not whole: the next entry that is recorded mends that."""


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
        """Go on with the log in `folder`, which is made (0700) if it is missing.

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

    def record(self, event: str, **details: Any) -> AuditHead:
        """Write an entry, durably, and return the log's new head. `details` are fields of `Details`.

        Raises ConfigurationError if the disk will not, AuditLogBroken if the log is not as it was written.
        """
        known = Details(**details).model_dump(mode="json", exclude_none=True)
        with _writing(self._folder), locked(self._folder):
            self._mend()
            head = self._append(event, known)
            return self._retire() or head

    def head(self) -> AuditHead | None:
        """The last entry; None of an empty log."""
        with _writing(self._folder), locked(self._folder):
            return find_last_head(self._folder)

    def check(self) -> None:
        """Find out whether an entry could be written now. Raises as `record` does.

        The log itself stays as it is, except a torn line, which is mended: whoever copies it as it grows must not see
        what is no entry. As much as the longest entry needs is written beside it, durably, and removed.
        """
        with _writing(self._folder), locked(self._folder):
            self._mend()
            head = find_last_head(self._folder)
            path = self._segment(head.number + 1 if head is not None else 1)
            if path.exists():
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
            trial = self._folder / _TRIAL_FILE
            try:
                append(trial, b" " * MAX_LINE_BYTES)
            finally:
                trial.unlink(missing_ok=True)

    def _mend(self) -> None:
        """Put a note in the place of a last line that has no end. Raises AuditLogBroken unless what is before is whole.

        A line that lacks nothing but its end is completed instead, and the note follows it.
        """
        torn = find_torn_line(self._folder)
        if torn is None:
            return
        path, line = torn
        start = path.stat().st_size - len(line)
        require_whole(path, start)
        if line and is_entry(path, line + b"\n", find_last_head(self._folder)):
            append(path, b"\n")
        elif start > 0:
            os.truncate(path, start)
        else:
            path.unlink()
        self._append("mended", {"torn_bytes": len(line)})

    def _append(self, event: str, details: dict[str, Any]) -> AuditHead:
        last = find_last_head(self._folder)
        number = last.number + 1 if last is not None else 1
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        fields = {
            "number": number,
            "at": at,
            "event": event,
            **details,
            "previous": last.hash if last is not None else BEGINNING,
        }
        line, digest = seal_entry(fields)
        path = self._segment(number)
        append(path, line)
        if path.name == name_segment(number):
            sync_folder(self._folder)
        return AuditHead(number=number, hash=digest)

    def _segment(self, number: int) -> Path:
        """Where entry `number` goes."""
        segments = list_segments(self._folder)
        if segments and segments[-1].stat().st_size < self._segment_bytes:
            return segments[-1]
        return self._folder / name_segment(number)

    def _retire(self) -> AuditHead | None:
        """Remove segments that are too old; the new head if any were."""
        oldest = self._clock() - self._keep_seconds
        segments = list_segments(self._folder)
        old = []
        for path in segments[:-1]:
            entry, head = parse_entry(path, read_last_line(path))
            if entry.at.timestamp() >= oldest:
                break
            old.append((path, head))
        if not old:
            return None
        through = old[-1][1]
        head = self._append("retired", {"entry": through.number, "hash": through.hash})
        for path, _ in old:
            path.unlink()
        sync_folder(self._folder)
        return head


def read_log(folder: Path) -> Iterator[Entry]:
    """Every entry that is kept, the oldest first, its chain checked. Raises AuditLogBroken if it does not hold."""
    for entry, _ in _chain(folder):
        yield entry


def verify_log(folder: Path, heads: Sequence[AuditHead] = ()) -> Verified:
    """Check that nothing was altered, removed, added, moved or cut off.

    `heads`: what others remember of this log; without any, entries cut off at the end cannot be noticed.

    Raises AuditLogBroken, which names the first entry that is wrong.
    """
    wanted = {head.number: head.hash for head in heads}
    if len(wanted) != len({(head.number, head.hash) for head in heads}):
        raise AuditLogBroken("others remember two different entries under one number: the log was rewritten")
    first, last, found, retired = 0, None, 0, {}
    start = BEGINNING
    for entry, head in _chain(folder):
        if last is None:
            first, start = entry.number, entry.previous
        if entry.event == "retired" and entry.entry is not None and entry.hash is not None:
            retired[entry.entry] = entry.hash
        if wanted.get(head.number, head.hash) != head.hash:
            raise AuditLogBroken(
                f"entry {head.number} is another one than was seen by others: the log was rewritten; look for a copy"
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
    torn = folder.is_dir() and find_torn_line(folder) is not None
    return Verified(first=first, head=last, heads_found=found, torn=torn)


def copy_log(folder: Path, target: Path) -> None:
    """Copy a log as it is at one moment, for a backup. Raises OSError if that fails."""
    target.mkdir(mode=0o700)
    sync_folder(target.parent)
    if not folder.is_dir():
        return
    with locked(folder):
        for path in list_segments(folder):
            copy_new(path, target / path.name)


def _chain(folder: Path) -> Iterator[tuple[Entry, AuditHead]]:
    before: AuditHead | None = None
    for path, lines in _lines(folder):
        for position, line in enumerate(lines):
            entry, head = parse_entry(path, line)
            if position == 0 and path.name != name_segment(entry.number):
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
        with locked(folder):
            sizes = [(path, path.stat().st_size) for path in list_segments(folder)]
        for path, size in sizes:
            with path.open("rb") as file:
                lines = split_lines(file.read(size))
            if path == sizes[-1][0] and (not lines or is_torn(lines[-1])):
                del lines[-1:]  # nobody was told of this entry
            elif not lines:
                raise AuditLogBroken(f"{path}: is empty: its entries were removed; look for a copy")
            yield path, lines


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
