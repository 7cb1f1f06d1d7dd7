"""What `data-owner doctor` finds: one check for each thing that it looks at."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from contract.base import Strict


class Verdict(StrEnum):
    """How one check ended."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    """Works today, or could not be told."""
    BAD = "bad"


class Check(Strict):
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    advice: str | None = None
    """What to do, or to tell the IT department."""


class Bad(Exception):
    """What a look found wrong, and what to do."""

    def __init__(self, found: str, advice: str | None, verdict: Verdict = Verdict.BAD) -> None:
        """As a `Check` has them."""
        super().__init__(found)
        self.found, self.advice, self.verdict = found, advice, verdict


@dataclass(frozen=True)
class Named:
    """A look at one thing."""

    name: str
    look: Callable[[], str]
    """What was found; raises `Bad` or an error of the tree."""
