"""What accounts and hospitals may still use, counted from the sessions that were opened for them.

Two allowances hold for every session: the account's (its own, or its role's from the settings), and the model owner's
for this model and the whole hospital. A session counts from its opening, whatever becomes of it: the front end signs a
ticket and never sees what it is used for. But if the model owner turned it away for want of a place, and has used up
its ticket, it counts for the pace alone. So do images by which the model owner checked the data owner, and which got no
answer (`audited`). The model owner counts again, by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from contract.allowance import RATE_SECONDS, Allowance, Holder, ModelAllowances, Used, require_within
from contract.api import SessionState
from contract.ticket import Purpose
from inference_service.accounts import Account, AccountRole
from inference_service.storage import SessionRow

_OPERATOR = "the operator of the inference service"


@dataclass(repr=False, eq=False)
class Budgets:
    """Decides whether a session may still be opened."""

    by_role: Mapping[AccountRole, Allowance]
    """Of accounts that have no allowance of their own."""

    def of(self, account: Account) -> Allowance:
        """What an account may use."""
        return account.allowance or self.by_role.get(account.role, Allowance(images=0, items=0))

    def require(
        self, session: Session, account: Account, row: SessionRow, model: ModelAllowances | None, *, now: datetime
    ) -> None:
        """Raise BudgetSpent or TooFast if the session `row`, not stored yet, would be too much.

        Run it in the transaction that stores the session: no other session can come in between.
        """
        own = SessionRow.account_id == account.id
        holder = Holder(whose=f"account {account.prefix}", ask=_OPERATOR)
        _require(session, row, self.of(account), own, holder=holder, now=now)
        if model is None:
            return
        hospital = (SessionRow.data_owner == row.data_owner) & (SessionRow.model == row.model)
        holder = Holder(whose=f"{row.data_owner} for {row.model}", ask=f"the model's owner, {row.model_owner}")
        _require(session, row, model.of(row.data_owner), hospital, holder=holder, now=now)


def _require(
    session: Session,
    row: SessionRow,
    allowance: Allowance,
    whose: ColumnElement[bool],
    *,
    holder: Holder,
    now: datetime,
) -> None:
    start, _ = allowance.period(now)
    amount = select(func.coalesce(func.sum(SessionRow.images - SessionRow.audited), 0)).where(
        whose,
        SessionRow.purpose == row.purpose,
        SessionRow.created_at >= start,
        SessionRow.state != SessionState.TURNED_AWAY.value,
    )
    recently = SessionRow.created_at > now - timedelta(seconds=RATE_SECONDS)
    recent, oldest = session.execute(select(func.count(), func.min(SessionRow.created_at)).where(whose, recently)).one()
    used = Used(amount=int(session.scalar(amount) or 0), recent=int(recent), oldest_recent=oldest)
    require_within(allowance, used, purpose=Purpose(row.purpose), wanted=row.images, holder=holder, now=now)
