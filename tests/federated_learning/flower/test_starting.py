"""What a hospital says when it starts: a mistake of its own at once, and whether it reaches the coordinator."""

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ConfigurationError
from federated_learning.flower import running
from federated_learning.flower.running import make_look, run_hospital, watch_coordinator
from federated_learning.rounds.participants import (
    COORDINATOR_CERTIFICATE,
    COORDINATOR_KEY,
    Participants,
    make_hospital_keys,
    make_participants,
    read_participants,
)
from tests.federated_learning.rounds.local import LocalTraining


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> LocalTraining:
    return LocalTraining(tmp_path_factory.mktemp("federation"), hospitals=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": "nowhere", "table": None}, r"nowhere: cannot be read .*give a folder of images"),
        ({"folder": "nowhere"}, r"nowhere/.*: there is no such file \(\d+ of \d+ are missing\)"),
        ({"table": "nowhere.csv"}, r"nowhere\.csv: cannot be read .*give the path of a CSV"),
        ({"training": ("trian",)}, "no examples of role 'trian'; its roles are: train, validation. Name one of them"),
        ({"validation": ("held",)}, "no examples of role 'held'"),
    ],
)
def test_a_hospital_without_the_images_of_its_settings_does_not_start(
    hospitals: LocalTraining, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(running, "supernode", lambda *_given, **_named: pytest.fail("it was started"))
    settings = hospitals.hospital_settings("hospital-a")
    paths = {name: hospitals.folder / value for name, value in change.items() if isinstance(value, str)}
    data = settings.data.model_copy(update=change | paths)
    with pytest.raises(ConfigurationError, match=words):
        run_hospital(settings.model_copy(update={"data": data}), say=lambda _line: None)


def federation_at(folder: Path, port: int) -> Participants:
    public = [make_hospital_keys("north", folder / "north")]
    return read_participants(make_participants(public, folder / "coordinator", host="127.0.0.1", port=port))


@contextmanager
def answering(listener: socket.socket, context: ssl.SSLContext | None) -> Iterator[None]:
    """Accept on `listener`, with TLS where there is a context, and hang up."""

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    if context is not None:
                        context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    continue

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def certificate_of(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / COORDINATOR_CERTIFICATE, folder / COORDINATOR_KEY)
    return context


def test_a_hospital_says_once_that_the_coordinator_cannot_be_reached_and_once_that_it_can(tmp_path: Path) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    said: list[str] = []
    look = make_look(federation_at(tmp_path, port), say=said.append)
    look()
    look()
    listener.listen()
    with answering(listener, certificate_of(tmp_path / "coordinator")):
        look()
        look()
    look()
    refused = (
        f"the coordinator at 127.0.0.1:{port} cannot be reached (nothing listens there: is the coordinator started?); "
        "trying again"
    )
    assert said == [refused, f"the coordinator at 127.0.0.1:{port} answers now", refused]


def test_another_that_listens_in_the_coordinators_place_is_told_from_it(tmp_path: Path) -> None:
    federation_at(tmp_path / "other", 9092)
    for context, words in (
        (None, "what listens there does not speak TLS, or ends the connection"),
        (certificate_of(tmp_path / "other" / "coordinator"), "shows another certificate than federation.json"),
    ):
        shutil.rmtree(tmp_path / "own", ignore_errors=True)
        said: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0))
        federation = federation_at(tmp_path / "own", listener.getsockname()[1])
        with answering(listener, context):
            make_look(federation, say=said.append)()
        (line,) = said
        assert words in line
        assert federation.coordinator in line


def test_a_name_without_an_address_and_a_firewall_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = federation_at(tmp_path, 9092)
    for error, words in (
        (socket.gaierror(), "this machine finds no address for that name"),
        (TimeoutError(), "no answer in 5 s: look at the firewalls between"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
    ):

        def fail(*_given: object, error: OSError = error, **_named: object) -> socket.socket:
            raise error

        monkeypatch.setattr(socket, "create_connection", fail)
        told, said = threading.Event(), list[str]()

        def say(line: str, told: threading.Event = told, said: list[str] = said) -> None:
            said.append(line)
            told.set()

        with watch_coordinator(federation, say=say):
            assert told.wait(60)
        assert said == [f"the coordinator at 127.0.0.1:9092 cannot be reached ({words}); trying again"]


def test_an_address_that_is_none_is_refused_when_it_is_read(tmp_path: Path) -> None:
    federation_at(tmp_path, 9092)
    path = tmp_path / "coordinator" / "federation.json"
    path.write_text(path.read_text().replace("127.0.0.1:9092", "127.0.0.1"))
    with pytest.raises(ConfigurationError, match="write an address as host:port"):
        read_participants(path)
