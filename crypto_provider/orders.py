"""How much material each organisation may order, counted by its certificate: no ticket raises it."""

from typing import Final

from contract.allowance import Allowance, Holder
from contract.identity import Party
from contract.spending import Order, SpendingBook
from contract.ticket import Purpose, TicketClaims

BOOK_FILE: Final = "orders.sqlite"
_ANY_PACE: Final = 1_000_000
_SUBJECT: Final = "material"


class OrderBook:
    """Counts what is dealt. For use by several threads."""

    def __init__(self, book: SpendingBook, *, own: Party, items_per_day: int) -> None:
        """Deal at most `items_per_day` to each organisation and role; count in `book`."""
        self._book = book
        self._own = own
        self._allowance = Allowance(items=items_per_day, sessions_per_minute=_ANY_PACE)

    def count(self, peer: Party, claims: TicketClaims) -> None:
        """Count the items of a ticket for whoever dialled, durably. Raises BudgetSpent, and counts nothing, beyond."""
        order = Order(
            peer=f"{peer.role.value} {peer.organisation}",
            subject=_SUBJECT,
            purpose=Purpose.PREPARE,
            amount=claims.images,
        )
        holder = Holder(whose=f"the {peer}", ask=f"the crypto provider, {self._own.organisation}")
        self._book.spend(order, self._allowance, holder)
