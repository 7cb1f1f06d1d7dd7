"""How far the model owners' audit logs have come, as they tell after each session; in return they learn of ours.

Each side so holds what the other would have to explain away, were entries cut off at the end of its log.
"""

from dataclasses import dataclass

from bookkeeping.audit_log import AuditLog
from contract.api import AuditHead
from contract.errors import Refused
from inference_service.accounts import Account, AccountRole
from inference_service.problems import Conflict, NotFound
from inference_service.storage import AuditHeadRow, Clock, Database, utc_now


@dataclass(repr=False, eq=False)
class AuditHeads:
    """The last head of each model owner, in a database."""

    database: Database
    audit: AuditLog
    clock: Clock = utc_now

    def exchange(self, account: Account, head: AuditHead) -> AuditHead:
        """Remember a model owner's head and return our own.

        Raises Refused for another role, Conflict if the same log was further before, or was another one.
        """
        organisation = _require_model_owner(account)
        with self.database.write() as session:
            row = session.get(AuditHeadRow, organisation)
            if row is None:
                row = AuditHeadRow(organisation=organisation, number=0)
                session.add(row)
            if head.number < row.number or (head.number == row.number and head.hash != row.hash):
                raise Conflict(
                    f"the audit log of {organisation} was seen at entry {row.number} before and has another end now: "
                    "check it with `model-owner audit verify`"
                )
            row.number, row.hash, row.at = head.number, head.hash, self.clock()
            session.flush()
            return self.audit.record("head-seen", organisation=organisation, entry=head.number, hash=head.hash)

    def known(self, account: Account) -> AuditHead:
        """What is remembered of the caller's own log. Raises Refused as above, NotFound if nothing is."""
        with self.database.read() as session:
            row = session.get(AuditHeadRow, _require_model_owner(account))
            if row is None:
                raise NotFound("no audit head of your organisation is known: the model owner tells it after a session")
            return AuditHead(number=row.number, hash=row.hash)


def _require_model_owner(account: Account) -> str:
    if account.role is not AccountRole.MODEL_OWNER:
        raise Refused("only a model owner's account has an audit log known here: use that account's key")
    return account.organisation
