"""A ticket is used once, by whoever may; nothing is kept of it when it has expired for good."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from bookkeeping.spending import Charge, SpendingBook
from bookkeeping.used_tickets import TicketUse, UsedTickets
from contract.allowance import Allowance, Holder
from contract.errors import BudgetSpent, ConfigurationError, MaterialSpent
from contract.identity import MAX_CLOCK_SKEW_SECONDS, Role
from contract.ticket import Purpose
from tests.contract.test_ticket import CLAIMS

HOLDER = Holder(whose="st-mary for resnet", ask="the model's owner, north-lab")
ORDER = Charge(peer="st-mary", subject="resnet", purpose=Purpose.DIAGNOSE, amount=1)
NOW = float(CLAIMS.iat)


def fresh(*, until: float = 1e11) -> TicketUse:
    """The use of a ticket that nobody has used."""
    return TicketUse(name=f"{uuid4()} data-owner", until=int(until))


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM tickets").fetchone()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p0" / "tickets.sqlite"


def test_a_ticket_is_used_once_also_after_a_restart(path: Path) -> None:
    use = TicketUse.of(CLAIMS, by=Role.DATA_OWNER)
    UsedTickets(path, clock=lambda: NOW).use(use)
    for _ in range(2):
        with pytest.raises(MaterialSpent, match=r"the ticket of session 00000000-\S+ was used before"):
            UsedTickets(path, clock=lambda: NOW).use(use)
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_role_uses_it_once(path: Path) -> None:
    used = UsedTickets(path, clock=lambda: NOW)
    used.use(TicketUse.of(CLAIMS, by=Role.DATA_OWNER))
    used.use(TicketUse.of(CLAIMS, by=Role.MODEL_OWNER))
    with pytest.raises(MaterialSpent):
        used.use(TicketUse.of(CLAIMS, by=Role.MODEL_OWNER))


def test_of_many_who_use_one_ticket_one_may(path: Path) -> None:
    use = fresh()

    def attempt(_: int) -> bool:
        try:
            UsedTickets(path).use(use)
        except MaterialSpent:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_it_is_remembered_as_long_as_any_clock_may_take_it_for_valid_and_then_forgotten(path: Path) -> None:
    now = [NOW]
    used = UsedTickets(path, clock=lambda: now[0])
    use = TicketUse.of(CLAIMS, by=Role.DATA_OWNER)
    used.use(use)
    now[0] = CLAIMS.exp + MAX_CLOCK_SKEW_SECONDS - 1.0
    used.use(fresh(until=now[0] + 10))
    with pytest.raises(MaterialSpent):
        used.use(use)
    now[0] += 60
    used.use(fresh())
    assert rows(path) == 1


def test_a_file_that_is_none_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"record of used tickets \S+ cannot be read or written"):
        UsedTickets(path)


class TestWithABudget:
    """In a server's book, a ticket is noted and counted together, or neither."""

    def test_a_used_ticket_counts_nothing(self, path: Path) -> None:
        book, use = SpendingBook(path), fresh()
        book.spend(ORDER, Allowance(images=2), HOLDER, ticket=use)
        for _ in range(5):
            with pytest.raises(MaterialSpent):
                book.spend(ORDER, Allowance(images=2), HOLDER, ticket=use)
        book.spend(ORDER, Allowance(images=2), HOLDER, ticket=fresh())

    def test_a_flood_beyond_the_budget_writes_nothing(self, path: Path) -> None:
        book = SpendingBook(path)
        book.spend(ORDER, Allowance(images=1), HOLDER, ticket=fresh())
        refused = fresh()
        for use in (refused, *(fresh() for _ in range(20))):
            with pytest.raises(BudgetSpent):
                book.spend(ORDER, Allowance(images=1), HOLDER, ticket=use)
        assert rows(path) == 1
        assert not book.has_seen(refused)
        book.spend(ORDER, Allowance(images=2), HOLDER, ticket=refused)
        assert book.has_seen(refused)
