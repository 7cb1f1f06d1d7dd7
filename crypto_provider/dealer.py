"""Who is dealt what, once.

    for each item            D                                   to
    ---------------------    ------------------------------      ------------
    first party dials        draws a seed for P0, one for P1
    P0 dials                 its seed                            P0, once
    P1 dials                 its seed, corrections               P1, once
    both were served,        forgets both seeds
    or the ticket expired

Nothing is dealt twice: each hand-out is noted in a durable ledger before its first byte is sent. Where one half was
handed out and the seeds are gone (a crash between the two), the other half is refused and the session must start anew.
"""

import threading
import time
from dataclasses import dataclass, field

from contract.errors import MaterialSpent, PeerViolation, Refused
from contract.identity import Role
from contract.ticket import TicketClaims
from secure_computation.admission import items_of
from secure_computation.material import ConsumptionLedger, DealtSeeds, ItemName

SERVED = (Role.DATA_OWNER, Role.MODEL_OWNER)
MAX_PENDING = 10_000


@dataclass
class _Pending:
    seeds: DealtSeeds
    expires: int
    served: set[Role] = field(default_factory=set)


class Dealer:
    """Draws the seeds of each session and hands each half out once. For use by several threads."""

    def __init__(self, ledger: ConsumptionLedger) -> None:
        """Note hand-outs in `ledger`."""
        self._ledger = ledger
        self._pending: dict[ItemName, _Pending] = {}
        self._lock = threading.Lock()

    def claim(self, claims: TicketClaims, role: Role) -> dict[ItemName, DealtSeeds]:
        """Give the seeds of each item of a ticket's session, to deal the halves of `role` from, in order.

        Raises MaterialSpent the second time.
        """
        if role not in SERVED:
            raise PeerViolation(f"a {role.value} is dealt nothing; only the data owner and the model owner are")
        with self._lock:
            self._forget_expired()
            return {item: self._claim(item, claims, role) for item in items_of(claims)}

    def _claim(self, item: ItemName, claims: TicketClaims, role: Role) -> DealtSeeds:
        pending = self._pending.get(item)
        if pending is None:
            pending = self._draw(item, claims)
        # Durable before the first byte: a crash may waste an item, never repeat one.
        self._ledger.consume(_half(item, role))
        pending.served.add(role)
        if pending.served == set(SERVED):
            del self._pending[item]
        return pending.seeds

    def _draw(self, item: ItemName, claims: TicketClaims) -> _Pending:
        if any(self._ledger.consumed(_half(item, role)) for role in SERVED):
            raise MaterialSpent("this session was dealt before and its seeds are forgotten; start a new session")
        if len(self._pending) >= MAX_PENDING:
            raise Refused("too many sessions wait for their second half; try again in a few minutes")
        self._pending[item] = _Pending(seeds=DealtSeeds.fresh(), expires=claims.exp)
        return self._pending[item]

    def _forget_expired(self) -> None:
        now = time.time()
        for item in [item for item, pending in self._pending.items() if pending.expires < now]:
            del self._pending[item]


def _half(item: ItemName, role: Role) -> ItemName:
    return ItemName(f"{item}.{role.value}")
