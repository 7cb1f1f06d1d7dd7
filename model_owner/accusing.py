"""What the model owner does when a decoy has found a data owner that did not follow the protocol.

It signs a record of it, keeps that, and stops the data owner. docs/operations.md says what an operator does then.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from authority.vouching import Domain, Signer
from contract.deviation import Deviation
from contract.errors import PeerViolation
from contract.ticket import TicketClaims
from contract.violation import DecoyStatement, ViolationRecord
from model_owner.stopped_accounts import StoppedAccounts
from model_owner.verdict import ThirdParty, judge
from secure_computation.channel.trust import Trust
from secure_computation.session_statements import Signed, describe_item

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Accuser:
    """Makes the records of one model owner."""

    stopped: StoppedAccounts
    signer: Callable[[], Signer]
    """This party's own, now."""
    trust: Callable[[], Trust]
    clock: Callable[[], float] = time.time

    def accuse(
        self, claims: TicketClaims, deviation: Deviation, *, deal_tag: bytes, signed: Signed | None
    ) -> ViolationRecord:
        """Sign and keep a record, and stop the data owner. Raises ConfigurationError if the disk will not.

        `signed`: what the data owner had signed of this item; None if it broke off before.
        """
        item = describe_item(claims, item=deviation.item, deal_tag=deal_tag)
        unsigned = ViolationRecord(
            at=int(self.clock()),
            account=claims.account,
            item=item,
            session=claims.session,
            ticket=claims.jti,
            found=deviation.found,
            position=deviation.position,
            uploads=deviation.uploads,
            messages=deviation.messages,
            decoy=DecoyStatement(item=item, at=deviation.stated.at, messages=deviation.stated.messages),
            decoy_voucher=deviation.stated.voucher,
            signed=None if signed is None else signed.statement,
            signed_voucher=None if signed is None else signed.voucher,
        )
        voucher = self.signer().sign(unsigned.statement(), Domain.VIOLATION)
        record = unsigned.model_copy(update={"voucher": voucher})
        path = self.stopped.stop(record)
        _LOG.warning(
            "session %s: %s did not follow the protocol and is served no more; %s, kept in %s",
            claims.session,
            claims.data_owner,
            self._find_weight(record),
            path,
        )
        return record

    def _find_weight(self, record: ViolationRecord) -> str:
        """What the record is worth to others, in words."""
        trust = self.trust()
        try:
            verdict = judge(record, ThirdParty(authority=trust.authority, revocations=trust.revocations))
        except PeerViolation as error:
            return str(error)
        return "its record shows that to others" if verdict.stands else "its record is this party's word"
