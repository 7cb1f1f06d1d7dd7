"""A party's own durable count of what its peers have used of their allowances, and of their tickets: a SQLite file.

Written before anything is computed or sent, so that a crash never gives anything back. A clock that is set back does
not begin a new period: the latest day that was ever written to counts as today.
"""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bookkeeping.used_tickets import TicketUse, UsedTickets, is_used, note_use
from contract.allowance import MAX_DAYS, RATE_SECONDS, Allowance, Holder, Used, require_within
from contract.ticket import Purpose

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
class Charge:
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
    """A charge that was counted."""

    charge: Charge
    day: int
    """The day that it was counted under, since 1970 (UTC)."""


class SpendingBook(UsedTickets):
    """The counts in one file, beside the tickets that they came with. For use by several threads and processes."""

    _more_tables = _TABLES
    _what = "book of budgets"
    _way_out = "restore it"

    def spend(self, charge: Charge, allowance: Allowance, holder: Holder, *, ticket: TicketUse) -> Counted:
        """Count a charge and note the ticket that it came with, durably and together.

        Raises MaterialSpent if the ticket was used before, BudgetSpent or TooFast if the charge is too much; then
        nothing is counted and nothing noted.
        """
        with self._writing() as connection:
            now = self._clock()
            note_use(connection, ticket, now=now)
            today = self._today(connection, now)
            moment = datetime.fromtimestamp(max(now, today * _DAY_SECONDS), UTC)
            since = int(allowance.period(moment)[0].timestamp()) // _DAY_SECONDS
            used = _used(connection, charge, since=since, now=now)
            require_within(
                allowance, used, purpose=charge.purpose, wanted=charge.amount, holder=holder, now=moment
            )  # raising rolls back
            connection.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (peer, subject, purpose, day) DO UPDATE SET amount = amount + excluded.amount",
                (charge.peer, charge.subject, charge.purpose.value, today, charge.amount),
            )
            connection.execute("INSERT INTO recent VALUES (?, ?, ?)", (charge.peer, charge.subject, now))
            connection.execute("DELETE FROM recent WHERE at <= ? OR at > ?", (now - RATE_SECONDS, now))
            connection.execute("DELETE FROM spent WHERE day < ?", (today - MAX_DAYS,))
        return Counted(charge=charge, day=today)

    def give_back(self, counted: Counted, *, amount: int | None = None) -> None:
        """Take back a charge, or an amount of it, because nothing could come of it. Its ticket stays noted."""
        charge = counted.charge
        back = charge.amount if amount is None else min(amount, charge.amount)
        with self._writing() as connection:
            connection.execute(
                "UPDATE spent SET amount = max(0, amount - ?) "
                "WHERE peer = ? AND subject = ? AND purpose = ? AND day = ?",
                (back, charge.peer, charge.subject, charge.purpose.value, counted.day),
            )

    def has_seen(self, ticket: TicketUse) -> bool:
        """Whether a ticket was used so, as far as it matters: what has expired for good is forgotten."""
        with self._reading() as connection:
            return is_used(connection, ticket)

    def check(self) -> None:
        """Raise ConfigurationError unless a charge could be counted now."""
        with self._writing() as connection:
            connection.execute("PRAGMA user_version = 1")  # nobody reads it, and it is written as any count is

    def _today(self, connection: sqlite3.Connection, now: float) -> int:
        (latest,) = connection.execute("SELECT max(day) FROM spent").fetchone()
        return max(int(now // _DAY_SECONDS), latest or 0)


def _used(connection: sqlite3.Connection, charge: Charge, *, since: int, now: float) -> Used:
    (amount,) = connection.execute(
        "SELECT coalesce(sum(amount), 0) FROM spent WHERE peer = ? AND subject = ? AND purpose = ? AND day >= ?",
        (charge.peer, charge.subject, charge.purpose.value, since),
    ).fetchone()
    count, oldest = connection.execute(
        "SELECT count(*), min(at) FROM recent WHERE peer = ? AND subject = ? AND at > ? AND at <= ?",
        (charge.peer, charge.subject, now - RATE_SECONDS, now),
    ).fetchone()
    first = datetime.fromtimestamp(oldest, UTC) if oldest is not None else None
    return Used(amount=amount, recent=count, oldest_recent=first)
