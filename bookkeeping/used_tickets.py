"""Which tickets a party has used: a table of a small SQLite file, which forgets what has expired for good.

A ticket is noted when its session may begin, and not before everything else about it was checked: whoever is refused
makes this party write nothing. A file that is lost or set back lets a ticket be used again for the minutes that it is
valid. That begins a session once more, with randomness that is drawn again; it gives no stocked item back, which has a
ledger of its own (secure_computation/material.py).
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

from contract.errors import ConfigurationError, MaterialSpent
from contract.files import ensure_file
from contract.identity import MAX_CLOCK_SKEW_SECONDS, Role
from contract.ticket import TicketClaims

TICKETS_FILE: Final = "tickets.sqlite"
_BUSY_SECONDS: Final = 30.0
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS tickets (use TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tickets_by_end ON tickets (until);
"""


@dataclass(frozen=True, kw_only=True)
class TicketUse:
    """One use of a ticket by one peer; it is allowed once."""

    name: str
    """The session, and the role of whoever presents its ticket."""
    until: int
    """From when on nobody's clock makes the ticket valid, in seconds since 1970 (UTC)."""

    @classmethod
    def of(cls, claims: TicketClaims, *, by: Role) -> Self:
        """The use of a ticket by whoever presents it."""
        return cls(name=f"{claims.session} {by.value}", until=claims.exp + MAX_CLOCK_SKEW_SECONDS)


def is_used(connection: sqlite3.Connection, use: TicketUse) -> bool:
    return connection.execute("SELECT 1 FROM tickets WHERE use = ?", (use.name,)).fetchone() is not None


def note_use(connection: sqlite3.Connection, use: TicketUse, *, now: float) -> None:
    """Note a use in an open transaction, and forget those that are over. Raises MaterialSpent the second time."""
    if is_used(connection, use):
        raise MaterialSpent(
            f"the ticket of session {use.name.split()[0]} was used before and is never used twice; start a new session"
        )
    connection.execute("INSERT INTO tickets VALUES (?, ?)", (use.name, use.until))
    connection.execute("DELETE FROM tickets WHERE until <= ?", (now,))


class UsedTickets:
    """The tickets that a party has used, in one file. For use by several threads and processes."""

    _more_tables: ClassVar[str] = ""
    _what: ClassVar[str] = "record of used tickets"
    _way_out: ClassVar[str] = "remove it when no session of the last hours is live"

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Keep them in `path`, which is made (0600) if it is missing. `clock`: seconds since 1970."""
        self._path = path
        self._clock = clock
        with self._failing():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            ensure_file(path)
            with closing(self._connection()) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(_TABLES + self._more_tables)

    def use(self, ticket: TicketUse) -> None:
        """Note a use, durably. Raises MaterialSpent the second time."""
        with self._writing() as connection:
            note_use(connection, ticket, now=self._clock())

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._failing(), closing(self._connection()) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of the block under the write lock, or nothing of it; on the disk at its end."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(
                f"the {self._what} {self._path} cannot be read or written; free space, correct its permissions, or "
                f"{self._way_out}"
            ) from error
