"""How much material each organisation has ordered, by its certificate: no ticket raises it. And by which tickets."""

from typing import Final

from bookkeeping.spending import Charge, SpendingBook
from bookkeeping.used_tickets import TicketUse
from contract.allowance import Allowance, Holder
from contract.identity import Party, Role
from contract.ticket import Purpose, TicketClaims

BOOK_FILE: Final = "orders.sqlite"
_ANY_PACE: Final = 1_000_000
_SUBJECT: Final = "material"


class DealingQuota:
    """Counts what is dealt. For use by several threads."""

    def __init__(self, book: SpendingBook, *, own: Party, items_per_day: int) -> None:
        """Deal at most `items_per_day` to each organisation and role; count in `book`."""
        self._book = book
        self._own = own
        self._allowance = Allowance(items=items_per_day, sessions_per_minute=_ANY_PACE)

    def count(self, peer: Party, claims: TicketClaims) -> None:
        """Count the items of a ticket for whoever dialled, and note that its role has used the ticket, durably.

        Raises MaterialSpent the second time, BudgetSpent beyond the allowance; then nothing is counted or noted.
        """
        charge = Charge(
            peer=f"{peer.role.value} {peer.organisation}",
            subject=_SUBJECT,
            purpose=Purpose.PREPARE,
            amount=claims.images,
        )
        holder = Holder(whose=f"the {peer}", ask=f"the crypto provider, {self._own.organisation}")
        self._book.spend(charge, self._allowance, holder, ticket=TicketUse.of(claims, by=peer.role))

    def has_served(self, claims: TicketClaims, role: Role) -> bool:
        """Whether a ticket was used by a role."""
        return self._book.has_seen(TicketUse.of(claims, by=role))
