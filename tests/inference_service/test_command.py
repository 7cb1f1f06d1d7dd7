"""The command line: set up, accounts, and a server in a process of its own."""

import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from pydantic import SecretStr, ValidationError

from authority.certificates import PartyCertificate
from authority.enrolment import create_renewal, create_request, install_certificate, locate_credentials, read_request
from authority.signing import Authority, Reason, create_authority
from contract.errors import PeerUnreachable
from contract.identity import Party, Role
from contract.ticket import PUBLIC_KEY_FILE, SIGNING_KEY_FILE, load_public_key
from inference_service.client import InferenceServiceClient
from inference_service.command import app
from inference_service.settings import DATABASE_FILE, ServiceSettings
from plumbing.command_line import run
from plumbing.settings import Address
from tests.signed_requests import sign_request


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "service.toml"
    path.write_text('data_folder = "data"\nlisten = "127.0.0.1:0"\n')
    return path


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, name="inference-service", arguments=arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_init_makes_a_private_folder_and_prints_the_public_key(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("init", "--config", str(config)) == 0
    data = config.parent / "data"
    printed = Path(capsys.readouterr().out.strip())
    assert printed == data / PUBLIC_KEY_FILE
    load_public_key(printed)
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / SIGNING_KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (data / DATABASE_FILE).stat().st_mode & 0o777 == 0o600
    assert command("init", "--config", str(config)) == 5  # never twice
    assert "exists" in capsys.readouterr().err


def test_accounts_from_the_command_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--config", str(config))
    assert command("account", "list", *arguments) == 5
    assert "init" in capsys.readouterr().err
    command("init", *arguments)
    capsys.readouterr()
    assert command("account", "add", "--role", "model_owner", "--organisation", "north-lab", *arguments) == 0
    out, err = capsys.readouterr()
    key = out.strip()
    prefix = key.split("-")[1]
    assert key.startswith("ei-")
    assert key not in err
    assert command("account", "list", *arguments) == 0
    listed = capsys.readouterr().out
    assert prefix in listed
    assert "model-owner" in listed
    assert key not in listed
    assert command("account", "revoke", prefix, *arguments) == 0
    command("account", "list", *arguments)
    assert "revoked" in capsys.readouterr().out


@pytest.mark.parametrize(("role", "organisation"), [("doctor", "st-mary"), ("clinician", "St Mary")])
def test_a_bad_account_is_one_line_and_status_2(
    config: Path, capsys: pytest.CaptureFixture[str], role: str, organisation: str
) -> None:
    command("init", "--config", str(config))
    capsys.readouterr()
    assert command("account", "add", "--role", role, "--organisation", organisation, "--config", str(config)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_serve_without_init_says_what_to_do(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("serve", "--config", str(config)) == 5
    assert SIGNING_KEY_FILE in capsys.readouterr().err


@contextmanager
def served(config: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a front end in a process of its own, and, afterwards, what it wrote to stderr."""
    written: list[str] = []
    call = [sys.executable, "-m", "inference_service", "serve", "--config", str(config)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), written
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
            written.append(err)
    assert out == ""


@pytest.fixture
def key(config: Path, capsys: pytest.CaptureFixture[str]) -> SecretStr:
    """A clinician's key for a front end that has been set up."""
    command("init", "--config", str(config))
    capsys.readouterr()
    command("account", "add", "--role", "clinician", "--organisation", "st-mary", "--config", str(config))
    return SecretStr(capsys.readouterr().out.strip())


def test_a_served_front_end_answers_and_stops_when_told(config: Path, key: SecretStr) -> None:
    with served(config) as (url, written), InferenceServiceClient(url, key) as client:
        assert client.models() == ()
    assert '"route": "/v2/models"' in written[0]
    assert "Traceback" not in written[0]
    assert key.get_secret_value() not in written[0]


def test_over_tls_the_federations_authority_vouches_for_it(config: Path, key: SecretStr, tmp_path: Path) -> None:
    party = Party(role=Role.INFERENCE_SERVICE, organisation="federation")
    authority = create_authority(tmp_path / "authority")
    request = create_request(party, tmp_path / "front-end", hosts=["127.0.0.1"])
    files = locate_credentials(party, tmp_path / "front-end")
    files.certificate.write_bytes(sign_request(tmp_path / "authority", request, hosts=["127.0.0.1"]))
    config.write_text(config.read_text() + f'key = "{files.key}"\ncertificate = "{files.certificate}"\n')
    with served(config) as (url, _):
        assert url.startswith("https://")
        with InferenceServiceClient(url, key, authority=authority) as client:
            assert client.models() == ()
        with InferenceServiceClient(url, key) as client, pytest.raises(PeerUnreachable, match="certificate"):
            client.models()
        old = ssl.create_default_context(cafile=str(authority))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        host, port = url.removeprefix("https://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            pytest.raises(ssl.SSLError),
        ):
            old.wrap_socket(plain, server_hostname=host)


def test_a_renewed_certificate_is_served_without_a_restart(config: Path, key: SecretStr, tmp_path: Path) -> None:
    """And once the old one is revoked, nobody who shows it is believed. An open connection goes on through both."""
    party = Party(role=Role.INFERENCE_SERVICE, organisation="federation")
    create_authority(tmp_path / "authority")
    authority, folder = Authority.open(tmp_path / "authority"), tmp_path / "front-end"
    issuer, revoked = authority.folder / "authority.pem", authority.folder / "revoked.crl"

    def client_at(url: str) -> InferenceServiceClient:
        return InferenceServiceClient(url, key, authority=issuer, revocations=revoked)

    signed = tmp_path / "signed.pem"
    signed.write_bytes(
        authority.sign(read_request(create_request(party, folder, hosts=["127.0.0.1"])), hosts=["127.0.0.1"])
    )
    install_certificate(party, folder, signed, authority=issuer, revocations=revoked)
    files = locate_credentials(party, folder)
    config.write_text(config.read_text() + f'key = "{files.key}"\ncertificate = "{files.certificate}"\n')
    with served(config) as (url, _), client_at(url) as early:
        assert early.models() == ()
        wanted = read_request(create_renewal(party, folder))
        first = signed.read_bytes()
        signed.write_bytes(authority.sign(wanted, hosts=wanted.hosts))
        (folder / "inference-service.next.key").replace(files.key)  # half done: the old pair is served
        with client_at(url) as client:
            assert client.models() == ()
        install_certificate(party, folder, signed)
        assert certificate_at(url, issuer).serial_number == PartyCertificate.read(signed).serial
        (tmp_path / "first.pem").write_bytes(first)
        authority.revoke([PartyCertificate.read(tmp_path / "first.pem")], Reason.SUPERSEDED)
        with client_at(url) as client:
            assert client.models() == ()
        authority.revoke(authority.issued_to(party), Reason.KEY_COMPROMISE)
        with client_at(url) as client, pytest.raises(PeerUnreachable, match="was revoked"):
            client.models()
        assert early.models() == ()


def certificate_at(url: str, authority: Path) -> x509.Certificate:
    host, port = url.removeprefix("https://").split(":")
    pem = ssl.get_server_certificate((host, int(port)), ca_certs=str(authority), timeout=20)
    return x509.load_pem_x509_certificate(pem.encode())


def test_a_key_that_is_not_the_certificates(
    config: Path, key: SecretStr, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("key", "certificate"):
        (tmp_path / f"{name}.pem").write_text("garbage")
    config.write_text(config.read_text() + 'key = "key.pem"\ncertificate = "certificate.pem"\n')
    assert command("serve", "--config", str(config)) == 5
    assert "enrol" in capsys.readouterr().err


def test_a_port_that_is_taken(config: Path, key: SecretStr, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(f'data_folder = "data"\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        assert command("serve", "--config", str(config)) == 5
    assert "cannot listen" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"listen": Address(host="0.0.0.0", port=80)},
        {"listen": Address(host="front-end.example", port=80)},
        {"key": Path("key.pem")},
        {"certificate": Path("certificate.pem")},
        {"session_seconds": 0},
        {"unknown": 1},
    ],
)
def test_settings_that_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ServiceSettings.model_validate({"data_folder": tmp_path} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"listen": Address(host="::1", port=80)},
        {"listen": Address(host="localhost", port=80)},
        {"listen": Address(host="0.0.0.0", port=80), "plain_http": True},
        {"listen": Address(host="0.0.0.0", port=80), "key": Path("k.pem"), "certificate": Path("c.pem")},
    ],
)
def test_settings_that_keep_keys_out_of_the_clear(tmp_path: Path, fields: dict[str, object]) -> None:
    ServiceSettings.model_validate({"data_folder": tmp_path} | fields)
