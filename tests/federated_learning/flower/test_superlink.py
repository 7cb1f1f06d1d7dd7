"""What the SuperLink's guard lets through."""

import asyncio
from typing import Any

import pytest

from federated_learning.flower.superlink import Guard

FLEET, CONTROL, RUNTIME = "/v1/fleet/pull-messages", "/v1/control/start-run", "/v1/runtime/acquire-task"


def answer(path: str, *, client: tuple[str, int] | None, method: str = "POST", length: bytes | None = b"10") -> int:
    """The guard's status, 200 where the request is passed on."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is read before it is allowed")

    headers = [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "path": path, "client": client, "method": method, "headers": headers}
    asyncio.run(Guard(app, max_body_bytes=100)(scope, receive, send))  # type: ignore[arg-type]
    return int(sent[0]["status"])


OUTSIDE = ("203.0.113.5", 4000)


def test_hospitals_reach_the_fleet_interface_only() -> None:
    assert answer(FLEET, client=OUTSIDE) == 200
    for path in (CONTROL, RUNTIME, "/docs", "/v1/fleet", "/", "/v1/fleetx/"):
        assert answer(path, client=OUTSIDE) == 403
        assert answer(path, client=None) == 403
        assert answer(path, client=("not an address", 1)) == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_reaches_all_of_it(host: str) -> None:
    for path in (FLEET, CONTROL, RUNTIME):
        assert answer(path, client=(host, 1)) == 200


@pytest.mark.parametrize(
    ("length", "status"),
    [(b"100", 200), (b"101", 413), (b"9" * 30, 413), (b"-1", 411), (b"x", 411), (b"", 411), (None, 411)],
)
def test_the_length_of_a_body_is_known_and_bounded(length: bytes | None, status: int) -> None:
    assert answer(FLEET, client=OUTSIDE, length=length) == status


def test_requests_without_a_body_need_no_length() -> None:
    assert answer("/health", client=("127.0.0.1", 1), method="GET", length=None) == 200
