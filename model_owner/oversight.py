"""What the model owner allows and records by itself, whatever the front end says: budgets, and the audit log."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from bookkeeping.audit_log import AuditLog
from bookkeeping.spending import Charge, Counted, SpendingBook
from bookkeeping.used_tickets import TicketUse
from contract.allowance import Holder, ModelAllowances
from contract.api import SessionEventName, SessionReport
from contract.errors import EncryptedInferenceError
from contract.identity import Party, Role
from contract.ticket import TicketClaims
from inference_service.client import InferenceServiceClient
from model_owner.stopped_accounts import StoppedAccounts

BOOK_FILE: Final = "budgets.sqlite"
SERVED: Final = "served"
"""State of a session that reached its end; any other is the code of an error."""
_BROKEN_OFF: Final = "broken-off"
_LOG = logging.getLogger(__name__)


@dataclass(repr=False, eq=False)
class Oversight:
    """Counts and records the sessions of one model owner. For use by several threads."""

    own: Party
    book: SpendingBook
    allowances: Mapping[tuple[str, str], ModelAllowances]
    """What each hospital may use of a model, by the model's name and version."""
    audit: AuditLog
    stopped: StoppedAccounts
    front_end: InferenceServiceClient
    _telling: threading.Lock = field(default_factory=threading.Lock, init=False)
    _untold: bool = field(default=False, init=False)
    _refused: dict[str, int] = field(default_factory=dict, init=False)

    @contextmanager
    def session(self, claims: TicketClaims) -> Iterator[None]:
        """Record that a session begins, and how it ends; exchange heads with the front end after one that was served.

        Raises ConfigurationError if the log cannot be written: then nothing is served.
        """
        details = _describe_session(claims)
        self.audit.record("session-begun", output_policy=claims.output_policy, **details)
        state = _BROKEN_OFF
        try:
            yield
            state = SERVED
        except EncryptedInferenceError as error:
            state = error.code
            raise
        finally:
            self.audit.record("session-ended", state=state, **details)
        self._exchange_heads()

    def refused(self, peer: Party, error: EncryptedInferenceError) -> None:
        """Record that a ticket was refused; once a minute for each peer, so that nobody can fill the disk."""
        minute = int(time.monotonic()) // 60
        if self._refused.get(peer.organisation) != minute:
            self._refused[peer.organisation] = minute
            self.audit.record("ticket-refused", organisation=peer.organisation, role=peer.role.value, state=error.code)

    def require_served(self, claims: TicketClaims) -> None:
        """Raise AccountStopped for a data owner that a decoy has found to deviate."""
        self.stopped.require_served(claims.data_owner, own=self.own.organisation)

    def spend(self, claims: TicketClaims) -> Counted:
        """Count the session's images, or its item, for the data owner that dialled, and note its ticket as used.

        `claims.data_owner` is the organisation in its certificate: `admit` has compared them. Raises MaterialSpent for
        a ticket that was used before, BudgetSpent or TooFast.
        """
        holder = Holder(
            whose=f"{claims.data_owner} for {claims.model}", ask=f"the model's owner, {self.own.organisation}"
        )
        allowance = self.allowances[claims.model, claims.version].of(claims.data_owner)
        charge = Charge(peer=claims.data_owner, subject=claims.model, purpose=claims.purpose, amount=claims.images)
        return self.book.spend(charge, allowance, holder, ticket=TicketUse.of(claims, by=Role.DATA_OWNER))

    def use_up(self, claims: TicketClaims) -> None:
        """Note a ticket as used, without counting anything. Raises MaterialSpent if it was used before."""
        self.book.use(TicketUse.of(claims, by=Role.DATA_OWNER))

    def give_back(self, counted: Counted) -> None:
        """Take back what `spend` counted. The ticket stays used."""
        self.book.give_back(counted)

    def audited(self, claims: TicketClaims, counted: Counted, images: int) -> None:
        """Record that so many images of a session get no answer, because the data owner was checked by them and all was
        right; they are given back, here and at the front end.

        The session still counts for the pace. How often this happens is the crypto provider's coin alone.
        """
        self.book.give_back(counted, amount=images)
        self.audit.record("data-owner-checked", **_describe_session(claims) | {"images": images})
        try:
            self.front_end.report(claims.session, SessionEventName.AUDIT, SessionReport(audited=images))
        except EncryptedInferenceError as error:
            _LOG.warning("session %s: the front end still counts what was checked: %s", claims.session, error)

    def _exchange_heads(self) -> None:
        """Each side remembers how far the other's log has come.

        One session's thread does it for those that end meanwhile: a front end that does not answer holds up one.
        """
        self._untold = True
        for _ in range(2):
            if not self._untold or not self._telling.acquire(blocking=False):
                return
            try:
                self._untold = False
                self._exchange_heads_now()
            except EncryptedInferenceError as error:
                _LOG.warning("audit heads were not exchanged: %s", error)
            finally:
                self._telling.release()

    def _exchange_heads_now(self) -> None:
        own = self.audit.head()
        if own is not None:
            theirs = self.front_end.exchange_audit_heads(own)
            self.audit.record("head-seen", entry=theirs.number, hash=theirs.hash)


def _describe_session(claims: TicketClaims) -> dict[str, Any]:
    return {
        "session": claims.session,
        "account": claims.account,
        "organisation": claims.data_owner,
        "model": claims.model,
        "version": claims.version,
        "purpose": claims.purpose,
        "engine": claims.engine,
        "images": claims.images,
    }
