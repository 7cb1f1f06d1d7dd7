"""The event loop of servers that speak TLS themselves: a handshake has the same deadline as a request's head."""

import asyncio
from typing import Any, Final

import uvloop

from contract.http_server import HEAD_SECONDS

EVENT_LOOP: Final = "contract.event_loop:BoundedHandshakeLoop"
"""As `uvicorn.Config` wants a loop named."""


class BoundedHandshakeLoop(uvloop.Loop):
    """uvloop's, which by itself waits 60 s for a handshake."""

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.AbstractServer:  # type: ignore[override]
        """As uvloop does it."""
        if named.get("ssl") is not None:
            named["ssl_handshake_timeout"] = HEAD_SECONDS
        return await super().create_server(*arguments, **named)
