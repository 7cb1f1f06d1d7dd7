"""A party's server: an ASGI app with one WebSocket for channels and two health paths, run by uvicorn."""

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from contract.api import Health, Unready
from plumbing.command_line import say
from plumbing.http_server import AnnouncedServer
from plumbing.listening import LISTEN, start_listening, with_port
from plumbing.readiness import Look, Readiness, make_health
from plumbing.tally import Tally
from secure_computation.channel.asgi import serve_channel, uvicorn_options
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.identity import Expected
from secure_computation.channel.tls import TlsContext

GRACE_SECONDS: Final = 10
"""So long may sessions go on after the signal to stop; the front end gives its requests the same."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a party serves: one kind of channel, at one path, to some parties."""

    path: str
    handler: Callable[[Channel], None]
    """Runs in a thread of its own for each channel."""
    expect: Expected
    context: TlsContext
    deadlines: Deadlines
    readiness: Readiness


def party_app(service: Service) -> Starlette:
    """Build the ASGI app. How many may do what at once is for the handler to say: here, nobody has shown a ticket."""
    strangers = Tally(partial(_LOG.warning, "%s: %d more within a minute"))

    async def channel(websocket: WebSocket) -> None:
        await serve_channel(
            websocket,
            service.handler,
            context=service.context,
            expect=service.expect,
            deadlines=service.deadlines,
            strangers=strangers,
        )

    async def live(request: Request) -> JSONResponse:
        del request
        return _answer(Health(status="live", time=datetime.now(UTC)))

    def ready(request: Request) -> JSONResponse:
        del request
        return _answer(make_health(service.readiness.lacks(), now=datetime.now(UTC)))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        strangers.flush()

    return Starlette(
        lifespan=lifespan,
        routes=[
            WebSocketRoute(service.path, channel),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
        ],
    )


def trust_looks(context: TlsContext) -> dict[Unready, Look]:
    """What readiness looks at of a party's certificates, as they are at the time."""
    return {
        Unready.CERTIFICATE: lambda: context.trust().require_own_accepted(),
        Unready.REVOCATIONS: lambda: context.trust().require_current(),
    }


def _answer(health: Health) -> JSONResponse:
    status = HTTPStatus.SERVICE_UNAVAILABLE if health.reasons else HTTPStatus.OK
    return JSONResponse(health.model_dump(mode="json"), status_code=status)


def serve(app: Starlette, listener: socket.socket, *, name: str, host: str, path: str) -> None:
    """Listen on what `plumbing.listening.take_port` bound and run until interrupted, then close it.

    Says where once it is so: `name`, of the party for people; `host`, as the settings have it; `path`, of the channel.
    Raises ConfigurationError if another program began to listen there in between.
    """
    with listener:
        start_listening(listener, setting=LISTEN)
        where = with_port(host, listener.getsockname()[1])
        server = AnnouncedServer(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, **uvicorn_options()),
            announce=lambda: say(f"{name}: listening on ws://{where}{path}"),
        )
        server.run(sockets=[listener])
