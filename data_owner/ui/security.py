"""Who may speak to the page: this machine's user, from the page itself.

Other programs of this machine, other users of it and every website that the browser visits can send requests to a port
of 127.0.0.1. So:

- A request must name this address as its host: a website whose name was made to resolve to 127.0.0.1 does not.
- The address that `data-owner ui` prints bears a random token, which gives the browser a cookie (HttpOnly,
  SameSite=Strict). Without the cookie nothing is answered.
- What changes something must come from the page itself, by its Origin and the browser's Sec-Fetch-Site.
- The browser loads scripts, styles and pictures from the page's own server only, and keeps nothing on disk.
"""

import hmac
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST: Final = "127.0.0.1"
MAX_FORM_BYTES: Final = 16 << 10
UPLOADS: Final = "/entries"

_SAFE = ("GET", "HEAD")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers send a form without its origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_PLAIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{more}</head>
<body><h1>{title}</h1><p>{text}</p></body></html>"""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The secrets of one run of the page."""

    port: int
    max_upload_bytes: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """Stands in the address that is printed."""
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """What the browser holds afterwards."""

    @property
    def host(self) -> str:
        """What the Host header must say."""
        return f"{HOST}:{self.port}"

    @property
    def origin(self) -> str:
        """What the Origin header must say."""
        return f"http://{self.host}"

    @property
    def address(self) -> str:
        """Where the page is opened. Holds the token."""
        return f"{self.origin}/?token={self.token}"

    @property
    def cookie_name(self) -> str:
        """Browsers do not tell ports apart."""
        return f"data-owner-{self.port}"


class Guard:
    """ASGI middleware that lets nothing else through. Every answer bears the headers above."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Stand before `app`."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket is served here

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._entrance(scope)
        await (refusal or self._app)(scope, receive, with_headers)

    def _entrance(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; None for one that may."""
        headers = Headers(scope=scope)
        if headers.get("host") != self._access.host:
            return _plain(HTTPStatus.MISDIRECTED_REQUEST, "Wrong address", "Open the address that data-owner printed.")
        token = _token(scope)
        if token is not None and scope["method"] in _SAFE and scope["path"] == "/":
            return self._admitted() if _equal(token, self._access.token) else _unknown()
        cookie = cookie_parser(headers.get("cookie", "")).get(self._access.cookie_name, "")
        if not _equal(cookie, self._access.cookie):
            return _unknown()
        site = headers.get("sec-fetch-site", "same-origin")
        if scope["method"] in _SAFE:
            return None if site in ("same-origin", "none") else _foreign()
        if headers.get("origin") != self._access.origin or site != "same-origin":
            return _foreign()
        return self._too_large(scope, headers)

    def _admitted(self) -> Response:
        """The cookie, then the page. Not a redirect: after one from elsewhere browsers withhold a strict cookie."""
        more = '<meta http-equiv="refresh" content="0; url=/">'
        answer = _plain(HTTPStatus.OK, "Opening the page", '<a href="/">Open it</a>', more=more)
        answer.set_cookie(self._access.cookie_name, self._access.cookie, path="/", httponly=True, samesite="strict")
        return answer

    def _too_large(self, scope: Scope, headers: Headers) -> Response | None:
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return _plain(HTTPStatus.LENGTH_REQUIRED, "No length", "The request does not say how long it is.")
        limit = self._access.max_upload_bytes if scope["path"] == UPLOADS else MAX_FORM_BYTES
        if len(length) > 15 or int(length) > limit:
            text = f"The file is larger than {limit >> 20} MiB: export the image smaller."
            return _plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Too large", text)
        return None


def _token(scope: Scope) -> str | None:
    try:
        values = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8).get("token")
    except ValueError:  # more fields than the page ever sends
        return None
    return values[0] if values else None


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _plain(status: HTTPStatus, title: str, text: str, *, more: str = "") -> Response:
    return HTMLResponse(_PLAIN.format(title=title, text=text, more=more), status_code=status)


def _unknown() -> Response:
    text = "This page is for whoever started it. Open the address that data-owner ui printed, with its token."
    return _plain(HTTPStatus.FORBIDDEN, "Not open here", text)


def _foreign() -> Response:
    text = "The request came from another site, and was not carried out."
    return _plain(HTTPStatus.FORBIDDEN, "Refused", text)
