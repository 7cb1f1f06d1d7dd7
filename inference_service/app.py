"""The front end as an ASGI app: its endpoints, and how they are put together.

No endpoint takes an image, a share or a weight. The one body that is not a short JSON object is a model's
registration, which carries the public plan as text.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRouter
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from structlog.typing import FilteringBoundLogger

from authority.certificates import require_file_in_time
from bookkeeping.audit_log import AuditLog
from contract.api import (
    MAX_PLAN_BYTES,
    AuditHead,
    Health,
    ModelEntry,
    ModelList,
    ModelRegistration,
    Problem,
    SessionEvent,
    SessionEventName,
    SessionRequest,
    SessionView,
    Unready,
)
from contract.base import Name, Sha256, Version
from contract.errors import EncryptedInferenceError, Refused
from contract.fault_words import describe_fault
from contract.ticket import load_signing_key
from inference_service.accounts import Account, AccountRole, Accounts
from inference_service.audit_heads import AuditHeads
from inference_service.budgets import Budgets
from inference_service.catalog import Catalog
from inference_service.log import new_log
from inference_service.metrics import Metrics
from inference_service.middleware import ApiMiddleware, answer_problem
from inference_service.problems import MEDIA_TYPE, build_problem
from inference_service.session_store import Sessions
from inference_service.settings import ServiceSettings
from inference_service.storage import Clock, Database, utc_now
from inference_service.tickets import TicketOffice
from plumbing.readiness import Look, Readiness, make_health, require_writable


@dataclass(frozen=True, kw_only=True)
class Components:
    """What the endpoints work with. One for each app."""

    database: Database
    accounts: Accounts
    catalog: Catalog
    sessions: Sessions
    audit: AuditLog
    audit_heads: AuditHeads
    metrics: Metrics
    readiness: Readiness
    clock: Clock


def _get_service(request: Request) -> Components:
    service = request.app.state.service
    assert isinstance(service, Components)
    return service


def _get_account(request: Request) -> Account:
    account = request.state.account  # put there by the front door, which lets nobody else in
    assert isinstance(account, Account)
    return account


Parts = Annotated[Components, Depends(_get_service)]
Caller = Annotated[Account, Depends(_get_account)]

_open = APIRouter(tags=["health"])
_closed = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False, description="An account's API key"))])


@_open.get("/v2/health/live")
def live(parts: Parts) -> Health:
    """The process answers."""
    return Health(status="live", time=parts.clock())


@_open.get("/v2/health/ready", responses={HTTPStatus.SERVICE_UNAVAILABLE: {"model": Health}})
def ready(parts: Parts, response: Response) -> Health:
    """A session could be opened: disk, database, audit log and certificate are as they must be."""
    lacks = parts.readiness.lacks()
    if lacks:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return make_health(lacks, now=parts.clock())


@_closed.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
def metrics(parts: Parts, caller: Caller) -> Response:
    """Counters in the Prometheus text format (an operator's account)."""
    if caller.role is not AccountRole.OPERATOR:
        raise Refused("metrics are for an operator's account: use that key")
    return Response(parts.metrics.exposition(), media_type=parts.metrics.content_type)


@_closed.get("/v2/models", tags=["models"])
def list_models(parts: Parts) -> ModelList:
    """Every model version in service."""
    return ModelList(models=parts.catalog.models())


@_closed.get("/v2/models/{name}", tags=["models"])
def get_model(parts: Parts, name: Name, version: Version | None = None) -> ModelEntry:
    """One version of a model; the newest by default."""
    return parts.catalog.model(name, version)


@_closed.put("/v2/models/{name}/versions/{version}", tags=["models"])
def register_model(
    parts: Parts, caller: Caller, name: Name, version: Version, registration: ModelRegistration
) -> ModelEntry:
    """Put a version in service, or replace its addresses (a model owner's account)."""
    return parts.catalog.register(caller, name=name, version=version, registration=registration)


@_closed.delete("/v2/models/{name}/versions/{version}", tags=["models"], status_code=HTTPStatus.NO_CONTENT)
def withdraw_model(parts: Parts, caller: Caller, name: Name, version: Version) -> None:
    """Take a version out of service for good (its owner's account)."""
    parts.catalog.withdraw(caller, name=name, version=version)


@_closed.get("/v2/plans/{plan_hash}", tags=["models"], response_class=JSONResponse)
def get_plan(parts: Parts, plan_hash: Sha256) -> Response:
    """A public plan, byte for byte as it was registered."""
    return Response(parts.catalog.plan(plan_hash), media_type="application/json")


@_closed.post("/v2/sessions", tags=["sessions"], status_code=HTTPStatus.CREATED)
def open_session(parts: Parts, caller: Caller, request: SessionRequest) -> SessionView:
    """Open a session to diagnose images, or to prepare material for a later one (a clinician's account, a gateway's).

    The ticket stands in this answer only.
    """
    return parts.sessions.open(caller, request)


@_closed.get("/v2/sessions/{session_id}", tags=["sessions"])
def get_session(parts: Parts, caller: Caller, session_id: UUID) -> SessionView:
    """Where a session of one's own organisation stands."""
    return parts.sessions.view(caller, session_id)


@_closed.post("/v2/sessions/{session_id}/events", tags=["sessions"])
def report_event(parts: Parts, caller: Caller, session_id: UUID, event: SessionEvent) -> SessionView:
    """Report what happened in a session: to diagnose `prepare`, `run`, `complete`; to prepare `prepare`, `complete`."""
    return parts.sessions.apply(caller, session_id, event)


@_closed.delete("/v2/sessions/{session_id}", tags=["sessions"])
def cancel_session(parts: Parts, caller: Caller, session_id: UUID) -> SessionView:
    """End a session that has not ended yet (the account that opened it)."""
    return parts.sessions.apply(caller, session_id, SessionEvent(event=SessionEventName.CANCEL))


@_closed.post("/v2/audit-heads", tags=["audit"])
def exchange_audit_heads(parts: Parts, caller: Caller, head: AuditHead) -> AuditHead:
    """Tell how far one's own audit log has come, and learn how far the front end's has (a model owner's account)."""
    return parts.audit_heads.exchange(caller, head)


@_closed.get("/v2/audit-heads", tags=["audit"])
def get_audit_head(parts: Parts, caller: Caller) -> AuditHead:
    """What is remembered of the end of one's own audit log (a model owner's account)."""
    return parts.audit_heads.known(caller)


def create_app(
    settings: ServiceSettings, *, clock: Clock = utc_now, log: FilteringBoundLogger | None = None
) -> FastAPI:
    """Put the front end together.

    Args:
        settings: as `load_settings` gives them; `inference-service init` has been run on the data folder.
        clock: the present; tests pass their own.
        log: where to log; stderr by default.

    Raises:
        ConfigurationError: the signing key is absent or wrong. Unavailable: the database cannot be opened.
    """
    log = log or new_log(sys.stderr)
    service = _assemble(settings, clock, log)
    app = FastAPI(
        title="Encrypted inference for medical images: front end",
        description="Who may run which model with whom, when, and what became of it. Never an image or a result.",
        version="2.0.0",
        docs_url=None,  # both pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_make_lifespan(service, settings, log),
        responses={"default": _PROBLEM_RESPONSE},
    )
    app.state.service = service
    app.include_router(_open)
    app.include_router(_closed)
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    app.add_exception_handler(HTTPException, _answer_no_route)
    app.add_middleware(ApiMiddleware, accounts=service.accounts, metrics=service.metrics, log=log)
    return app


def _assemble(settings: ServiceSettings, clock: Clock, log: FilteringBoundLogger) -> Components:
    tickets = TicketOffice(load_signing_key(settings.signing_key), network_profile=settings.network_profile)
    database, counters = Database(settings.database), Metrics()
    audit = AuditLog(settings.audit_folder, keep_days=settings.audit_days, clock=lambda: clock().timestamp())
    catalog = Catalog(database, audit=audit, max_plan_bytes=MAX_PLAN_BYTES, clock=clock)
    sessions = Sessions(
        database,
        catalog=catalog,
        tickets=tickets,
        budgets=Budgets(
            {
                AccountRole.CLINICIAN: settings.clinician_allowance,
                AccountRole.GATEWAY: settings.gateway_allowance,
            }
        ),
        audit=audit,
        metrics=counters,
        lifetime=timedelta(seconds=settings.session_seconds),
        live_per_account=settings.live_sessions_per_account,
        clock=clock,
    )
    return Components(
        database=database,
        accounts=Accounts(database, audit=audit, clock=clock),
        catalog=catalog,
        sessions=sessions,
        audit=audit,
        audit_heads=AuditHeads(database, audit=audit, clock=clock),
        metrics=counters,
        readiness=_make_readiness(settings, database, audit, log),
        clock=clock,
    )


def _make_readiness(
    settings: ServiceSettings, database: Database, audit: AuditLog, log: FilteringBoundLogger
) -> Readiness:
    looks: dict[Unready, Look] = {
        Unready.DISK: partial(require_writable, settings.data_folder),
        Unready.DATABASE: database.check,
        Unready.AUDIT_LOG: audit.check,
    }
    if settings.certificate is not None:
        looks[Unready.CERTIFICATE] = partial(require_file_in_time, settings.certificate)
    return Readiness(looks, tell=lambda words: log.warning("readiness", what=words))


def _make_lifespan(service: Components, settings: ServiceSettings, log: FilteringBoundLogger) -> Any:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(service.sessions, settings.sweep_seconds, log))
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper])
            service.database.close()

    return lifespan


async def _sweep(sessions: Sessions, every_seconds: float, log: FilteringBoundLogger) -> None:
    while True:
        try:
            expired = await run_in_threadpool(sessions.sweep)
            if expired:
                log.info("expired", sessions=expired)
        except EncryptedInferenceError as error:
            log.error("sweep failed", code=error.code, reason=error)  # noqa: TRY400 - one line says it all
        await asyncio.sleep(every_seconds)


_PROBLEM_RESPONSE: dict[str, Any] = {
    "description": "A problem (RFC 9457)",
    "model": Problem,
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


async def _answer_malformed(request: Request, error: Exception) -> JSONResponse:
    """Name the first field that is wrong, never its value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    detail = f"{where}: {describe_fault(first)}; correct the request (see /openapi.json)"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return answer_problem(build_problem(status, code="caller", detail=detail, request=request.state.request))


async def _answer_no_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = f"{status.phrase}: see /openapi.json for what can be asked"
    code = "not-found" if status is HTTPStatus.NOT_FOUND else "caller"
    return answer_problem(build_problem(status, code=code, detail=detail, request=request.state.request))
