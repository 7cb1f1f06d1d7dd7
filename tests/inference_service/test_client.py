"""The client against a real server on loopback, and against servers that misbehave."""

import hashlib
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest
import uvicorn
from pydantic import SecretStr

from contract.api import (
    Failure,
    ModelEntry,
    PartyAddress,
    PhaseSeconds,
    SentBytes,
    SessionEventName,
    SessionReport,
    SessionState,
)
from contract.errors import (
    BudgetSpent,
    CallerError,
    ConfigurationError,
    DeadlineExceeded,
    ModelFileError,
    PeerDisconnected,
    PeerReported,
    PeerUnreachable,
    PeerViolation,
    Refused,
)
from contract.ticket import Engine
from inference_service import client as client_module
from inference_service.client import InferenceServiceClient
from plumbing import settings as party_settings
from tests.fake_proxy import dead_proxy, refusing_proxy
from tests.inference_service.builders import PLAN, PROVIDER, VOUCHER, card
from tests.inference_service.conftest import FrontEnd, Keys

ADDRESS = "wss://inference.north-lab.example"
SAMPLES = Path(__file__).resolve().parents[2] / "docs" / "samples"
KEY = SecretStr("ei-00000000-CANARY")


@contextmanager
def listening(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()


@pytest.fixture
def url(front_end: FrontEnd) -> Iterator[str]:
    configuration = uvicorn.Config(front_end.app, ws="none", lifespan="on", log_config=None, access_log=False)
    listener = socket.create_server(("127.0.0.1", 0))
    with listening(uvicorn.Server(configuration), listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def clinician(url: str, keys: Keys) -> Iterator[InferenceServiceClient]:
    with InferenceServiceClient(url, SecretStr(keys.clinician), timeout_seconds=20) as client:
        yield client


@pytest.fixture
def model_owner(url: str, keys: Keys) -> Iterator[InferenceServiceClient]:
    with InferenceServiceClient(url, SecretStr(keys.model_owner), timeout_seconds=20) as client:
        yield client


def register(client: InferenceServiceClient, *, plan: bytes = PLAN.encode()) -> str:
    entry = ModelEntry(
        card=card(),
        version="1.0.0",
        plan_hash=hashlib.sha256(plan).hexdigest(),
        engines=(Engine.CRYPTEN,),
        model_owner=PartyAddress(organisation="north-lab", address=ADDRESS),
        crypto_provider=PROVIDER,
    )
    return client.register_model(entry, voucher=VOUCHER, plan=plan).plan_hash


def test_a_whole_session(clinician: InferenceServiceClient, model_owner: InferenceServiceClient) -> None:
    assert clinician.live().status == "live"
    plan_hash = register(model_owner)
    assert [entry.plan_hash for entry in clinician.models()] == [plan_hash]
    assert clinician.model("resnet", "1.0.0") == clinician.model("resnet")
    assert clinician.plan(plan_hash) == PLAN.encode()

    opened = clinician.open_session(model="resnet", engine=Engine.CRYPTEN)
    assert opened.ticket
    assert clinician.report(opened.id, SessionEventName.PREPARE).state is SessionState.PREPARING
    assert model_owner.session(opened.id).state is SessionState.PREPARING
    clinician.report(opened.id, SessionEventName.RUN)
    report = SessionReport(
        seconds=PhaseSeconds(offline=2.5, online=0.5),
        bytes_sent=SentBytes(data_owner=1, model_owner=2, crypto_provider=3),
    )
    done = clinician.report(opened.id, SessionEventName.COMPLETE, report)
    assert (done.state, done.seconds, done.bytes_sent) == (SessionState.COMPLETED, report.seconds, report.bytes_sent)
    with pytest.raises(Refused, match="completed cannot cancel"):
        clinician.cancel(opened.id)

    failed = clinician.open_session(model="resnet", engine=Engine.CRYPTEN)
    reason = Failure(code="peer-disconnected", message="the data owner hung up: start again")
    model_owner.report(failed.id, SessionEventName.FAIL, SessionReport(failure=reason))
    assert clinician.session(failed.id).failure == reason

    cancelled = clinician.open_session(model="resnet", engine=Engine.CRYPTEN)
    assert clinician.cancel(cancelled.id).state is SessionState.CANCELLED

    model_owner.withdraw_model("resnet", "1.0.0")
    assert clinician.models() == ()


def test_another_model_than_was_asked_for_is_not_accepted(
    clinician: InferenceServiceClient, model_owner: InferenceServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are what their owner registered, so no signature would tell."""
    register(model_owner)
    right = clinician.model("resnet")
    monkeypatch.setattr(clinician, "_ask", lambda *_: right)
    assert clinician.model("resnet", "1.0.0") == right
    for asked in (("vgg", None), ("resnet", "1.1.0")):
        with pytest.raises(PeerViolation, match="answered with another model than"):
            clinician.model(*asked)


def test_a_plan_of_many_megabytes_arrives_whole(
    clinician: InferenceServiceClient, model_owner: InferenceServiceClient
) -> None:
    plan = b'{"layers": [' + b'"\\n",' * 500_000 + b"0]}"
    assert clinician.plan(register(model_owner, plan=plan)) == plan


def test_refusals_carry_the_servers_words(
    clinician: InferenceServiceClient, model_owner: InferenceServiceClient, url: str
) -> None:
    register(model_owner)
    with pytest.raises(Refused, match="no model absent"):
        clinician.model("absent")
    with pytest.raises(Refused, match="model owner's account"):
        register(clinician)
    with pytest.raises(Refused, match="no session of yours"):
        clinician.session(UUID(int=0))
    with pytest.raises(CallerError, match="engine masked"):
        clinician.open_session(model="resnet", engine=Engine.MASKED)
    with pytest.raises(CallerError, match="model's name"):
        clinician.open_session(model="../etc", engine=Engine.CRYPTEN)
    for images in (0, 17):
        with pytest.raises(CallerError, match="a session cannot be asked for: images"):
            clinician.open_session(model="resnet", engine=Engine.MASKED, images=images)
    with pytest.raises(CallerError):
        clinician.model("../sessions?x=1")
    with pytest.raises(ModelFileError, match="UTF-8"):
        register(model_owner, plan=b"\xff\xff")
    with InferenceServiceClient(url, KEY) as nobody, pytest.raises(Refused, match="no account"):
        nobody.models()


def test_a_server_that_is_down(unused_port: int) -> None:
    with (
        InferenceServiceClient(f"http://127.0.0.1:{unused_port}", KEY) as client,
        pytest.raises(PeerUnreachable, match="check that it runs"),
    ):
        client.models()


def test_a_dead_proxy_is_named_and_its_password_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with dead_proxy() as url:
        where = url.removeprefix("http://")
        monkeypatch.setenv("HTTPS_PROXY", f"http://radiology:canary@{where}")
        monkeypatch.setenv("NO_PROXY", "")
        with (
            InferenceServiceClient("https://front.invalid:8080", KEY) as client,
            pytest.raises(PeerUnreachable) as caught,
        ):
            client.models()
    assert str(caught.value).startswith(f"the proxy {where}, which HTTPS_PROXY names, cannot be reached (")
    assert "whether front.invalid:8080 can: correct HTTPS_PROXY, or put front.invalid into NO_PROXY" in str(
        caught.value
    )
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            403,
            r"does not let this machine through to front.invalid:8080 \(HTTP 403\): ask the IT department to",
        ),
        (407, r"wants a name and a password \(HTTP 407\): put them into HTTPS_PROXY"),
    ],
)
def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch, status: int, words: str) -> None:
    with refusing_proxy(status) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "")
        with (
            InferenceServiceClient("https://front.invalid:8080", KEY) as client,
            pytest.raises(
                PeerUnreachable, match=f"the proxy {url.removeprefix('http://')}, which HTTPS_PROXY names, {words}"
            ),
        ):
            client.models()


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port


@contextmanager
def misbehaving(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that takes one request and then does as it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # an OSError: the client has had enough
            connection.recv(65536)
            behave(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive()


def answering(body: bytes, *, status: str = "200 OK", headers: str = "") -> Callable[[socket.socket], None]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n".encode()
    return lambda connection: connection.sendall(head + body)


def silent(connection: socket.socket) -> None:
    connection.settimeout(60)
    connection.recv(1)  # until the client hangs up


def dripping(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(3000):
        connection.sendall(b" ")
        time.sleep(0.02)


@pytest.mark.parametrize("behave", [silent, dripping])
def test_a_slow_server_meets_the_deadline(behave: Callable[[socket.socket], None]) -> None:
    with (
        misbehaving(behave) as url,
        InferenceServiceClient(url, KEY, timeout_seconds=0.3) as client,
        pytest.raises(DeadlineExceeded, match="GET /v2/models") as caught,
    ):
        client.models()
    assert 0.3 <= caught.value.waited_seconds < 30  # a minute is what both would take


PROBLEM = (
    b'{"type":"urn:x","title":"t","status":%d,"detail":"in its\\u001b[31m words","instance":"urn:y","code":"internal"}'
)
SPENT = (PROBLEM % 429).replace(b'"internal"', b'"budget-spent"')


@pytest.mark.parametrize(
    ("behave", "kind", "words"),
    [
        (lambda connection: None, PeerDisconnected, "ended the connection"),
        (lambda connection: connection.sendall(b"garbage\r\n\r\n"), PeerDisconnected, "ended the connection"),
        (answering(b"{}"), PeerViolation, "something that this version does not know"),
        (answering(b"\xff"), PeerViolation, "something that this version does not know"),
        (answering(b"<html>", status="502 Bad Gateway"), PeerViolation, "HTTP 502"),
        (answering(b"", status="302 Found", headers="Location: /x\r\n"), PeerViolation, "HTTP 302"),
        (answering(b"{}", headers="Content-Encoding: gzip\r\n"), PeerViolation, "compressed"),
        (answering(b" " * 2000), PeerViolation, "more than 1000 bytes"),
        (answering(PROBLEM % 500, status="500 Oops"), PeerReported, r"in its\[31m words"),
        (answering(b"[" + b"0," * 300 + b"0]"), PeerViolation, "too long a list"),
        (answering(PROBLEM % 403, status="403 No"), Refused, r"in its\[31m words.* \(said by the inference service\)$"),
        (answering(SPENT, status="429 Too Many Requests"), BudgetSpent, r"in its\[31m words"),
    ],
)
def test_a_misbehaving_server_is_an_error_of_ours(
    behave: Callable[[socket.socket], None], kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(client_module, "MAX_ANSWER_COMMAS", 299)
    with (
        misbehaving(behave) as url,
        InferenceServiceClient(url, KEY, timeout_seconds=5) as client,
        pytest.raises(kind, match=words) as caught,
    ):
        client.models()
    assert type(caught.value) is kind
    assert "CANARY" not in str(caught.value)


def test_a_plan_with_another_hash_is_not_accepted() -> None:
    with (
        misbehaving(answering(b'{"other": "plan"}')) as url,
        InferenceServiceClient(url, KEY) as client,
        pytest.raises(PeerViolation, match="hash"),
    ):
        client.plan("0" * 64)


@pytest.mark.parametrize("url", ["http://front-end.example", "ftp://127.0.0.1", "front-end", "http://10.0.0.1:8080"])
def test_a_key_never_travels_in_clear(url: str) -> None:
    with pytest.raises(ConfigurationError, match="in clear"):
        InferenceServiceClient(url, KEY)


def test_it_does_not_show_its_key() -> None:
    with InferenceServiceClient("http://127.0.0.1:1", KEY) as client:
        assert "CANARY" not in repr(client)


def test_an_authority_that_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("garbage")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigurationError, match=path.name):
            InferenceServiceClient("https://127.0.0.1:1", KEY, authority=path)


@pytest.mark.parametrize("party", ["data-owner", "crypto-provider", "model-owner"])
def test_a_sample_whose_key_was_not_set_names_the_variable(party: str) -> None:
    sample = tomllib.loads((SAMPLES / f"{party}.toml").read_text())["inference_service"]["api_key"]
    front_end = party_settings.FrontEnd(url="http://127.0.0.1:1", api_key=SecretStr(sample))
    variable = f"{party.replace('-', '_').upper()}_INFERENCE_SERVICE__API_KEY"
    with pytest.raises(ConfigurationError, match=f"the API key is not set: put it into the variable {variable};"):
        InferenceServiceClient.of(front_end)
