"""What every request passes before any endpoint sees it.

In this order: it gets an id; unless its path is public, its API key must belong to an account; its body must be JSON,
short enough for who is asking, and there in time. What comes back is counted and logged, and every error leaves here
as a problem (RFC 9457). Endpoints are closed unless they stand in `PUBLIC_PATHS`, so a new one cannot be left open by
forgetting something.
"""

import asyncio
import time
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID, uuid4

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from contract.api import MAX_PLAN_BYTES, Problem
from contract.errors import EncryptedInferenceError
from contract.model_card import MAX_CARD_BYTES
from inference_service.accounts import Account, AccountRole, Accounts
from inference_service.metrics import Metrics
from inference_service.problems import (
    MEDIA_TYPE,
    NotJson,
    TooLarge,
    TooSlow,
    Unauthenticated,
    make_problem,
)
from plumbing.http_server import vouch
from plumbing.tally import Tally

PUBLIC_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", "/openapi.json"})
"""Nothing is read of a body that comes with them."""
MAX_BODY_BYTES = 64 * 1024
MAX_REGISTRATION_BYTES = 2 * MAX_PLAN_BYTES + MAX_CARD_BYTES
"""A plan travels as a JSON string, which escapes each of its quotes."""
MAX_BODY_COMMAS = 1 << 19
"""Lists have about as many entries: each that is wrong takes half a kilobyte to tell."""
BODY_SECONDS = 60.0


@dataclass(slots=True)
class _Answer:
    """What was sent, for log and metrics."""

    status: int | None = None


class ApiMiddleware:
    """ASGI middleware, as the module says. Leaves the caller's account in `scope["state"]["account"]`."""

    def __init__(self, app: ASGIApp, *, accounts: Accounts, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._app = app
        self._accounts = accounts
        self._metrics = metrics
        self._log = log
        self._strangers = Tally(lambda kind, count: log.info("requests without an account", kind=kind, more=count))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; pass on what is not HTTP (the lifespan)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._strangers.flush()
            return
        request, start, answer = uuid4(), time.monotonic(), _Answer()
        scope.setdefault("state", {})["request"] = request
        out = _add_headers(send, answer, request)
        try:
            await self._serve(scope, receive, out)
        except EncryptedInferenceError as error:
            if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR and self._is_worth_a_line(scope, error.code):
                self._log.error("failed", request=request, code=error.code, reason=error)
            await _send_problem(make_problem(error, request=request), answer, scope, out)
        except Exception as error:  # noqa: BLE001 - the outermost boundary: nobody above would answer in our form
            # Neither the message nor local variables: nobody knows what stands in them.
            frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
            self._log.error("failed", request=request, code="internal", kind=type(error).__name__, where=frames)
            await _send_problem(make_problem(EncryptedInferenceError(), request=request), answer, scope, out)
        finally:
            self._record(scope, answer, request=request, seconds=time.monotonic() - start)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PUBLIC_PATHS:
            await self._app(scope, _replay(b"", receive), send)
            return
        headers = Headers(scope=scope)
        account = await run_in_threadpool(self._accounts.authenticate, _read_api_key(headers))
        scope["state"]["account"] = account
        vouch(scope)
        limit = _choose_limit(scope, account)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive, headers, limit=limit)
        except TimeoutError:
            raise TooSlow(
                f"the body did not arrive within {BODY_SECONDS:.0f} s: check the network, try again"
            ) from None
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _record(self, scope: Scope, answer: _Answer, *, request: UUID, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        account: Account | None = scope["state"].get("account")
        status = answer.status or 499  # the caller left before there was an answer
        self._metrics.request(method=scope["method"], route=route, status=status, seconds=seconds)
        if not self._is_worth_a_line(scope, f"{route} {status}"):
            return
        self._log.info(
            "request",
            request=request,
            method=scope["method"][:8],
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
            account=account.prefix if account is not None else None,
        )

    def _is_worth_a_line(self, scope: Scope, kind: str) -> bool:
        """Whether an account stands behind a request, or it is the first of its kind in a minute."""
        return "account" in scope["state"] or self._strangers.is_first(kind)


def _read_api_key(headers: Headers) -> str:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("no API key: send it as `Authorization: Bearer KEY`")
    return key.strip()


def _choose_limit(scope: Scope, account: Account) -> int:
    registers = scope["method"] == "PUT" and account.role is AccountRole.MODEL_OWNER
    return MAX_REGISTRATION_BYTES if registers else MAX_BODY_BYTES


async def _read(receive: Receive, headers: Headers, *, limit: int) -> bytes | None:
    """The whole body, read no further than `limit` bytes; None when the caller hangs up."""
    too_large = TooLarge(f"the body is longer than the {limit} bytes that this call may have: send less")
    declared = headers.get("Content-Length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:19]) > limit:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if body and headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            raise NotJson("the body is not JSON: send Content-Type: application/json")
        if not message.get("more_body", False):
            break
    if body.count(b",") > MAX_BODY_COMMAS:
        raise TooLarge("the body holds too long a list: send less")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _add_headers(send: Send, answer: _Answer, request: UUID) -> Send:
    async def finish(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = str(request)
            headers["Cache-Control"] = "no-store"  # answers hold tickets
            headers["X-Content-Type-Options"] = "nosniff"
        await send(message)

    return finish


def answer_problem(problem: Problem) -> JSONResponse:
    """A problem as its HTTP answer."""
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == HTTPStatus.UNAUTHORIZED else {}
    if problem.retry_after_seconds is not None:
        headers["Retry-After"] = str(problem.retry_after_seconds)
    content = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


async def _send_problem(problem: Problem, answer: _Answer, scope: Scope, send: Send) -> None:
    if answer.status is None:  # once an answer has begun, hanging up is all that is left

        async def nothing_more() -> Message:
            return {"type": "http.disconnect"}

        await answer_problem(problem)(scope, nothing_more, send)
