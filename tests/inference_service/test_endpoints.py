"""The HTTP face: closed by default, bounded, problems in one shape, and no way in for data."""

import asyncio
import json
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from starlette.types import Message

from contract.api import ModelRegistration, Problem, SessionView
from contract.errors import ConfigurationError, EncryptedInferenceError
from inference_service import middleware, problems
from inference_service.middleware import MAX_BODY_BYTES, MAX_BODY_COMMAS, PUBLIC_PATHS
from inference_service.problems import make_problem
from tests.inference_service.builders import PLAN, registration
from tests.inference_service.conftest import FrontEnd, Keys

REQUEST = {"model": "resnet", "engine": "crypten"}


def problem_in(answer: httpx.Response, status: int, code: str) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert (problem.status, problem.code) == (status, code)
    assert problem.type == f"urn:encrypted-inference:problem:{code}"
    assert problem.instance == f"urn:uuid:{answer.headers['X-Request-Id']}"
    assert problem.title
    assert problem.detail.isprintable()
    assert len(problem.detail) <= 500
    return problem


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


class TestOpenApi:
    def test_the_endpoints_are_these_and_no_others(self, front_end: FrontEnd) -> None:
        assert {(method, path) for method, path, _ in operations(front_end.app)} == {
            ("GET", "/v2/health/live"),
            ("GET", "/v2/health/ready"),
            ("GET", "/metrics"),
            ("GET", "/v2/models"),
            ("GET", "/v2/models/{name}"),
            ("PUT", "/v2/models/{name}/versions/{version}"),
            ("DELETE", "/v2/models/{name}/versions/{version}"),
            ("GET", "/v2/plans/{plan_hash}"),
            ("POST", "/v2/sessions"),
            ("GET", "/v2/sessions/{session_id}"),
            ("DELETE", "/v2/sessions/{session_id}"),
            ("POST", "/v2/sessions/{session_id}/events"),
            ("POST", "/v2/audit-heads"),
            ("GET", "/v2/audit-heads"),
        }

    def test_no_endpoint_takes_a_file_and_none_infers(self, front_end: FrontEnd) -> None:
        document = json.dumps(front_end.app.openapi())
        assert not re.search(r"multipart|octet-stream|contentMediaType|x-www-form|\"image/", document)
        assert '"format": "binary"' not in document
        for _, path, operation in operations(front_end.app):
            assert "infer" not in path
            body = operation.get("requestBody", {"content": {"application/json": {}}})
            assert list(body["content"]) == ["application/json"]

    def test_every_request_body_has_an_example(self, front_end: FrontEnd) -> None:
        schemas = front_end.app.openapi()["components"]["schemas"]
        for name in ("ModelRegistration", "SessionRequest", "SessionEvent", "SessionView", "ModelEntry", "Problem"):
            assert schemas[name]["examples"]

    def test_every_operation_says_what_its_problems_look_like(self, front_end: FrontEnd) -> None:
        for _, path, operation in operations(front_end.app):
            content = operation["responses"]["default"]["content"]
            assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), path
            assert operation["summary"]

    def test_it_is_served_without_a_key(self, front_end: FrontEnd) -> None:
        assert front_end.ask("GET", "/openapi.json").json()["info"]["version"] == "2.0.0"


class TestClosedByDefault:
    def test_every_operation_needs_a_key_unless_it_is_public(self, front_end: FrontEnd) -> None:
        for method, template, _ in operations(front_end.app):
            path = template.format(name="resnet", version="1.0.0", plan_hash="0" * 64, session_id=uuid4())
            answer = front_end.ask(method, path)
            if template in PUBLIC_PATHS:
                assert answer.status_code == 200, template
            else:
                problem_in(answer, 401, "unauthenticated")
                assert answer.headers["WWW-Authenticate"] == "Bearer"

    def test_paths_that_do_not_exist_are_closed_too(self, front_end: FrontEnd, keys: Keys) -> None:
        for path in ("/", "/docs", "/v2/models/resnet/infer", "/v2/infer", "/v2/health/live/"):
            problem_in(front_end.ask("GET", path), 401, "unauthenticated")
            problem_in(front_end.ask("POST", path, key=keys.clinician), 404, "not-found")

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic ei-x", "Bearer nonsense", "Bearer \xe9\xff"])
    def test_a_wrong_header_is_refused(self, front_end: FrontEnd, header: str) -> None:
        answer = front_end.ask("GET", "/v2/models", headers={"Authorization": header.encode("latin-1")})
        problem_in(answer, 401, "unauthenticated")

    @pytest.mark.parametrize("name", ["clinician", "model_owner", "operator", "crypto_provider"])
    def test_every_account_may_read_models_and_plans(
        self, front_end: FrontEnd, keys: Keys, registered: ModelRegistration, name: str
    ) -> None:
        key = getattr(keys, name)
        assert front_end.ask("GET", "/v2/models", key=key).json()["models"][0]["version"] == "1.0.0"
        assert front_end.ask("GET", "/v2/models/resnet", key=key).json()["plan_hash"] == registered.plan_hash
        plan = front_end.ask("GET", f"/v2/plans/{registered.plan_hash}", key=key)
        assert (plan.content, plan.headers["Content-Type"]) == (PLAN.encode(), "application/json")


class TestSessions:
    def test_from_opened_to_completed(self, front_end: FrontEnd, keys: Keys, registered: ModelRegistration) -> None:
        answer = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=REQUEST)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
        session = SessionView.model_validate_json(answer.content)
        assert session.ticket
        for event in ("prepare", "run", "complete"):
            path = f"/v2/sessions/{session.id}/events"
            answer = front_end.ask("POST", path, key=keys.clinician, json={"event": event})
            assert answer.status_code == 200, answer.text
        seen = front_end.ask("GET", f"/v2/sessions/{session.id}", key=keys.colleague).json()
        assert (seen["state"], seen["ticket"]) == ("completed", None)
        problem_in(front_end.ask("DELETE", f"/v2/sessions/{session.id}", key=keys.clinician), 409, "conflict")

    def test_cancel(self, front_end: FrontEnd, keys: Keys, registered: ModelRegistration) -> None:
        session = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=REQUEST).json()["id"]
        problem_in(front_end.ask("DELETE", f"/v2/sessions/{session}", key=keys.stranger), 404, "not-found")
        problem_in(front_end.ask("DELETE", f"/v2/sessions/{session}", key=keys.colleague), 403, "refused")
        assert front_end.ask("DELETE", f"/v2/sessions/{session}", key=keys.clinician).json()["state"] == "cancelled"

    def test_nobody_plays_the_clock(self, front_end: FrontEnd, keys: Keys, registered: ModelRegistration) -> None:
        session = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=REQUEST).json()["id"]
        answer = front_end.ask("POST", f"/v2/sessions/{session}/events", key=keys.clinician, json={"event": "expire"})
        problem_in(answer, 403, "refused")


class TestProblems:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "code"),
        [
            ("POST", "/v2/sessions", {}, 422, "caller"),
            ("POST", "/v2/sessions", [], 422, "caller"),
            ("POST", "/v2/sessions", REQUEST | {"image": "AAAA"}, 422, "caller"),
            ("POST", "/v2/sessions", REQUEST | {"model": "No Such\n"}, 422, "caller"),
            ("POST", "/v2/sessions", REQUEST | {"model": "absent"}, 404, "not-found"),
            ("POST", "/v2/sessions", REQUEST | {"engine": "masked"}, 400, "caller"),
            ("GET", "/v2/sessions/not-a-uuid", None, 422, "caller"),
            ("GET", f"/v2/sessions/{UUID(int=0)}", None, 404, "not-found"),
            ("GET", "/v2/models/absent", None, 404, "not-found"),
            ("GET", "/v2/models/UPPER", None, 422, "caller"),
            ("GET", "/v2/models/resnet?version=x", None, 422, "caller"),
            ("GET", "/v2/plans/xyz", None, 422, "caller"),
            ("PATCH", "/v2/sessions", None, 405, "caller"),
        ],
    )
    def test_each_is_told_in_the_same_shape(
        self,
        front_end: FrontEnd,
        keys: Keys,
        registered: ModelRegistration,
        method: str,
        path: str,
        body: object,
        status: int,
        code: str,
    ) -> None:
        arguments = {} if body is None else {"json": body}
        problem_in(front_end.ask(method, path, key=keys.clinician, **arguments), status, code)

    def test_a_value_that_was_sent_is_not_repeated(self, front_end: FrontEnd, keys: Keys) -> None:
        for body in (REQUEST | {"model": "CANARY!"}, REQUEST | {"engine": "CANARY"}, {"model": {"x": "CANARY"}}):
            assert "CANARY" not in front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=body).text

    def test_json_that_is_none(self, front_end: FrontEnd, keys: Keys) -> None:
        for content in (b"{", b"\xff\xfe", b'{"model": NaN}', b"[" * 20_000):
            answer = front_end.ask(
                "POST",
                "/v2/sessions",
                key=keys.clinician,
                content=content,
                headers={"Content-Type": "application/json"},
            )
            assert answer.status_code in {400, 422}, content[:10]
            problem_in(answer, answer.status_code, "caller")

    def test_an_unforeseen_error_says_nothing_but_its_id(
        self, front_end: FrontEnd, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fall_over() -> None:
            raise RuntimeError("CANARY at /secret/path")

        monkeypatch.setattr(front_end.service.catalog, "models", fall_over)
        answer = front_end.ask("GET", "/v2/models", key=keys.clinician)
        problem = problem_in(answer, 500, "internal")
        assert "CANARY" not in answer.text + front_end.log.getvalue()
        line = next(line for line in front_end.log.getvalue().splitlines() if '"failed"' in line)
        assert problem.instance.removeprefix("urn:uuid:") in line
        assert "RuntimeError" in line
        assert "test_endpoints.py" in line

    def test_a_database_that_fails_is_unavailable(self, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
        from sqlalchemy.orm import Session

        def broken(*_: object, **__: object) -> None:
            raise OperationalError("SELECT CANARY", {}, Exception("disk I/O error"))

        monkeypatch.setattr(Session, "execute", broken)
        answer = front_end.ask("GET", "/v2/health/ready")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["database"])
        assert "CANARY" not in answer.text + front_end.log.getvalue()
        assert front_end.ask("GET", "/v2/health/live").json()["status"] == "live"

    def test_errors_of_this_side_keep_their_words_to_the_log(self) -> None:
        problem = make_problem(ConfigurationError("/secret/path: missing"), request=UUID(int=1))
        assert (problem.status, problem.code) == (500, "configuration")
        assert "secret" not in problem.detail
        assert str(UUID(int=1)) in problem.detail

    def test_every_class_of_the_service_has_a_code_of_its_own(self) -> None:
        classes = [
            value
            for value in vars(problems).values()
            if isinstance(value, type)
            and issubclass(value, EncryptedInferenceError)
            and value.__module__ == problems.__name__
        ]
        assert len({kind.code for kind in classes}) == len(classes) == 8
        assert "refused" not in {kind.code for kind in classes}


class TestBodies:
    def test_a_long_body_is_refused(self, front_end: FrontEnd, keys: Keys) -> None:
        content = b'{"model": "' + b"a" * MAX_BODY_BYTES + b'"}'
        headers = {"Content-Type": "application/json"}
        answer = front_end.ask("POST", "/v2/sessions", key=keys.clinician, content=content, headers=headers)
        problem_in(answer, 413, "too-large")

    def test_a_long_list_is_not_taken_apart(self, front_end: FrontEnd, keys: Keys) -> None:
        """A megabyte of wrong engines took half a gigabyte: each was an error of its own."""
        body = registration().model_dump(mode="json") | {"engines": [0] * MAX_BODY_COMMAS}
        answer = front_end.ask("PUT", "/v2/models/resnet/versions/1.0.0", key=keys.model_owner, json=body)
        problem_in(answer, 413, "too-large")

    def test_only_a_model_owner_may_send_a_plan(self, front_end: FrontEnd, keys: Keys) -> None:
        body = registration(plan=json.dumps({"note": "x" * 2 * MAX_BODY_BYTES})).model_dump(mode="json")
        path = "/v2/models/resnet/versions/1.0.0"
        problem_in(front_end.ask("PUT", path, key=keys.clinician, json=body), 413, "too-large")
        problem_in(front_end.ask("PUT", path, json=body), 401, "unauthenticated")
        assert front_end.ask("PUT", path, key=keys.model_owner, json=body).status_code == 200

    @pytest.mark.parametrize(
        "arguments",
        [
            {"files": {"image": ("chest.png", b"\x89PNG")}},
            {"data": {"image": "AAAA"}},
            {"content": b"DICM", "headers": {"Content-Type": "application/dicom"}},
            {"content": b"\x00\x01", "headers": {"Content-Type": "application/octet-stream"}},
            {"content": b"{}"},
        ],
    )
    @pytest.mark.parametrize("path", ["/v2/sessions", "/v2/models", f"/v2/sessions/{UUID(int=0)}/events"])
    def test_a_body_that_is_not_json_goes_nowhere(
        self, front_end: FrontEnd, keys: Keys, arguments: dict[str, Any], path: str
    ) -> None:
        problem_in(front_end.ask("POST", path, key=keys.clinician, **dict(arguments)), 415, "not-json")

    def test_a_stream_without_a_declared_length_is_read_no_further_than_the_limit(
        self, front_end: FrontEnd, keys: Keys
    ) -> None:
        taken, sent = self.stream(front_end, keys, chunk=b"x" * 16_384, chunks=10_000)
        assert sent == 413
        assert taken <= MAX_BODY_BYTES // 16_384 + 1

    def test_a_body_that_never_ends_is_given_up(
        self, front_end: FrontEnd, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(middleware, "BODY_SECONDS", 0.05)
        assert self.stream(front_end, keys, chunk=b"{", chunks=1)[1] == 408

    def test_of_who_asks_what_anybody_may_no_body_is_waited_for(self, front_end: FrontEnd) -> None:
        async def call() -> int:
            async def receive() -> Message:
                await asyncio.sleep(60)
                raise AssertionError

            async def send(message: Message) -> None:
                statuses.extend([message["status"]] if "status" in message else [])

            scope = {"type": "http", "method": "POST", "path": "/v2/health/live", "query_string": b"", "headers": []}
            statuses: list[int] = []
            await asyncio.wait_for(front_end.app(scope, receive, send), 30)
            return statuses[0]

        assert asyncio.run(call()) == 405

    def test_a_caller_who_hangs_up_gets_no_answer(self, front_end: FrontEnd, keys: Keys) -> None:
        assert self.stream(front_end, keys, chunk=b"{", chunks=1, then_leave=True)[1] is None

    @staticmethod
    def stream(
        front_end: FrontEnd, keys: Keys, *, chunk: bytes, chunks: int, then_leave: bool = False
    ) -> tuple[int, int | None]:
        """How many chunks were taken, and the status that came."""
        taken, statuses = 0, []

        async def receive() -> Message:
            nonlocal taken
            if taken == chunks:
                if then_leave:
                    return {"type": "http.disconnect"}
                await asyncio.sleep(60)
            taken += 1
            return {"type": "http.request", "body": chunk, "more_body": True}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = {"authorization": f"Bearer {keys.clinician}", "content-type": "application/json"}
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v2/sessions",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        asyncio.run(front_end.app(scope, receive, send))
        return taken, statuses[0] if statuses else None


class TestWhatIsWrittenDown:
    def test_neither_log_nor_metrics_ever_hold_a_key_or_a_ticket(
        self, front_end: FrontEnd, keys: Keys, registered: ModelRegistration
    ) -> None:
        ticket = front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=REQUEST).json()["ticket"]
        for secret in (keys.clinician, ticket):
            front_end.ask("GET", f"/v2/models/{secret}", key=keys.clinician)
            front_end.ask("GET", f"/v2/{secret}?ticket={secret}", key=keys.clinician)
            front_end.ask("GET", "/v2/models", key=secret + "x")
            front_end.ask("POST", "/v2/sessions", key=keys.clinician, json={secret: secret, "model": secret})
            front_end.ask("GET", "/v2/models", headers={"X-Other": secret, "User-Agent": secret})
        written = front_end.log.getvalue() + front_end.ask("GET", "/metrics", key=keys.operator).text
        assert '"route": "/v2/sessions"' in written
        for key in vars(keys).values():
            assert key not in written
            assert key.split("-", 2)[2] not in written
        assert ticket not in written
        assert ticket.split(".")[2] not in written

    def test_the_log_takes_out_what_looks_like_a_secret(self, front_end: FrontEnd, keys: Keys) -> None:
        from inference_service.log import new_log

        new_log(front_end.log).info("careless", words=f"key {keys.clinician}, ticket eyJhbGciOiJFZERTQSJ9.e30.AAAA.")
        line = json.loads(front_end.log.getvalue().splitlines()[-1])
        assert line["words"] == "key [redacted], ticket [redacted]."

    def test_metrics_count_by_route_and_never_by_what_was_typed(self, front_end: FrontEnd, keys: Keys) -> None:
        front_end.ask("GET", "/v2/models/some-typed-name", key=keys.clinician)
        front_end.ask("GET", "/some-typed-path", key=keys.clinician)
        front_end.ask("SOMETYPED", "/v2/models", key=keys.clinician)
        text = front_end.ask("GET", "/metrics", key=keys.operator).text
        assert 'inference_service_requests_total{method="GET",route="/v2/models/{name}",status="404"} 1.0' in text
        assert 'method="GET",route="unmatched",status="404"} 1.0' in text
        assert 'method="other"' in text
        assert "typed" not in text.lower().replace("untyped", "")

    @pytest.mark.parametrize("name", ["clinician", "gateway", "model_owner", "crypto_provider"])
    def test_metrics_are_for_operators(self, front_end: FrontEnd, keys: Keys, name: str) -> None:
        problem_in(front_end.ask("GET", "/metrics"), 401, "unauthenticated")
        problem_in(front_end.ask("GET", "/metrics", key=getattr(keys, name)), 403, "refused")
        assert front_end.ask("GET", "/metrics", key=keys.operator).headers["Content-Type"].startswith("text/plain")

    def test_requests_without_an_account_are_a_line_and_a_count(self, front_end: FrontEnd, keys: Keys) -> None:
        for _ in range(50):
            front_end.ask("GET", "/v2/models", key="guessed")
            front_end.ask("GET", "/v2/health/live")
        for _ in range(3):
            front_end.ask("GET", "/v2/models", key=keys.clinician)
        lines = [json.loads(line) for line in front_end.log.getvalue().splitlines()]
        assert sorted((line["route"], line["status"]) for line in lines) == [
            ("/v2/health/live", 200),
            *3 * [("/v2/models", 200)],
            ("unmatched", 401),
        ]

    def test_metrics_count_sessions(self, front_end: FrontEnd, keys: Keys, registered: ModelRegistration) -> None:
        front_end.ask("POST", "/v2/sessions", key=keys.clinician, json=REQUEST)
        front_end.clock.move(minutes=15)
        front_end.service.sessions.sweep()
        text = front_end.ask("GET", "/metrics", key=keys.operator).text
        for state, count in (("opened", 1.0), ("expired", 1.0), ("failed", 0.0)):
            assert f'inference_service_sessions_total{{state="{state}"}} {count}' in text

    def test_two_apps_count_for_themselves(self, front_end: FrontEnd, keys: Keys) -> None:
        from inference_service.app import create_app

        other = create_app(front_end.settings)
        front_end.ask("GET", "/v2/models", key=keys.clinician)
        assert b'route="/v2/models"' not in other.state.service.metrics.exposition()
        other.state.service.database.close()
