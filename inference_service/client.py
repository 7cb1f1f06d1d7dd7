"""How the parties talk to the front end: one synchronous call for each endpoint.

The parties import this module only, so it imports nothing else of the service. Whatever the server or the network
does, a call ends within its deadline, with a checked answer or an error of `contract.errors`.
"""

import hashlib
import re
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from authority.tls_refusal import find_cause, remedy
from contract.allowance import ModelAllowances
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
    SessionReport,
    SessionRequest,
    SessionView,
    Voucher,
)
from contract.errors import (
    BudgetSpent,
    CallerError,
    ConfigurationError,
    DeadlineExceeded,
    EncryptedInferenceError,
    ItemsSeen,
    ModelFileError,
    ModelWithdrawn,
    PeerDisconnected,
    PeerReported,
    PeerUnreachable,
    PeerViolation,
    Refused,
    TooFast,
)
from contract.fault_words import describe_fault
from contract.roles import OtherEnd, Role
from contract.ticket import Engine, Purpose
from plumbing.listening import is_host_name
from plumbing.proxies import find_proxy, is_loopback, why_unreachable
from plumbing.settings import FrontEnd

MAX_ANSWER_BYTES = 8 << 20
MAX_ANSWER_COMMAS = 1 << 18
"""A list or object has about as many: each entry that is wrong takes half a kilobyte to tell."""
_MAX_WORDS = 500
_PLACEHOLDER = re.compile(r"set ([A-Z_]+) instead")
"""What the sample settings have in place of an API key."""
_PEER = "inference service"
_PARTY = OtherEnd(role=Role.INFERENCE_SERVICE, organisation="")

_SAME_ERRORS: dict[str, type[CallerError]] = {
    kind.code: kind for kind in (CallerError, ItemsSeen, ModelFileError, ModelWithdrawn)
}
_LATER = {kind.code: kind for kind in (BudgetSpent, TooFast)}
"""What the front end tells under these codes is raised here as what it was there."""

Answer = TypeVar("Answer", bound=BaseModel)


class InferenceServiceClient:
    """A connection to the front end under one account.

    Args:
        url: where the front end listens. Plain http is accepted on loopback only: the API key travels in each call.
        api_key: this account's key.
        authority: PEM file of the authority, for https; None: the system's authorities.
        revocations: the authority's list of revoked certificates, read when the client is made; None: none is checked.
        timeout_seconds: deadline of each wait of a call (to connect, to send, for the answer to begin) and of the
            answer's body as a whole.

    Raises:
        ConfigurationError: the URL is not https, or the authority's file cannot be read.
    """

    def __init__(
        self,
        url: str,
        api_key: SecretStr,
        *,
        authority: Path | None = None,
        revocations: Path | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        named = urlsplit(url).hostname
        if named is not None and not is_host_name(named):
            raise ConfigurationError(f"{url[:200]}: its host can be no host's name: correct the URL")
        parsed = httpx.URL(url)
        loopback = is_loopback(parsed.host)
        if parsed.scheme != "https" and not (parsed.scheme == "http" and loopback):
            raise ConfigurationError(
                f"{url[:200]}: the API key may not travel in clear; give an https:// URL (http:// is for loopback)"
            )
        self._url = url.rstrip("/")
        self._target = f"{parsed.host}:{parsed.port or 443}"
        self._proxy = find_proxy(url)
        self._by_system = authority is None
        self._timeout_seconds = timeout_seconds
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key.get_secret_value()}", "Accept-Encoding": "identity"},
            verify=_make_tls_context(authority, revocations) if parsed.scheme == "https" else True,
            timeout=timeout_seconds,
            proxy=None if self._proxy is None else self._proxy.address,
            trust_env=False,  # which proxy it is, `find_proxy` has said
        )

    @classmethod
    def of(cls, front_end: FrontEnd, *, timeout_seconds: float = 30.0) -> Self:
        """The client that a party's settings describe. Raises ConfigurationError if they hold no key yet."""
        placeholder = _PLACEHOLDER.fullmatch(front_end.api_key.get_secret_value())
        if placeholder is not None:
            raise ConfigurationError(
                f"the API key is not set: put it into the variable {placeholder.group(1)}; the settings hold the "
                "sample's words in its place"
            )
        return cls(
            front_end.url,
            front_end.api_key,
            authority=front_end.authority,
            revocations=front_end.revocations,
            timeout_seconds=timeout_seconds,
        )

    def __repr__(self) -> str:
        """The URL; never the key."""
        return f"{type(self).__name__}({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def live(self) -> Health:
        """Whether the front end answers; raises as every call does."""
        return self._ask(Health, "GET", "/v2/health/live")

    def models(self) -> tuple[ModelEntry, ...]:
        """Every model version in service."""
        return self._ask(ModelList, "GET", "/v2/models").models

    def model(self, name: str, version: str | None = None) -> ModelEntry:
        """One version of a model; the newest by default. Raises PeerViolation if another one is the answer."""
        query = f"?version={quote(version, safe='')}" if version is not None else ""
        entry = self._ask(ModelEntry, "GET", f"/v2/models/{quote(name, safe='')}{query}")
        if entry.card.name != name or version not in {None, entry.version}:
            wanted = name if version is None else f"{name} {version}"
            raise PeerViolation(
                f"the {_PEER} answered with another model than {wanted}: do not use it, and tell its operator"
            )
        return entry

    def plan(self, plan_hash: str) -> bytes:
        """The public plan with this SHA-256 (hex): JSON, at most `MAX_PLAN_BYTES`.

        Raises PeerViolation when the bytes that came have another hash.
        """
        plan = self._call("GET", f"/v2/plans/{quote(plan_hash, safe='')}", limit=MAX_PLAN_BYTES)
        if hashlib.sha256(plan).hexdigest() != plan_hash:
            raise PeerViolation(
                f"the {_PEER} sent a plan that does not have the hash asked for: do not use it, and tell its operator"
            )
        return plan

    def register_model(
        self, entry: ModelEntry, *, voucher: Voucher, plan: bytes, allowances: ModelAllowances | None = None
    ) -> ModelEntry:
        """Put a model version in service (a model owner's account).

        Registering the same card and plan again replaces addresses and voucher; anything else under a version that is
        taken is refused.

        Args:
            entry: what the catalog is to show.
            voucher: the model owner's, for `entry.statement()`.
            plan: the public plan, JSON in UTF-8; sessions are bound to its SHA-256.
            allowances: what each hospital may use of the model.
        """
        card = entry.card
        try:
            registration = ModelRegistration(
                card=card,
                plan=plan.decode(),
                plan_hash=entry.plan_hash,
                engines=entry.engines,
                address=entry.model_owner.address,
                crypto_provider=entry.crypto_provider,
                voucher=voucher,
                allowances=allowances,
            )
        except ValueError as error:  # not UTF-8, or a ValidationError
            what, why = f"model {card.name} {card.version}", _describe(error)
            raise ModelFileError(f"{what} cannot be registered: {why}; correct it and import again") from error
        return self._ask(ModelEntry, "PUT", f"/v2/models/{card.name}/versions/{card.version}", body=registration)

    def withdraw_model(self, name: str, version: str) -> None:
        """Take a version out of service (its owner's account): no new sessions."""
        self._call("DELETE", f"/v2/models/{quote(name, safe='')}/versions/{quote(version, safe='')}")

    def open_session(
        self,
        *,
        model: str,
        engine: Engine,
        version: str | None = None,
        purpose: Purpose = Purpose.DIAGNOSE,
        images: int = 1,
        items: Sequence[str] = (),
    ) -> SessionView:
        """Open a session (a clinician's account). The answer's `ticket` is set, here and never again.

        `items`: names of stocked items to spend. Raises ItemsSeen if one was named before.
        """
        try:
            request = SessionRequest(
                model=model, version=version, engine=engine, purpose=purpose, images=images, items=tuple(items)
            )
        except ValidationError as error:
            raise CallerError(
                f"a session cannot be asked for: {_describe(error)}; correct the model's name or the number of images"
            ) from error
        view = self._ask(SessionView, "POST", "/v2/sessions", body=request)
        if view.ticket is None:
            raise PeerViolation(f"the {_PEER} opened a session without a ticket: update both to the same version")
        return view

    def session(self, session: UUID) -> SessionView:
        """Where a session stands."""
        return self._ask(SessionView, "GET", f"/v2/sessions/{session}")

    def report(self, session: UUID, event: SessionEventName, report: SessionReport | None = None) -> SessionView:
        """Tell what happened in a session. Raises Refused when that cannot happen in its state."""
        body = SessionEvent(event=event, report=report)
        return self._ask(SessionView, "POST", f"/v2/sessions/{session}/events", body=body)

    def cancel(self, session: UUID) -> SessionView:
        """End a session that has not ended yet (the account that opened it)."""
        return self._ask(SessionView, "DELETE", f"/v2/sessions/{session}")

    def exchange_audit_heads(self, own: AuditHead) -> AuditHead:
        """Tell how far this party's audit log has come; the front end's answer says the same of its own.

        Raises Refused if the front end remembers that the log was further before.
        """
        return self._ask(AuditHead, "POST", "/v2/audit-heads", body=own)

    def audit_head(self) -> AuditHead:
        """What the front end remembers of this party's audit log. Raises Refused if it remembers nothing."""
        return self._ask(AuditHead, "GET", "/v2/audit-heads")

    def _ask(self, kind: type[Answer], method: str, path: str, *, body: BaseModel | None = None) -> Answer:
        content = self._call(method, path, body=body)
        if content.count(b",") > MAX_ANSWER_COMMAS:
            raise PeerViolation(f"the {_PEER} answered {method} {path[:200]} with too long a list: check the URL")
        try:
            return kind.model_validate_json(content)
        except ValidationError:
            raise PeerViolation(
                f"the {_PEER} answered {method} {path[:200]} with something that this version does not know: "
                "update both to the same version"
            ) from None  # the cause repeats the answer, which may hold a ticket

    def _call(self, method: str, path: str, *, body: BaseModel | None = None, limit: int | None = None) -> bytes:
        content = body.model_dump_json().encode() if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        start = time.monotonic()
        try:
            with self._http.stream(method, self._url + path, content=content, headers=headers) as response:
                answer = self._read(
                    response, limit=limit or MAX_ANSWER_BYTES, step=f"{method} {path[:200]}", start=start
                )
                if not response.is_success:
                    raise _make_error(response.status_code, answer)
                return answer
        except httpx.TimeoutException as error:
            raise self._too_late(f"{method} {path[:200]}", start) from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise self._unreachable(error) from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise PeerDisconnected(
                f"the {_PEER} at {self._url}{self._through} ended the connection during {method} {path[:200]}: "
                "try again",
                peer=f"the {_PEER}",
                party=_PARTY,
            ) from error

    @property
    def _through(self) -> str:
        return "" if self._proxy is None else f", through {self._proxy}"

    def _unreachable(self, error: httpx.ConnectError | httpx.ProxyError) -> PeerUnreachable:
        cause = find_cause(error)
        if self._proxy is not None and cause is None:
            status = str(error)[:3]
            if isinstance(error, httpx.ProxyError) and status.isdigit():
                return self._proxy.refuses(self._target, int(status))
            return self._proxy.dead(self._target, why_unreachable(error))
        why = (
            "check that it runs, or correct the URL" if cause is None else str(remedy(cause, by_system=self._by_system))
        )
        words = f"the {_PEER} at {self._url} cannot be reached: {why}"
        return PeerUnreachable(words, peer=f"the {_PEER}", party=_PARTY)

    def _read(self, response: httpx.Response, *, limit: int, step: str, start: float) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise PeerViolation(f"the {_PEER} compressed its answer to {step}, which was not asked for: check the URL")
        parts, length = [], 0
        for part in response.iter_raw():
            length += len(part)
            if length > limit:
                raise PeerViolation(f"the {_PEER} answered {step} with more than {limit} bytes: check the URL")
            if time.monotonic() - start > self._timeout_seconds:
                raise self._too_late(step, start)
            parts.append(part)
        return b"".join(parts)

    def _too_late(self, step: str, start: float) -> DeadlineExceeded:
        peer, waited = f"the {_PEER}{self._through}", time.monotonic() - start
        return DeadlineExceeded(peer=peer, step=step, waited_seconds=waited, party=_PARTY)


def _make_tls_context(authority: Path | None, revocations: Path | None = None) -> ssl.SSLContext:
    for path in (authority, revocations):
        if path is not None and not path.is_file():
            raise ConfigurationError(
                f"there is no file {path}: correct the path in the settings; `federation install` puts such files in "
                "place"
            )
    try:
        context = ssl.create_default_context(cafile=str(authority) if authority is not None else None)
        if revocations is not None:
            context.load_verify_locations(cafile=str(revocations))
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{authority} or {revocations}: not in PEM; give the authority's certificate and its list"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _make_error(status: int, answer: bytes) -> EncryptedInferenceError:
    """The server's own words, marked as such, under the class that its code names; Refused for other refusals."""
    try:
        problem = Problem.model_validate_json(answer)
    except ValidationError:
        return PeerViolation(f"the {_PEER} answered HTTP {status} without saying why: check the URL")
    words = "".join(character for character in problem.detail if character.isprintable())[:_MAX_WORDS]
    if status >= 500:
        return PeerReported(f"the {_PEER} could not do it: {words}")
    words = f"{words} (said by the {_PEER})"
    if problem.code in _LATER:
        return _LATER[problem.code](words, retry_after_seconds=problem.retry_after_seconds)
    return _SAME_ERRORS.get(problem.code, Refused)(words)


def _describe(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return "the plan is not UTF-8"
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {describe_fault(first)}"
