"""Allowances: how many images, how much material and how many sessions a minute somebody may have.

The front end holds one for each account and one for each model and hospital; the model owner and the crypto provider
hold their own, by the organisation in the certificate of whoever dials, with counters of their own (`spending`): a
front end in other hands can sign tickets, and cannot raise what these two allow.

A period is a number of whole days in UTC, counted from 1970: everybody who knows its length knows when it ends.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from pydantic import Field

from contract.base import Name, Strict
from contract.errors import BudgetSpent, TooFast
from contract.ticket import Purpose

RATE_SECONDS: Final = 60
_DAY: Final = timedelta(days=1)
_FIRST_DAY: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_DAYS: Final = 366
MAX_AMOUNT: Final = 1_000_000_000
MAX_SESSIONS_PER_MINUTE: Final = 1_000_000

Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]


class Allowance(Strict):
    """What somebody may use. What a session was opened for counts, whether or not it came to a result."""

    images: Amount = 1000
    """Evaluated in a period."""
    items: Amount = 1000
    """Of material, ordered ahead in a period; 0: none may be ordered."""
    days: Annotated[int, Field(ge=1, le=MAX_DAYS)] = 1
    """Length of the period."""
    sessions_per_minute: Annotated[int, Field(ge=1, le=MAX_SESSIONS_PER_MINUTE)] = 120

    def period(self, now: datetime) -> tuple[datetime, datetime]:
        """When the period of `now` began and when the next one begins."""
        day = (now - _FIRST_DAY) // _DAY
        start = _FIRST_DAY + (day - day % self.days) * _DAY
        return start, start + self.days * _DAY

    def words(self) -> str:
        period = "a day" if self.days == 1 else f"in {self.days} days"
        return f"{self.images} images and {self.items} items {period}, {self.sessions_per_minute} sessions a minute"


class ModelAllowances(Strict):
    """What a model's owner allows each hospital."""

    every: Allowance = Allowance()
    """Of a hospital that is no exception."""
    exceptions: dict[Name, Allowance] = Field(default_factory=dict, max_length=10_000)
    """By organisation."""

    def of(self, organisation: str) -> Allowance:
        """What one hospital may use."""
        return self.exceptions.get(organisation, self.every)


@dataclass(frozen=True, kw_only=True)
class Used:
    """What was used of an allowance."""

    amount: int
    """Images or items, whichever is asked for, since the period began."""
    recent: int
    """Sessions in the last minute."""
    oldest_recent: datetime | None
    """When the first of these was opened."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Whose allowance it is, in words for the person who meets its end."""

    whose: str
    """Say, `st-mary's use of resnet`."""
    ask: str
    """Who can allow more, say `the model's owner, north-lab`."""


def require_within(
    allowance: Allowance, used: Used, *, purpose: Purpose, wanted: int, holder: Holder, now: datetime
) -> None:
    """Raise BudgetSpent or TooFast unless a session to `purpose` for `wanted` images (or items) may still begin."""
    unit = "images" if purpose is Purpose.DIAGNOSE else "items of material"
    most = allowance.images if purpose is Purpose.DIAGNOSE else allowance.items
    if most == 0:
        raise BudgetSpent(f"the budget of {holder.whose} has no {unit} at all: ask {holder.ask} for some")
    if used.amount + wanted > most:
        _, renewal = allowance.period(now)
        period = "a day" if allowance.days == 1 else f"in {allowance.days} days"
        left = max(0, most - used.amount)
        state = "is used up" if left == 0 else f"has {left} left, and {wanted} were asked for"
        raise BudgetSpent(
            f"the budget of {holder.whose}, {most} {unit} {period}, {state}: it renews on {renewal:%Y-%m-%d} at 00:00 "
            f"UTC; for more before then, ask {holder.ask}",
            retry_after_seconds=_seconds_until(renewal, now),
        )
    if used.recent >= allowance.sessions_per_minute and used.oldest_recent is not None:
        seconds = _seconds_until(used.oldest_recent + timedelta(seconds=RATE_SECONDS), now)
        raise TooFast(
            f"{holder.whose} may begin {allowance.sessions_per_minute} sessions a minute and has done so: try again in "
            f"{seconds} s, or ask {holder.ask} for more",
            retry_after_seconds=seconds,
        )


def _seconds_until(moment: datetime, now: datetime) -> int:
    return max(1, -int((now - moment) // timedelta(seconds=1)))
