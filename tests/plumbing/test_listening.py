"""A busy port is said before anything slow begins, and names the setting."""

import importlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette

from contract.errors import ConfigurationError
from plumbing.http_server import AnnouncedServer
from plumbing.listening import require_free_port, start_listening, take_port
from secure_computation.channel import serving

SAMPLES = Path(__file__).resolve().parents[2] / "docs" / "samples"


def test_a_taken_port_refuses_until_the_server_listens() -> None:
    with take_port("127.0.0.1", 0, setting="--port") as taken:
        address = taken.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        start_listening(taken, setting="--port")
        socket.create_connection(address).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_busy_port_names_itself_and_the_setting(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        busy = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with busy:
        port = busy.getsockname()[1]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with pytest.raises(ConfigurationError) as caught:
            require_free_port(host, port, setting="--port")
    assert str(caught.value) == (
        f"cannot listen on {where}: another program listens there already; choose another with --port, or free this one"
    )


def test_two_servers_that_start_at_once_do_not_share_a_port() -> None:
    with take_port("127.0.0.1", 0, setting="--port") as first:
        port = first.getsockname()[1]
        with take_port("127.0.0.1", port, setting="--port") as second:
            start_listening(first, setting="--port")
            with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: another program listens there already"):
                start_listening(second, setting="--port")


@pytest.mark.parametrize(
    ("host", "why"), [("192.0.2.1", "this machine has no such address"), ("no such host", "no such host name")]
)
def test_an_address_that_is_not_this_machines(host: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{why}; choose another with --listen"):
        require_free_port(host, 0, setting="--listen")


@pytest.mark.parametrize("program", ["inference-service", "crypto-provider", "model-owner"])
def test_a_server_asks_for_its_port_first_of_all(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"{program.replace('-', '_')}.command")

    def slow(*_: object) -> None:
        raise AssertionError("the slow work has begun")

    monkeypatch.setattr(module, "run_server" if program == "inference-service" else "_serve", slow)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        where = f"127.0.0.1:{busy.getsockname()[1]}"
        monkeypatch.setenv(f"{program.replace('-', '_').upper()}_LISTEN", where)
        monkeypatch.setattr("sys.argv", [program, "serve", "--config", str(SAMPLES / f"{program}.toml")])
        with pytest.raises(SystemExit) as caught:
            module.main()
    assert caught.value.code == 5
    assert f"cannot listen on {where}: another program listens there already" in capsys.readouterr().err


class TestAnnouncing:
    """A server says where it listens when it does, whatever else starts at the same moment."""

    @pytest.fixture
    def ending(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Servers end as soon as they are up; signals are pytest's."""

        async def end(server: uvicorn.Server) -> None:
            await server.shutdown()

        monkeypatch.setattr(uvicorn.Server, "main_loop", end)
        monkeypatch.setattr(uvicorn.Server, "capture_signals", lambda _: nullcontext())

    def serve(self, listener: socket.socket) -> None:
        serving.serve(Starlette(), listener, name="model owner", host="127.0.0.1", path="/v2/inference")

    def test_the_port_that_it_has_is_said(self, ending: None, capsys: pytest.CaptureFixture[str]) -> None:
        listener = take_port("127.0.0.1", 0, setting="--port")
        port = listener.getsockname()[1]
        self.serve(listener)
        assert capsys.readouterr().err == f"model owner: listening on ws://127.0.0.1:{port}/v2/inference\n"

    def test_who_comes_second_never_says_that_it_listens(
        self, ending: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Both had bound the port before either listened."""
        with take_port("127.0.0.1", 0, setting="--port") as first:
            port = first.getsockname()[1]
            second = take_port("127.0.0.1", port, setting="--port")
            start_listening(first, setting="--port")
            with pytest.raises(ConfigurationError, match="another program listens there already"):
                self.serve(second)
        assert capsys.readouterr().err == ""

    def test_a_server_that_cannot_start_says_nothing(self, ending: None) -> None:
        """Its database is gone, say."""
        said: list[str] = []

        @asynccontextmanager
        async def broken(_: Starlette) -> AsyncIterator[None]:
            if said == []:
                raise OSError
            yield

        server = AnnouncedServer(
            uvicorn.Config(Starlette(lifespan=broken), lifespan="on", ws="none", log_config=None),
            announce=lambda: said.append("listening"),
        )
        with take_port("127.0.0.1", 0, setting="--port") as listener:
            start_listening(listener, setting="--port")
            server.run(sockets=[listener])
        assert said == []
