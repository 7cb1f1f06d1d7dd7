"""The header follows whether the parties can be reached, in words that name who, and asks no more than it must."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from contract.api import ServerUrl
from contract.errors import DeadlineExceeded, PeerDisconnected, PeerUnreachable, SessionCancelled
from contract.identity import Party
from contract.roles import OtherEnd, Role
from data_owner.ui.timings import Run
from data_owner.ui.watching import LOOKED_SECONDS, PeerWatch, is_reachable
from data_owner.ui.words import describe_error
from data_owner.ui.workplace import Activity
from plumbing.settings import Peer
from tests.data_owner.ui.conftest import Page, open_page, settings_of
from tests.end_to_end.federation import LABORATORY, Federation, closed_port

PROTOCOLS = ("WebSocket", "TLS", "HTTP", "TCP", "socket")


@contextmanager
def answering(content: bytes, heard: list[bytes] | None = None) -> Iterator[int]:
    """A port that answers every connection so, once it was asked something; `heard` takes what it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked = connection.recv(4096)
                    if heard is not None:
                        heard.append(asked)
                    connection.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("content", "there"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", False),
        (b"I speak something else\r\n", True),
    ],
)
def test_whatever_answers_is_there_but_not_a_server_on_the_way(content: bytes, there: bool) -> None:
    with answering(content) as port:
        assert is_reachable(f"ws://127.0.0.1:{port}/v2/inference") is there
    with answering(content) as port:  # not what a TLS client expects; a session says what is wrong
        assert is_reachable(f"wss://127.0.0.1:{port}/v2/inference")


def test_a_party_is_asked_for_its_health_page_and_told_nothing() -> None:
    heard: list[bytes] = []
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", heard) as port:
        assert is_reachable(f"ws://127.0.0.1:{port}/v2/inference")
    first, *headers = heard[0].decode().strip().splitlines()
    assert first == "GET /v2/health/live HTTP/1.1"
    names = {line.partition(":")[0].lower() for line in headers}
    assert names == {"host", "accept", "accept-encoding", "connection", "user-agent"}


def test_a_closed_port_does_not_answer() -> None:
    assert not is_reachable(f"ws://127.0.0.1:{closed_port()}/v2/inference")


@pytest.mark.parametrize("address", ["wss://[", "wss://[::1", "wss://a:99999/x", "wss://::::/x"])
def test_an_address_of_the_catalog_that_is_none_ends_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx.HTTPTransport.handle_request", lambda *_: pytest.fail("somebody was asked"))
    TypeAdapter[str](ServerUrl).validate_python(address)  # a front end may say it
    assert not is_reachable(address)


def test_what_is_no_proxy_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx.HTTPTransport.handle_request", lambda *_: pytest.fail("somebody was asked"))
    monkeypatch.setenv("HTTPS_PROXY", "socks5://name:canary@proxy.example")
    assert is_reachable("wss://model.example/session")


def test_a_model_owner_that_is_down_is_named_before_and_after_a_session(
    federation: Federation, tmp_path: Path, chest: Path
) -> None:
    nowhere = f"ws://127.0.0.1:{closed_port()}/v2/inference"
    peer = Peer(organisation=LABORATORY.organisation, url=nowhere)
    with open_page(settings_of(federation, tmp_path / "data-owner", model_owners=(peer,))) as page:
        page.ready()
        page.html()  # somebody looks
        page.wait(lambda: "Cannot reach the model owner, north-lab, since " in page.html())
        assert 'data-testid="try-again"' in page.html()
        (entry,) = page.drop(chest)
        page.post(f"/entries/{entry}/submit")
        page.wait_for(entry, "failed")
        html = page.html(entry)
        assert "No connection to the model owner, north-lab" in html
        assert "Cannot reach the model owner, north-lab, since " in html
        assert not any(word in html for word in PROTOCOLS)
        assert page.post("/reconnect").status_code == 204


def test_the_header_follows_when_the_party_is_back(page: Page) -> None:
    page.ready().html()
    page.workplace.note_lost("the model owner, north-lab")
    since = page.workplace.trouble
    page.workplace.note_lost("the model owner, north-lab")
    assert since is not None
    assert page.workplace.trouble is not None
    assert page.workplace.trouble.since == since.since
    PeerWatch(page.settings, page.workplace).look()
    page.wait(lambda: page.workplace.trouble is None)
    assert "Cannot reach" not in page.html()


def test_an_answer_says_that_all_can_be_reached(page: Page, chest: Path) -> None:
    (entry,) = page.ready().drop(chest)
    page.workplace.note_lost("the crypto provider, trust-centre")
    page.post(f"/entries/{entry}/submit")
    page.wait_for(entry, "answered")
    page.wait(lambda: page.workplace.trouble is None)


def test_nobody_is_asked_while_nobody_looks_or_a_session_runs(page: Page) -> None:
    watch = PeerWatch(page.settings, page.workplace)
    page.ready()
    assert not watch.is_due()
    watch.note_look()
    assert watch.is_due()
    watch._looked -= LOOKED_SECONDS
    assert not watch.is_due()
    watch.note_look()
    page.workplace.activity = Activity(entry=None, run=Run(expected=None))
    assert not watch.is_due()
    page.workplace.activity = None


def test_errors_name_the_party_that_is_meant() -> None:
    peer = "model-owner of north-lab at 10.0.0.1:8081"
    owner = Party(role=Role.MODEL_OWNER, organisation="north-lab")
    dealer = Party(role=Role.CRYPTO_PROVIDER, organisation="trust-centre")
    front_end = OtherEnd(role=Role.INFERENCE_SERVICE, organisation="")
    unreachable = describe_error(
        PeerUnreachable(f"{peer} cannot be reached (Connection refused)", peer=peer, party=owner)
    )
    assert unreachable.title == "No connection to the model owner, north-lab"
    assert unreachable.lost == "the model owner, north-lab"
    late = describe_error(DeadlineExceeded(peer=str(dealer), step="material", waited_seconds=20.0, party=dealer))
    assert "the crypto provider, trust-centre" in late.advice
    gone = describe_error(PeerDisconnected("the inference service ended the connection", party=front_end))
    assert gone.lost == "the front end"
    assert describe_error(SessionCancelled("stopped", peer=peer, party=owner)).lost == ""
    assert describe_error(PeerUnreachable("somebody")).title == "No connection"
