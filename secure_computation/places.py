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
OTHER_HALVES: Final = 2
"""So many times the places are there for them: they need no place, and whoever begins many sessions, and lets the other
halves all come together, must find an end too."""


class Places:
    """Places of one server. A session has one, whoever of its parties comes first. For use by several threads."""

    def __init__(self, *, in_all: int, each: int | None = None) -> None:
        """`in_all` sessions at once, `each` of one hospital: by default three quarters, and at least one is left."""
        self._in_all = in_all
        self._each = each or max(1, in_all - max(1, in_all // 4))
        self._taken: Counter[str] = Counter()
        self._other_halves: Counter[str] = Counter()
        self._came: OrderedDict[UUID, set[Role]] = OrderedDict()
        """Which parties of a session were let in; none of one that was turned away."""
        self._lock = threading.Lock()

    @contextmanager
    def place(self, claims: TicketClaims, role: Role) -> Iterator[None]:
        """A place for the party of this role in a ticket's session.

        Raises Busy if none is free. A session that has begun is not turned away half-way, unless its hospital has
        left very many halves over, and one that was turned away is so for both its parties.
        """
        hospital = claims.data_owner
        with self._lock:
            counted = self._let_in(claims, role)
            counted[hospital] += 1
        try:
            yield
        finally:
            with self._lock:
                counted[hospital] -= 1
                if not counted[hospital]:
                    del counted[hospital]

    def _let_in(self, claims: TicketClaims, role: Role) -> Counter[str]:
        """Where the party is counted; that is not among the places where the session's other one had one."""
        came = self._came.get(claims.session)
        if came is None:
            self._came[claims.session] = came = set()
            if len(self._came) > REMEMBERED:
                self._came.popitem(last=False)
        elif not came:
            raise Busy("this session was turned away a moment ago, when every place was taken; start a new session")
        is_other_half = bool(came) and role not in came
        counted, times = (self._other_halves, OTHER_HALVES) if is_other_half else (self._taken, 1)
        self._require_free(counted, claims.data_owner, times)
        came.add(role)
        return counted

    def _require_free(self, counted: Counter[str], hospital: str, times: int) -> None:
        in_all, each = times * self._in_all, times * self._each
        if counted.total() >= in_all:
            raise Busy(f"{in_all} sessions run already, which is the limit; try again in a moment")
        if counted[hospital] >= each:
            raise Busy(
                f"{each} sessions of {hospital} run already, the most that one hospital may have here; try again in a "
                "moment"
            )
