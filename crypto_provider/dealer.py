"""Who is dealt what, once.

    for each item            D                                   to
    ---------------------    ------------------------------      ------------
    first party dials        draws a seed for P0, one for P1
    P0 dials                 its seed                            P0, once
    P1 dials                 its seed, corrections               P1, once
    both were served,        forgets both seeds
    or the ticket expired

Nothing is dealt twice: each party's use of a ticket is noted on disk before its first byte is sent. Where one half was
handed out and the seeds are gone (a crash between the two), the other half is refused and the session must start anew.
"""

import threading
import time
from dataclasses import dataclass, field

from contract.errors import MaterialSpent, PeerViolation, Refused
from contract.identity import Party, Role
from contract.ticket import TicketClaims
from crypto_provider.quota import DealingQuota
from secure_computation.admission import items_of
from secure_computation.material import DealtSeeds, ItemName

SERVED = (Role.DATA_OWNER, Role.MODEL_OWNER)
MAX_PENDING = 10_000


@dataclass
class _Pending:
    seeds: DealtSeeds
    expires: int
    served: set[Role] = field(default_factory=set)


class Dealer:
    """Draws the seeds of each session and hands each half out once. For use by several threads."""

    def __init__(self, quota: DealingQuota) -> None:
        """Count hand-outs, and note them, in `quota`."""
        self._quota = quota
        self._pending: dict[ItemName, _Pending] = {}
        self._lock = threading.Lock()

    def claim(self, claims: TicketClaims, peer: Party) -> dict[ItemName, DealtSeeds]:
        """Give the seeds of each item of a ticket's session, to deal `peer`'s halves from, in order.

        Raises MaterialSpent the second time, BudgetSpent where the organisation of `peer` has had its number.
        """
        if peer.role not in SERVED:
            raise PeerViolation(f"a {peer.role.value} is dealt nothing; only the data owner and the model owner are")
        items = items_of(claims)
        with self._lock:
            self._forget_expired()
            begins = items[0] not in self._pending
            if begins:
                self._require_new(claims, wanted=len(items))
            # Durable before the first byte: a crash may waste an item, never repeat one.
            self._quota.count(peer, claims)
            if begins:
                self._pending |= {item: _Pending(seeds=DealtSeeds.fresh(), expires=claims.exp) for item in items}
            return {item: self._serve(item, peer.role) for item in items}

    def _require_new(self, claims: TicketClaims, *, wanted: int) -> None:
        if any(self._quota.has_served(claims, role) for role in SERVED):
            raise MaterialSpent("this session was dealt before and its seeds are forgotten; start a new session")
        if len(self._pending) + wanted > MAX_PENDING:
            raise Refused("too many sessions wait for their second half; try again in a few minutes")

    def _serve(self, item: ItemName, role: Role) -> DealtSeeds:
        pending = self._pending[item]
        pending.served.add(role)
        if pending.served == set(SERVED):
            del self._pending[item]
        return pending.seeds

    def _forget_expired(self) -> None:
        now = time.time()
        for item in [item for item, pending in self._pending.items() if pending.expires < now]:
            del self._pending[item]
