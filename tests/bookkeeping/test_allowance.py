"""Allowances, and the durable book that a party counts in."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bookkeeping.spending import Charge, SpendingBook
from contract.allowance import Allowance, Holder, ModelAllowances, Used, require_within
from contract.errors import BudgetSpent, ConfigurationError, TooFast
from contract.ticket import Purpose
from tests.bookkeeping.test_used_tickets import fresh

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOLDER = Holder(whose="st-mary for resnet", ask="the model's owner, north-lab")
NONE = Used(amount=0, recent=0, oldest_recent=None)


class Clock:
    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> SpendingBook:
    return SpendingBook(tmp_path / "book" / "budgets.sqlite", clock=clock)


def order(
    amount: int = 1, *, peer: str = "st-mary", subject: str = "resnet", purpose: Purpose = Purpose.DIAGNOSE
) -> Charge:
    return Charge(peer=peer, subject=subject, purpose=purpose, amount=amount)


class TestAllowance:
    @given(
        st.floats(0, 7e9),
        st.integers(1, 366),
    )
    def test_every_moment_lies_in_one_period_of_whole_days(self, seconds: float, days: int) -> None:
        now = datetime.fromtimestamp(seconds, UTC)
        start, end = Allowance(days=days).period(now)
        assert start <= now < end
        assert end - start == timedelta(days=days)
        assert (start.hour, start.minute, start.second, start.microsecond) == (0, 0, 0, 0)
        assert Allowance(days=days).period(end)[0] == end

    def test_the_last_image_is_allowed_and_one_more_is_not(self) -> None:
        allowance = Allowance(images=5)
        used = Used(amount=3, recent=0, oldest_recent=None)
        require_within(allowance, used, purpose=Purpose.DIAGNOSE, wanted=2, holder=HOLDER, now=NOON)
        with pytest.raises(BudgetSpent) as caught:
            require_within(allowance, used, purpose=Purpose.DIAGNOSE, wanted=3, holder=HOLDER, now=NOON)
        assert str(caught.value) == (
            "the budget of st-mary for resnet, 5 images a day, has 2 left, and 3 were asked for: it renews on "
            "2026-01-03 at 00:00 UTC; for more before then, ask the model's owner, north-lab"
        )
        assert caught.value.retry_after_seconds == 12 * 3600

    def test_material_has_a_budget_of_its_own(self) -> None:
        nothing_ahead = Allowance(images=5, items=0)
        require_within(nothing_ahead, NONE, purpose=Purpose.DIAGNOSE, wanted=5, holder=HOLDER, now=NOON)
        with pytest.raises(BudgetSpent, match="no items of material at all: ask the model's owner"):
            require_within(nothing_ahead, NONE, purpose=Purpose.PREPARE, wanted=1, holder=HOLDER, now=NOON)

    def test_too_many_sessions_a_minute_say_how_long_to_wait(self) -> None:
        used = Used(amount=0, recent=2, oldest_recent=NOON - timedelta(seconds=45.5))
        with pytest.raises(TooFast, match="2 sessions a minute and has done so: try again in 15 s") as caught:
            require_within(
                Allowance(sessions_per_minute=2), used, purpose=Purpose.DIAGNOSE, wanted=1, holder=HOLDER, now=NOON
            )
        assert caught.value.retry_after_seconds == 15

    def test_exceptions_are_by_hospital(self) -> None:
        allowances = ModelAllowances(every=Allowance(images=1), exceptions={"st-mary": Allowance(images=9)})
        assert (allowances.of("st-mary").images, allowances.of("elsewhere").images) == (9, 1)

    @pytest.mark.parametrize(
        "wrong", [{"images": -1}, {"days": 0}, {"days": 367}, {"sessions_per_minute": 0}, {"x": 1}]
    )
    def test_what_is_no_allowance(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValidationError):
            Allowance.model_validate(wrong)


class TestBook:
    def test_what_was_spent_is_gone_until_the_period_ends(self, book: SpendingBook, clock: Clock) -> None:
        allowance = Allowance(images=3, days=2)
        book.spend(order(2), allowance, HOLDER, ticket=fresh())
        with pytest.raises(BudgetSpent, match="has 1 left, and 2 were asked for"):
            book.spend(order(2), allowance, HOLDER, ticket=fresh())
        book.spend(order(1), allowance, HOLDER, ticket=fresh())  # what was refused has not been counted
        clock.now = allowance.period(NOON)[1].timestamp() - 1
        with pytest.raises(BudgetSpent, match="is used up"):
            book.spend(order(), allowance, HOLDER, ticket=fresh())
        clock.now += 1
        book.spend(order(3), allowance, HOLDER, ticket=fresh())

    def test_it_outlives_the_process(self, book: SpendingBook, clock: Clock, tmp_path: Path) -> None:
        book.spend(order(2), Allowance(images=2), HOLDER, ticket=fresh())
        again = SpendingBook(tmp_path / "book" / "budgets.sqlite", clock=clock)
        with pytest.raises(BudgetSpent):
            again.spend(order(), Allowance(images=2), HOLDER, ticket=fresh())

    def test_a_clock_that_is_set_back_renews_nothing(self, book: SpendingBook, clock: Clock) -> None:
        book.spend(order(2), Allowance(images=2), HOLDER, ticket=fresh())
        clock.now -= 40 * 24 * 3600
        with pytest.raises(BudgetSpent):
            book.spend(order(), Allowance(images=2), HOLDER, ticket=fresh())

    def test_what_is_given_back_after_midnight_is_of_the_day_that_it_was_counted_on(
        self, book: SpendingBook, clock: Clock
    ) -> None:
        allowance = Allowance(images=2)
        late = book.spend(order(2), allowance, HOLDER, ticket=fresh())
        clock.now += 12 * 3600
        book.spend(order(2), allowance, HOLDER, ticket=fresh())
        book.give_back(late)
        with pytest.raises(BudgetSpent):
            book.spend(order(), allowance, HOLDER, ticket=fresh())
        both_days = Allowance(images=4, days=300)
        book.spend(order(2), both_days, HOLDER, ticket=fresh())
        with pytest.raises(BudgetSpent):
            book.spend(order(), both_days, HOLDER, ticket=fresh())

    def test_a_smaller_allowance_holds_at_once(self, book: SpendingBook) -> None:
        book.spend(order(4), Allowance(images=10), HOLDER, ticket=fresh())
        with pytest.raises(BudgetSpent):
            book.spend(order(1), Allowance(images=4, days=7), HOLDER, ticket=fresh())

    @pytest.mark.parametrize("other", [{"peer": "elsewhere"}, {"subject": "densenet"}, {"purpose": Purpose.PREPARE}])
    def test_each_peer_subject_and_purpose_is_counted_apart(self, book: SpendingBook, other: dict[str, str]) -> None:
        allowance = Allowance(images=1, items=1)
        book.spend(order(), allowance, HOLDER, ticket=fresh())
        book.spend(order(**other), allowance, HOLDER, ticket=fresh())  # type: ignore[arg-type]
        for again in ({}, other):
            with pytest.raises(BudgetSpent):
                book.spend(order(**again), allowance, HOLDER, ticket=fresh())  # type: ignore[arg-type]

    def test_the_rate_is_of_any_minute(self, book: SpendingBook, clock: Clock) -> None:
        allowance = Allowance(sessions_per_minute=2)
        for seconds in (0, 50):
            clock.now = NOON.timestamp() + seconds
            book.spend(order(), allowance, HOLDER, ticket=fresh())
        with pytest.raises(TooFast, match="try again in 10 s"):
            book.spend(order(), allowance, HOLDER, ticket=fresh())
        clock.now = NOON.timestamp() + 60
        book.spend(order(), allowance, HOLDER, ticket=fresh())
        with pytest.raises(TooFast, match="try again in 50 s"):
            book.spend(order(), allowance, HOLDER, ticket=fresh())

    def test_of_many_at_once_no_more_than_allowed_come_through(self, book: SpendingBook) -> None:
        together = threading.Barrier(8)

        def spend(_: int) -> bool:
            together.wait(30)
            try:
                book.spend(order(2), Allowance(images=7), HOLDER, ticket=fresh())
            except BudgetSpent:
                return False
            return True

        with ThreadPoolExecutor(max_workers=8) as pool:
            assert sum(pool.map(spend, range(8))) == 3

    def test_it_is_private(self, book: SpendingBook, tmp_path: Path) -> None:
        assert (tmp_path / "book" / "budgets.sqlite").stat().st_mode & 0o777 == 0o600

    def test_what_is_no_book_is_not_taken_for_an_empty_one(self, tmp_path: Path) -> None:
        (tmp_path / "budgets.sqlite").write_bytes(b"not a database" * 100)
        with pytest.raises(ConfigurationError, match="cannot be read or written"):
            SpendingBook(tmp_path / "budgets.sqlite")

    def test_a_book_that_breaks_refuses_instead_of_forgetting(self, book: SpendingBook, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "book" / "budgets.sqlite")
        connection.execute("DROP TABLE spent")
        connection.commit()
        connection.close()
        with pytest.raises(ConfigurationError, match="restore it"):
            book.spend(order(), Allowance(), HOLDER, ticket=fresh())
