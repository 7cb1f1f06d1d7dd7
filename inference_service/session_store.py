"""Sessions in the database: opened, changed by the rules of `sessions`, and ended by the clock.

The clock is asked twice: whenever somebody looks at a session (so nobody ever sees one that should have ended), and by
a sweep in the background (so that one nobody looks at ends too).
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from bookkeeping.audit_log import AuditLog
from contract.allowance import ModelAllowances
from contract.api import ModelEntry, SessionEvent, SessionReport, SessionRequest, SessionState, SessionView
from contract.api import SessionEventName as Event
from contract.errors import BudgetSpent, CallerError, ItemsSeen, Refused, TooFast
from contract.ticket import BATCHED_ENGINES, STOCKED_ENGINES, Items, Purpose
from inference_service.accounts import OPENS_SESSIONS, Account, AccountRole
from inference_service.budgets import Budgets
from inference_service.catalog import Catalog
from inference_service.metrics import Metrics
from inference_service.problems import Conflict, NotFound, TooMany
from inference_service.session_states import LIVE, Actor, find_next_state
from inference_service.storage import Clock, Database, SessionEventRow, SessionRow, SpentItemRow, utc_now
from inference_service.tickets import TicketOffice

_LIVE = [state.value for state in LIVE]


@dataclass(repr=False, eq=False)
class Sessions:
    """The sessions in a database. Thread-safe."""

    database: Database
    catalog: Catalog
    tickets: TicketOffice
    budgets: Budgets
    audit: AuditLog
    metrics: Metrics
    lifetime: timedelta
    """Of a session."""
    live_per_account: int
    """The most that an account may have at once."""
    clock: Clock = utc_now
    _refused: dict[UUID, int] = field(default_factory=dict, init=False)
    """In which minute a refusal of an account was last noted."""

    def open(self, account: Account, request: SessionRequest) -> SessionView:
        """Open a session and sign its ticket: the one answer that carries it.

        Raises:
            Refused: not an account of a data owner. NotFound, ModelWithdrawn: no such model in service.
            ItemsSeen: a stocked item was named for an earlier session.
            TooMany: too many live sessions. BudgetSpent, TooFast: too much for this account, or for this hospital.
            CallerError: the model has no lowering for the engine, or the engine cannot do what is asked of it.
        """
        if account.role not in OPENS_SESSIONS:
            raise Refused("only a clinician's or a gateway's account may open sessions: use the data owner's key")
        _check_request(request)
        entry = self.catalog.model(request.model, request.version)
        if request.engine not in entry.engines:
            offered = ", ".join(entry.engines)
            raise CallerError(f"this model does not run on engine {request.engine.value}: choose one of {offered}")
        allowances = self.catalog.allowances(entry.card.name, entry.version)
        row = self._make_row(account, entry, request)
        self.sweep(account=account)
        with self.database.write() as session:
            self._require_room(session, account)
            self._require_budget(session, account, row, allowances)
            session.add(row)
            session.flush()
            self._spend_items(session, row, request.items)
            self.audit.record("session-opened", output_policy=entry.card.output_policy, **_describe_session(row))
        self.metrics.session(SessionState.OPENED)
        return _make_view(row, ticket=self.tickets.ticket(row, card=entry.card, items=request.items))

    def _make_row(self, account: Account, entry: ModelEntry, request: SessionRequest) -> SessionRow:
        now = self.clock().replace(microsecond=0)  # tickets count whole seconds, and both end at the same one
        return SessionRow(
            id=uuid4(),
            account_id=account.id,
            state=SessionState.OPENED.value,
            purpose=request.purpose.value,
            model=entry.card.name,
            version=entry.version,
            plan_hash=entry.plan_hash,
            engine=request.engine.value,
            images=request.images,
            data_owner=account.organisation,
            model_owner=entry.model_owner.organisation,
            crypto_provider=entry.crypto_provider.organisation,
            created_at=now,
            expires_at=now + self.lifetime,
            report=SessionReport().model_dump_json(),
        )

    def view(self, account: Account, session_id: UUID) -> SessionView:
        """Where a session stands. Raises NotFound when it is not there or not this account's to see."""
        self._expire(session_id)
        with self.database.read() as session:
            return _make_view(_find_visible(session, account, session_id))

    def apply(self, account: Account, session_id: UUID, event: SessionEvent) -> SessionView:
        """Record what happened.

        Raises:
            NotFound: as for `view`. Conflict: it cannot happen in this state, or another event won.
            Refused: it is not this account's to report.
        """
        self._expire(session_id)
        with self.database.write() as session:
            row = _find_visible(session, account, session_id)
            actor = _find_actor(account, row)
            state = find_next_state(Purpose(row.purpose), SessionState(row.state), event.event, actor=actor)
            row.report = _merge_reports(row.report, event.report, actor=actor)
            row.audited = _count_audited(row, event)
            self._move(session, row, event.event, state, account=account)
        self.metrics.session(state)
        return _make_view(row)

    def sweep(self, *, account: Account | None = None) -> int:
        """End the sessions whose time is over (all, or one account's); return how many."""
        due = select(SessionRow.id).where(SessionRow.state.in_(_LIVE), SessionRow.expires_at <= self.clock())
        if account is not None:
            due = due.where(SessionRow.account_id == account.id)
        with self.database.read() as session:
            overdue = session.scalars(due).all()
        return sum(self._expire(session_id) for session_id in overdue)

    def _expire(self, session_id: UUID) -> bool:
        """End one session if its time is over; whether it was."""
        now = self.clock()
        with self.database.read() as session:
            seen = session.get(SessionRow, session_id)
            if seen is None or seen.state not in _LIVE or seen.expires_at > now:
                return False
        with self.database.write() as session:
            row = session.get(SessionRow, session_id)
            if row is None or row.state not in _LIVE:
                return False  # an event came in between
            state = find_next_state(Purpose(row.purpose), SessionState(row.state), Event.EXPIRE, actor=Actor.CLOCK)
            self._move(session, row, Event.EXPIRE, state, account=None)
        self.metrics.session(state)
        return True

    def _move(
        self, session: Session, row: SessionRow, event: Event, state: SessionState, *, account: Account | None
    ) -> None:
        """Change the state if it is still the one that was read, and write the audit line."""
        before = row.state
        session.flush()
        changed = session.scalars(
            update(SessionRow)
            .where(SessionRow.id == row.id, SessionRow.state == before)
            .values(state=state.value)
            .returning(SessionRow.id)
        ).all()
        if not changed:
            raise Conflict("another event changed this session at the same time: ask for its state")
        session.refresh(row)
        session.add(
            SessionEventRow(
                session_id=row.id,
                event=event.value,
                state=state.value,
                account_id=account.id if account is not None else None,
                at=self.clock(),
            )
        )
        session.flush()
        who = str(account.id) if account is not None else None
        self.audit.record("session-changed", session=row.id, account=who, state=state.value)

    def _require_budget(
        self, session: Session, account: Account, row: SessionRow, model: ModelAllowances | None
    ) -> None:
        try:
            self.budgets.require(session, account, row, model, now=row.created_at)
        except (BudgetSpent, TooFast) as error:
            self._note_refusal(row, error.code)
            raise

    def _note_refusal(self, row: SessionRow, code: str) -> None:
        """Once a minute for each account: a caller that insists cannot fill the disk."""
        minute = int(row.created_at.timestamp()) // 60
        if self._refused.get(row.account_id) != minute:
            self._refused[row.account_id] = minute
            self.audit.record("session-refused", state=code, **_describe_session(row))

    def _spend_items(self, session: Session, row: SessionRow, items: Items) -> None:
        """Note that these items are named in a ticket. Raises ItemsSeen if one was before, for whomever."""
        seen = session.scalars(select(SpentItemRow.name).where(SpentItemRow.name.in_(items))).all()
        if seen:
            self._note_refusal(row, ItemsSeen.code)
            raise ItemsSeen(
                f"stocked item {min(seen)[:12]} was named for an earlier session and is used once only: name others, "
                "or open a session without"
            )
        session.add_all(SpentItemRow(name=name, session_id=row.id) for name in items)
        session.flush()

    def _require_room(self, session: Session, account: Account) -> None:
        live = select(func.count()).where(SessionRow.account_id == account.id, SessionRow.state.in_(_LIVE))
        if (session.scalar(live) or 0) >= self.live_per_account:
            raise TooMany(
                f"this account has {self.live_per_account} live sessions, the most it may have: end or cancel some"
            )


def _check_request(request: SessionRequest) -> None:
    """Raise CallerError for what the engine cannot do."""
    if request.purpose is Purpose.PREPARE and request.engine not in STOCKED_ENGINES:
        raise CallerError(
            f"material of engine {request.engine.value} cannot be prepared ahead: open a session to diagnose"
        )
    if request.images > 1 and request.purpose is Purpose.PREPARE:
        raise CallerError("a session to prepare stocks one item: ask for 1 image, and open one session for each")
    if request.images > 1 and request.engine not in BATCHED_ENGINES:
        raise CallerError(f"engine {request.engine.value} evaluates one image a session: ask for 1 image")


def _find_visible(session: Session, account: Account, session_id: UUID) -> SessionRow:
    wanted = select(SessionRow).where(SessionRow.id == session_id)
    if account.role is not AccountRole.OPERATOR:
        is_clinician = account.role is AccountRole.CLINICIAN
        is_model_owner = account.role is AccountRole.MODEL_OWNER
        wanted = wanted.where(
            or_(
                SessionRow.account_id == account.id,
                (SessionRow.data_owner == account.organisation) & is_clinician,
                (SessionRow.model_owner == account.organisation) & is_model_owner,
            )
        )
    row = session.scalar(wanted)
    if row is None:
        raise NotFound("no session of yours has this id: check it, or open a new session")
    return row


def _describe_session(row: SessionRow) -> dict[str, Any]:
    """What the audit log says of a session."""
    return {
        "session": row.id,
        "account": str(row.account_id),
        "organisation": row.data_owner,
        "model": row.model,
        "version": row.version,
        "purpose": row.purpose,
        "engine": row.engine,
        "images": row.images,
    }


def _find_actor(account: Account, row: SessionRow) -> Actor:
    if account.id == row.account_id:
        return Actor.DATA_OWNER
    if account.role is AccountRole.MODEL_OWNER:
        return Actor.MODEL_OWNER
    raise Refused("only the account that opened a session, or its model's owner, may report on it: use that key")


def _count_audited(row: SessionRow, event: SessionEvent) -> int:
    """How many of a session's images do not count. Raises CallerError for more than it has."""
    audited = event.report.audited if event.report is not None else None
    if audited is not None and audited > row.images:
        raise CallerError(f"this session has {row.images} images: so many may be audited, not {audited}")
    return row.audited if audited is None else audited


def _merge_reports(stored: str, report: SessionReport | None, *, actor: Actor) -> str:
    """What was reported so far and what is new; a model owner adds its reason to fail and nothing else."""
    if report is None:
        return stored
    fields = {"failure"} if actor is Actor.MODEL_OWNER else set(SessionReport.model_fields) - {"audited"}
    news = {name: value for name in fields if (value := getattr(report, name)) is not None}
    return SessionReport.model_validate_json(stored).model_copy(update=news).model_dump_json()


def _make_view(row: SessionRow, *, ticket: str | None = None) -> SessionView:
    report = SessionReport.model_validate_json(row.report)
    known = SessionView.model_validate(row, from_attributes=True)
    return SessionView(**dict(known) | dict(report) | {"ticket": ticket, "audited": row.audited})
