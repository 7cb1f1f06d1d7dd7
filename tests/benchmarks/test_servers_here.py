"""Servers in this process: stopped however quickly they have started."""

import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from contract.identity import Role
from demonstration import deployment
from tests.benchmarks import servers_here as module
from tests.benchmarks.servers_here import ServerHere, servers_here


def test_a_server_that_serves_before_its_starter_goes_on_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a busy machine has it once in a while."""
    serving = threading.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        while True:
            message = await receive()
            serving.set()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    def serve(*_arguments: Any, **_named: Any) -> None:
        uvicorn.Server(uvicorn.Config(application, port=0, lifespan="on", ws="none", log_config=None)).run()

    start = threading.Thread.start

    def start_and_fall_behind(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == Role.INFERENCE_SERVICE.value:
            assert serving.wait(30)

    monkeypatch.setattr(module, "run", serve)
    monkeypatch.setattr(module, "STOP_SECONDS", 30.0)
    monkeypatch.setattr(threading.Thread, "start", start_and_fall_behind)
    servers: dict[Role, ServerHere] = {}
    with servers_here(monkeypatch):
        deployment._serve(servers, tmp_path, Role.INFERENCE_SERVICE, {})  # type: ignore[arg-type]
        server = servers[Role.INFERENCE_SERVICE]
        server.terminate()
        assert server.wait() == 0
