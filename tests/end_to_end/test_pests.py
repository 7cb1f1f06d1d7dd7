"""Connections that come for no good: idle by the hundred, dawdling, silent behind an open WebSocket. Work goes on."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from contract.ticket import Engine
from tests.end_to_end.federation import Federation
from tests.end_to_end.models import DITHER

IDLE = 200
DAWDLING = 20
SILENT_WEB_SOCKETS = 20
UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def servers(federation: Federation) -> dict[str, str]:
    return {
        "front end": federation.front_end_url,
        "model owner": federation.model_owner_url,
        "crypto provider": federation.dealer_url,
    }


@contextmanager
def pests(url: str) -> Iterator[None]:
    """Connect to one server in all of these ways, and stay until the block ends."""
    parts, ended = urlsplit(url), threading.Event()
    with ExitStack() as stack:

        def dial() -> socket.socket:
            return stack.enter_context(socket.create_connection((parts.hostname, parts.port or 80), timeout=30))

        for _ in range(IDLE):
            dial()
        if parts.scheme == "ws":
            for _ in range(SILENT_WEB_SOCKETS):
                dial().sendall(UPGRADE.format(path=parts.path).encode())
        slow = [dial() for _ in range(DAWDLING)]

        def dawdle() -> None:
            piece = b"GET / HTTP/1.1\r\n"
            while not ended.wait(0.2):
                for connection in slow:
                    with suppress(OSError):  # hung up on, as it should be
                        connection.sendall(piece)
                piece = b"X: y\r\n"

        thread = threading.Thread(target=dawdle)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=30)


@pytest.mark.parametrize("server", ["front end", "model owner", "crypto provider"])
def test_a_diagnosis_among_pests(federation: Federation, chest: Path, server: str) -> None:
    expected = pytest.approx(federation.diagnose(chest, engine=Engine.MASKED).logits, abs=DITHER)
    with pests(servers(federation)[server]):
        assert federation.diagnose(chest, engine=Engine.MASKED).logits == expected
    assert federation.diagnose(chest, engine=Engine.MASKED).logits == expected
