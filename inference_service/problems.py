"""From the error tree to RFC 9457 answers, and the few refusals that only an HTTP service has.

A caller reads what it did wrong in the error's own words. What went wrong on this side (status 500 and above) is
written to the log only: the answer carries an id under which the operator finds it.
"""

from http import HTTPStatus
from uuid import UUID

from contract.api import Problem
from contract.errors import BudgetSpent, EncryptedInferenceError, Refused, TooFast

MEDIA_TYPE = "application/problem+json"
_MAX_DETAIL = 500


class Unauthenticated(Refused, code="unauthenticated", http_status=HTTPStatus.UNAUTHORIZED):
    """No API key, or one that no account has (now)."""


class NotFound(Refused, code="not-found", http_status=HTTPStatus.NOT_FOUND):
    """Not there, or not this caller's to see: nobody learns which."""


class Conflict(Refused, code="conflict", http_status=HTTPStatus.CONFLICT):
    """The thing is in a state in which this cannot happen."""


class TooLarge(Refused, code="too-large", http_status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
    """The body is longer than this endpoint reads."""


class NotJson(Refused, code="not-json", http_status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE):
    """A body of another kind than JSON."""


class TooSlow(Refused, code="too-slow", http_status=HTTPStatus.REQUEST_TIMEOUT):
    """The body did not arrive in time."""


class TooMany(Refused, code="too-many", http_status=HTTPStatus.TOO_MANY_REQUESTS):
    """This account has as many live sessions as it may have."""


class Unavailable(EncryptedInferenceError, code="unavailable", http_status=HTTPStatus.SERVICE_UNAVAILABLE):
    """The front end cannot serve now: its database does not answer."""


def make_problem(error: EncryptedInferenceError, *, request: UUID) -> Problem:
    """The answer for an error of the tree; nothing of this side's inner affairs stands in it."""
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        detail = f"the inference service failed: try again, or give its operator this id: {request}"
        return build_problem(error.http_status, code=error.code, detail=detail, request=request)
    after = error.retry_after_seconds if isinstance(error, BudgetSpent | TooFast) else None
    return build_problem(
        error.http_status, code=error.code, detail=str(error), request=request, retry_after_seconds=after
    )


def build_problem(
    status: HTTPStatus, *, code: str, detail: str, request: UUID, retry_after_seconds: int | None = None
) -> Problem:
    """Build an answer; `detail` is cut to one printable line."""
    line = "".join(character for character in " ".join(detail.split()) if character.isprintable())
    return Problem(
        type=f"urn:encrypted-inference:problem:{code}",
        title=status.phrase,
        status=status.value,
        detail=line[:_MAX_DETAIL],
        instance=f"urn:uuid:{request}",
        code=code,
        retry_after_seconds=retry_after_seconds,
    )
