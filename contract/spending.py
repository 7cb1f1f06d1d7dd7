"""A party's own durable count of what its peers have used of their allowances, and of their tickets: a SQLite file.

Written before anything is computed or sent, so that a crash never gives anything back. A clock that is set back does
not begin a new period: the latest day that was ever written to counts as today.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from contract.allowance import MAX_DAYS, RATE_SECONDS, Allowance, Holder, Used, require_within
from contract.errors import ConfigurationError
from contract.ticket import Purpose
from contract.used_tickets import TicketUse, is_used, note_use, open_book, prepare_book, transaction

_DAY_SECONDS: Final = 24 * 3600
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS spent (
    peer TEXT NOT NULL, subject TEXT NOT NULL, purpose TEXT NOT NULL, day INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (peer, subject, purpose, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS recent (peer TEXT NOT NULL, subject TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS recent_by_peer ON recent (peer, subject, at);
"""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a peer wants to begin."""

    peer: str
    """The organisation in its certificate."""
    subject: str
    """What is counted apart: a model's name, say."""
    purpose: Purpose
    amount: int
    """Images, or items of material."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """An order that was counted."""

    order: Order
    day: int
    """The day that it was counted under, since 1970 (UTC)."""


class SpendingBook:
    """The counts in one file. For use by several threads and processes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Keep them in `path`, which is made (0600) where it is missing. `clock`: seconds since 1970."""
        self._path = path
        self._clock = clock
        with self._failing():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with closing(open_book(self._path)) as connection:
                prepare_book(connection, _TABLES)

    def spend(self, order: Order, allowance: Allowance, holder: Holder, *, ticket: TicketUse) -> Counted:
        """Count an order and note the ticket that it came with, durably and together.

        Raises MaterialSpent where the ticket was used before, BudgetSpent or TooFast where the order is too much; then
        nothing is counted and nothing noted.
        """
        with self._failing(), closing(open_book(self._path)) as connection, transaction(connection):
            now = self._clock()
            note_use(connection, ticket, now=now)
            today = self._today(connection, now)
            moment = datetime.fromtimestamp(max(now, today * _DAY_SECONDS), UTC)
            used = _used(connection, order, since=int(allowance.period(moment)[0].timestamp()) // _DAY_SECONDS, now=now)
            require_within(
                allowance, used, purpose=order.purpose, wanted=order.amount, holder=holder, now=moment
            )  # raising rolls back
            connection.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (peer, subject, purpose, day) DO UPDATE SET amount = amount + excluded.amount",
                (order.peer, order.subject, order.purpose.value, today, order.amount),
            )
            connection.execute("INSERT INTO recent VALUES (?, ?, ?)", (order.peer, order.subject, now))
            connection.execute("DELETE FROM recent WHERE at <= ? OR at > ?", (now - RATE_SECONDS, now))
            connection.execute("DELETE FROM spent WHERE day < ?", (today - MAX_DAYS,))
        return Counted(order=order, day=today)

    def note(self, ticket: TicketUse) -> None:
        """Note a ticket, durably, and count nothing. Raises MaterialSpent where it was used before."""
        with self._failing(), closing(open_book(self._path)) as connection, transaction(connection):
            note_use(connection, ticket, now=self._clock())

    def give_back(self, counted: Counted) -> None:
        """Count an order no more, because nothing could come of it. Its ticket stays noted."""
        order = counted.order
        with self._failing(), closing(open_book(self._path)) as connection, transaction(connection):
            connection.execute(
                "UPDATE spent SET amount = max(0, amount - ?) "
                "WHERE peer = ? AND subject = ? AND purpose = ? AND day = ?",
                (order.amount, order.peer, order.subject, order.purpose.value, counted.day),
            )

    def has_seen(self, ticket: TicketUse) -> bool:
        """Whether a ticket was used so, as far as it matters: what has expired for good is forgotten."""
        with self._failing(), closing(open_book(self._path)) as connection:
            return is_used(connection, ticket)

    def check(self) -> None:
        """Raise ConfigurationError unless an order could be counted now."""
        with self._failing(), closing(open_book(self._path)) as connection, transaction(connection):
            connection.execute("PRAGMA user_version = 1")  # nobody reads it, and it is written as any count is

    def _today(self, connection: sqlite3.Connection, now: float) -> int:
        (latest,) = connection.execute("SELECT max(day) FROM spent").fetchone()
        return max(int(now // _DAY_SECONDS), latest or 0)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(
                f"the book of budgets {self._path} cannot be read or written; free space, correct its permissions, or "
                "restore it"
            ) from error


def _used(connection: sqlite3.Connection, order: Order, *, since: int, now: float) -> Used:
    (amount,) = connection.execute(
        "SELECT coalesce(sum(amount), 0) FROM spent WHERE peer = ? AND subject = ? AND purpose = ? AND day >= ?",
        (order.peer, order.subject, order.purpose.value, since),
    ).fetchone()
    count, oldest = connection.execute(
        "SELECT count(*), min(at) FROM recent WHERE peer = ? AND subject = ? AND at > ? AND at <= ?",
        (order.peer, order.subject, now - RATE_SECONDS, now),
    ).fetchone()
    first = datetime.fromtimestamp(oldest, UTC) if oldest is not None else None
    return Used(amount=amount, recent=count, oldest_recent=first)
