"""The coordinator's SuperLink process: Flower's own server, with two doors closed.

Flower serves three interfaces on one port: the fleet's (hospitals, authenticated by their keys), the control and the
run-time interface (start a run, register a hospital; no authentication of their own). Only the first is for other
machines, so the other two are answered on loopback only, and no request may be longer than a model needs.

    python -m federated_learning.flower.superlink MAX_BODY_BYTES [options of flower-superlink ...]
"""

import sys
from typing import TYPE_CHECKING

from federated_learning.flower.processes import end_with_parent
from plumbing.proxies import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_TO_ALL = "/v1/fleet/"
CONNECTIONS = 256


class Guard:
    """Refuses what other machines may not ask, and bodies that are too long, before anything is read."""

    def __init__(self, app: "ASGIApp", *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or answer 403, 411 or 413."""
        status = self._find_refusal(scope) if scope["type"] == "http" else None
        if status is None:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})

    def _find_refusal(self, scope: "Scope") -> int | None:
        if not scope["path"].startswith(OPEN_TO_ALL) and not is_loopback((scope.get("client") or ("",))[0]):
            return 403
        if scope["method"] in ("GET", "HEAD"):
            return None
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411
        return 413 if len(length) > 15 or int(length) > self._max_body_bytes else None


def main() -> None:
    """Serve until a signal or the parent's end."""
    end_with_parent()
    max_body_bytes = int(sys.argv.pop(1))
    import uvicorn
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
    from flwr.superlink.main import create_app

    # The lines of Flower 1.41's own command `flower-superlink`, and the guard around its application.
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    uvicorn.run(
        Guard(app, max_body_bytes=max_body_bytes),
        host=config.host,
        port=config.port,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        access_log=False,
        log_config=get_uvicorn_log_config(20),
        limit_concurrency=CONNECTIONS,
    )


if __name__ == "__main__":
    main()
