"""Who may speak to the page, and what its answers let a browser do."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from data_owner.ui.security import MAX_FORM_BYTES, Access, Guard
from tests.end_to_end.federation import listening, loopback

LISTENER, PORT = loopback()
ACCESS = Access(port=PORT, max_upload_bytes=1 << 20)
COOKIE = {"Cookie": f"{ACCESS.cookie_name}={ACCESS.cookie}"}
OWN = COOKIE | {"Origin": ACCESS.origin, "Sec-Fetch-Site": "same-origin"}


async def reached(request: object) -> PlainTextResponse:
    return PlainTextResponse("reached")


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    routes = [Route(path, reached, methods=["GET", "POST"]) for path in ("/", "/entries", "/prepare")]
    with listening(Guard(Starlette(routes=routes), ACCESS), LISTENER, ws="none"):
        yield


@pytest.fixture
def browser(server: None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=ACCESS.origin, trust_env=False) as client:
        yield client


def status_for_length(path: str, length: str) -> int:
    """What the server says to a body of this length before any of it is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    try:
        connection.putrequest("POST", path)
        for name, value in (OWN | {"Content-Length": length}).items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_token_gives_a_cookie_and_the_cookie_opens_the_page(browser: httpx.Client) -> None:
    answer = browser.get(f"/?token={ACCESS.token}")
    assert answer.status_code == 200
    assert "reached" not in answer.text
    assert ACCESS.token not in answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert browser.get("/").text == "reached"


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/?token=x" + "&a=1" * 9, "/entries", "/prepare"])
def test_without_token_or_cookie_nothing_is_answered(browser: httpx.Client, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_the_token_itself_is_no_cookie(browser: httpx.Client) -> None:
    assert browser.get("/", headers={"Cookie": f"{ACCESS.cookie_name}={ACCESS.token}"}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost:{port}", "127.0.0.1", "127.0.0.1:80"]
)
def test_another_host_is_refused_whatever_else_is_right(browser: httpx.Client, host: str) -> None:
    host = host.format(port=PORT)
    assert browser.get("/", headers=COOKIE | {"Host": host}).status_code == 421
    assert browser.get(f"/?token={ACCESS.token}", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": ACCESS.origin, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ACCESS.origin, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_change_from_elsewhere_is_refused(browser: httpx.Client, headers: dict[str, str]) -> None:
    assert browser.post("/prepare", headers=COOKIE | headers).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_cannot_load_anything_with_the_cookie(browser: httpx.Client, site: str) -> None:
    assert browser.get("/", headers=COOKIE | {"Sec-Fetch-Site": site}).status_code == 403


def test_a_change_from_the_page_passes(browser: httpx.Client) -> None:
    assert browser.post("/prepare", headers=OWN, content=b"count=1").text == "reached"


@pytest.mark.parametrize("path", ["/", f"/?token={ACCESS.token}", "/entries"], ids=["page", "token", "entries"])
@pytest.mark.parametrize("headers", [{}, COOKIE, {"Host": "evil.example"}])
def test_every_answer_bears_the_headers(browser: httpx.Client, path: str, headers: dict[str, str]) -> None:
    answer = browser.get(path, headers=headers)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert all(source in ("'self'", "'none'") for source in policy.values())
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(("path", "limit"), [("/entries", ACCESS.max_upload_bytes), ("/prepare", MAX_FORM_BYTES)])
def test_what_is_too_long_is_refused_by_its_length_alone(browser: httpx.Client, path: str, limit: int) -> None:
    assert browser.post(path, headers=OWN, content=bytes(limit)).status_code == 200
    assert status_for_length(path, str(limit + 1)) == 413
    assert status_for_length(path, "9" * 16) == 413


def test_a_body_without_a_length_is_refused(browser: httpx.Client) -> None:
    assert browser.post("/entries", headers=OWN, content=(part for part in (b"x",))).status_code == 411


def test_secrets_are_not_shown() -> None:
    assert ACCESS.token not in repr(ACCESS)
    assert ACCESS.cookie not in repr(ACCESS)


def test_the_pages_own_files_need_nothing_from_elsewhere() -> None:
    folder = Path(__file__).resolve().parents[3] / "data_owner" / "ui"
    files = [*(folder / "templates").iterdir(), *(folder / "static").iterdir()]
    assert len(files) > 10
    for file in files:
        text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "://" not in text, file.name
        assert " style=" not in text, file.name
        assert " onclick=" not in text, file.name
