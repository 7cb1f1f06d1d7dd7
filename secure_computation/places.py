"""Who may run a session now: so many in all, and so many of one hospital, so that none keeps the others out."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from contract.errors import Busy
from contract.identity import Role
from contract.ticket import TicketClaims

REMEMBERED: Final = 10_000
"""Sessions whose other half may still come."""


class Places:
    """Places of one server. A session has one, whoever of its parties comes first. For use by several threads."""

    def __init__(self, *, in_all: int, each: int | None = None) -> None:
        """`in_all` sessions at once, `each` of one hospital: by default three quarters, and at least one is left."""
        self._in_all = in_all
        self._each = each or max(1, in_all - max(1, in_all // 4))
        self._taken: Counter[str] = Counter()
        self._came: OrderedDict[UUID, set[Role]] = OrderedDict()
        """Which parties of a session were let in; none of one that was turned away."""
        self._lock = threading.Lock()

    @contextmanager
    def place(self, claims: TicketClaims, role: Role) -> Iterator[None]:
        """A place for the party of this role in a ticket's session.

        Raises Busy where none is free. A session that has begun is not turned away half-way, and one that was turned
        away is so for both its parties.
        """
        takes = self._let_in(claims, role)
        try:
            yield
        finally:
            if takes:
                with self._lock:
                    self._taken[claims.data_owner] -= 1
                    if not self._taken[claims.data_owner]:
                        del self._taken[claims.data_owner]

    def _let_in(self, claims: TicketClaims, role: Role) -> bool:
        """Whether the party takes a place; it does not where the session's other one had it."""
        with self._lock:
            came = self._came.get(claims.session)
            if came is None:
                self._came[claims.session] = came = set()
                if len(self._came) > REMEMBERED:
                    self._came.popitem(last=False)
            elif not came:
                raise Busy("this session was turned away a moment ago, when every place was taken; start a new session")
            if came and role not in came:
                came.add(role)
                return False
            self._require_free(claims.data_owner)
            self._taken[claims.data_owner] += 1
            came.add(role)
            return True

    def _require_free(self, hospital: str) -> None:
        if self._taken.total() >= self._in_all:
            raise Busy(f"{self._in_all} sessions run already, which is the limit; try again in a moment")
        if self._taken[hospital] >= self._each:
            raise Busy(
                f"{self._each} sessions of {hospital} run already, the most that one hospital may have here; try again "
                "in a moment"
            )
