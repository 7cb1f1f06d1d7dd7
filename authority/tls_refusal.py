"""Why a server's certificate was not accepted, by what OpenSSL found: each cause has another remedy, and another person
who can bring it about.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from authority.certificates import show_time


class Cause(StrEnum):
    """What was wrong."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    REVOKED = "revoked"
    WRONG_NAME = "wrong name"
    UNKNOWN_AUTHORITY = "unknown authority"
    """Made by somebody else: another authority, or a machine on the way that opens TLS."""
    LIST_ENDED = "list ended"
    LIST_NOT_YET_VALID = "list not yet valid"
    LIST_OF_ANOTHER = "list of another authority"
    OTHER = "other"


_NUMBERS: Final = {
    Cause.EXPIRED: (10,),
    Cause.NOT_YET_VALID: (9,),
    Cause.REVOKED: (23,),
    Cause.WRONG_NAME: (62, 64),
    Cause.UNKNOWN_AUTHORITY: (2, 7, 18, 19, 20, 21, 30),
    Cause.LIST_ENDED: (12,),
    Cause.LIST_NOT_YET_VALID: (11,),
    Cause.LIST_OF_ANOTHER: (3, 8, 33),
}
"""OpenSSL's X509_V_ERR_ (x509_vfy.h), which are stable."""


def find_cause(error: BaseException | None) -> Cause | None:
    """The cause somewhere below an error of a library; None if it is not about a certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return next((cause for cause, numbers in _NUMBERS.items() if error.verify_code in numbers), Cause.OTHER)
        error = error.__cause__ or error.__context__
    return None


@dataclass(frozen=True)
class Remedy:
    """What a refusal means, and what to do."""

    meaning: str
    advice: str

    def __str__(self) -> str:
        """Both, for an error's line."""
        return f"{self.meaning}: {self.advice}"


def remedy(cause: Cause, *, now: datetime | None = None, by_system: bool = False) -> Remedy:
    """What it means and what to do.

    `now`: by this machine's clock. `by_system`: judged by the authorities that this machine knows, as browsers do, and
    not by the parties' authority.
    """
    if by_system and cause is Cause.UNKNOWN_AUTHORITY:
        return _OF_NO_KNOWN_AUTHORITY
    meaning, advice = _REMEDIES[cause]
    clock = f"the clock of this machine, which says {show_time(now or datetime.now(UTC))}"
    return Remedy(meaning.format(clock=clock), advice)


_OF_NO_KNOWN_AUTHORITY: Final = Remedy(
    "its certificate is of no authority that this machine knows",
    "something on the way may open TLS, or its operator must have it made by such an authority",
)


_REMEDIES: Final = {
    Cause.EXPIRED: (
        "its certificate has ended by {clock}",
        "its operator must renew it; or set this clock, if it is ahead",
    ),
    Cause.NOT_YET_VALID: ("its certificate begins later than {clock}", "set this clock, which is behind"),
    Cause.REVOKED: ("its certificate was revoked", "tell its operator, who must enrol with a new key"),
    Cause.WRONG_NAME: (
        "its certificate is for another host name",
        "correct the address, or have its operator enrol that name",
    ),
    Cause.UNKNOWN_AUTHORITY: (
        "its certificate is not the federation's",
        "something on the way may open TLS, or the settings name another authority",
    ),
    Cause.LIST_ENDED: (
        "the list of revoked certificates here has ended by {clock}",
        "put the authority's newest there; or set this clock, if it is ahead",
    ),
    Cause.LIST_NOT_YET_VALID: (
        "the list of revoked certificates here was signed later than {clock}",
        "set this clock, which is behind",
    ),
    Cause.LIST_OF_ANOTHER: (
        "the list of revoked certificates here is not of the authority that made its certificate",
        "replace it",
    ),
    Cause.OTHER: ("its certificate cannot be used", "have its operator enrol again"),
}
