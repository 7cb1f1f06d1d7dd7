"""Who is dealt what, once; and the dealer's own key.

    for each item            D                                   to
    ---------------------    ------------------------------      ------------
    first party dials        draws a seed for P0, one for P1
    P0 dials                 its seed                            P0, once
    P1 dials                 its seed, corrections               P1, once
    both were served,        forgets both seeds
    or the ticket expired

Nothing is dealt twice: each party's use of a ticket is noted on disk before its first byte is sent. If one half was
handed out and the seeds are gone (a crash between the two), the other half is refused and the session must start again.

The key has 256 bits and is made once; the seeds of weight masks are derived from it. Whoever has it and the masked
weights that data owners keep has the models, so it lies sealed on the dealer's disk (secure_computation/at_rest.py),
readable by its account only. Losing it costs nothing but time: every data owner fetches masked weights again.
"""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bookkeeping.spending import Charge, SpendingBook
from bookkeeping.used_tickets import TicketUse
from contract.allowance import Allowance, Holder
from contract.errors import ConfigurationError, MaterialSpent, PeerViolation, Refused, TicketInvalid
from contract.files import private_folder
from contract.identity import Party, Role
from contract.ticket import Purpose, TicketClaims
from secure_computation.admission import items_of
from secure_computation.at_rest import DamagedFile, StorageKey, read_sealed, write_sealed
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.randomness import SEED_BYTES, Seed

SERVED = (Role.DATA_OWNER, Role.MODEL_OWNER)
MAX_PENDING = 10_000
BOOK_FILE: Final = "orders.sqlite"
_ANY_PACE: Final = 1_000_000
"""Sessions a minute: no ticket raises the number of items a day, which is all that is bounded here."""


@dataclass
class _Pending:
    claims: TicketClaims
    seeds: DealtSeeds
    served: set[Role] = field(default_factory=set)


class Dealer:
    """Draws the seeds of each session and hands each half out once. For use by several threads."""

    def __init__(self, book: SpendingBook, *, own: Party, items_per_day: int) -> None:
        """Deal at most `items_per_day` to each organisation and role, by its certificate; count and note in `book`."""
        self._book = book
        self._own = own
        self._allowance = Allowance(items=items_per_day, sessions_per_minute=_ANY_PACE)
        self._pending: dict[ItemName, _Pending] = {}
        self._lock = threading.Lock()

    def claim(self, claims: TicketClaims, peer: Party) -> dict[ItemName, DealtSeeds]:
        """Give the seeds of each item of a ticket's session, to deal `peer`'s halves from, in order.

        Raises MaterialSpent the second time, TicketInvalid if the parties show different tickets, BudgetSpent if the
        organisation of `peer` has had its number.
        """
        if peer.role not in SERVED:
            raise PeerViolation(f"a {peer.role.value} is dealt nothing; only the data owner and the model owner are")
        items = items_of(claims)
        with self._lock:
            self._forget_expired()
            begins = items[0] not in self._pending
            if begins:
                self._require_new(claims, wanted=len(items))
            elif self._pending[items[0]].claims != claims:
                raise TicketInvalid(
                    "the other party of this session showed another ticket for it, and one session has one: tell the "
                    "operator of the front end"
                )
            # Durable before the first byte: a crash may waste an item, never repeat one.
            self._count(claims, peer)
            if begins:
                self._pending |= {item: _Pending(claims=claims, seeds=DealtSeeds.fresh()) for item in items}
            return {item: self._serve(item, peer.role) for item in items}

    def _require_new(self, claims: TicketClaims, *, wanted: int) -> None:
        if any(self._book.has_seen(TicketUse.of(claims, by=role)) for role in SERVED):
            raise MaterialSpent("this session was dealt before and its seeds are forgotten; start a new session")
        if len(self._pending) + wanted > MAX_PENDING:
            raise Refused("too many sessions wait for their second half; try again in a few minutes")

    def _count(self, claims: TicketClaims, peer: Party) -> None:
        who = f"{peer.role.value} {peer.organisation}"
        charge = Charge(peer=who, subject="material", purpose=Purpose.PREPARE, amount=claims.images)
        holder = Holder(whose=f"the {peer}", ask=f"the crypto provider, {self._own.organisation}")
        self._book.spend(charge, self._allowance, holder, ticket=TicketUse.of(claims, by=peer.role))

    def _serve(self, item: ItemName, role: Role) -> DealtSeeds:
        pending = self._pending[item]
        pending.served.add(role)
        if pending.served == set(SERVED):
            del self._pending[item]
        return pending.seeds

    def _forget_expired(self) -> None:
        now = time.time()
        for item in [item for item, pending in self._pending.items() if pending.claims.exp < now]:
            del self._pending[item]


KEY_FILE: Final = "dealer.key.sealed"
_PURPOSE: Final = "dealer's key"


def load_or_make_key(folder: Path, storage_key: StorageKey) -> Seed:
    """Read the key in `folder`, or make it there (0600). Raises ConfigurationError if the file is wrong."""
    private_folder(folder)
    path = folder / KEY_FILE
    key = Seed.fresh()
    try:
        write_sealed(path, storage_key, key.reveal_to_stock(), purpose=_PURPOSE, context=KEY_FILE)
    except FileExistsError:
        return _load(path, storage_key)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made ({error.strerror}); check the data folder") from error
    return key


def _load(path: Path, storage_key: StorageKey) -> Seed:
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path}: others can read this key; run `chmod 600` on it")
    try:
        content = read_sealed(path, storage_key, purpose=_PURPOSE, context=KEY_FILE, limit=SEED_BYTES)
    except DamagedFile as damage:
        raise ConfigurationError(f"{path} {damage}; move it away, and a new key is made") from None
    return Seed(content.tobytes())
