"""Each cause for which the front end's certificate is not accepted is told as that cause, by every tool."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from authority.certificates import PartyCertificate
from authority.enrolment import create_request, encode_key, read_request
from authority.signing import Authority, Reason, create_authority
from authority.tls_refusal import Cause, remedy
from contract.api import Health
from contract.errors import PeerUnreachable
from contract.identity import Credentials, Party, Role
from data_owner.checks import Bad
from data_owner.settings import DataOwnerSettings
from data_owner.way_to_front_end import list_front_end_checks
from inference_service.client import InferenceServiceClient
from plumbing.settings import AtRest, FrontEnd, Peer

NOW = datetime.now(UTC)
PARTY = Party(role=Role.INFERENCE_SERVICE, organisation="registry")


class Answer(BaseHTTPRequestHandler):
    """The health page."""

    def do_GET(self) -> None:
        """Answer as the front end does."""
        content = Health(status="live", time=NOW).model_dump_json().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Quiet(HTTPServer):
    """Clients that refuse the certificate hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Nobody needs to know."""


@contextmanager
def serving(certificate: Path, key: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    with Quiet(("127.0.0.1", 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(20)


@dataclass(frozen=True)
class Scene:
    """What the front end shows, and by what this side judges it."""

    certificate: Path
    key: Path
    authority: Path
    revocations: Path


def scene(
    folder: Path, *, signed: float = 0, host: str = "127.0.0.1", listed: float = 0, is_revoked: bool = False
) -> Scene:
    """A certificate and a list, signed so many days from now (before, where negative)."""
    create_authority(folder / "authority")
    authority = Authority.open(folder / "authority")
    request = create_request(PARTY, folder / "front")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Authority, "_now", lambda _self: NOW + timedelta(days=signed))
        pem = authority.sign(read_request(request), days=30, hosts=[host])
        (folder / "front.pem").write_bytes(pem)
        revoked = [PartyCertificate.read(folder / "front.pem")] if is_revoked else []
        patch.setattr(Authority, "_now", lambda _self: NOW + timedelta(days=listed))
        path = authority.revoke(revoked, Reason.KEY_COMPROMISE, days=90)
    key = folder / "front" / "inference-service.key"
    return Scene(folder / "front.pem", key, folder / "authority" / "authority.pem", path)


def inspected(folder: Path) -> Scene:
    """Something on the way shows a certificate of its own."""
    good, key = scene(folder), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hospital Web Gateway")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "gateway.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "gateway.key").write_bytes(encode_key(key))
    return Scene(folder / "gateway.pem", folder / "gateway.key", good.authority, good.revocations)


def of_another_federation(folder: Path) -> Scene:
    """Its authority has the same name."""
    ours, theirs = scene(folder / "ours"), scene(folder / "theirs")
    return Scene(theirs.certificate, theirs.key, ours.authority, ours.revocations)


def with_a_list_of_another(folder: Path) -> Scene:
    ours, theirs = scene(folder / "ours"), scene(folder / "theirs")
    return Scene(ours.certificate, ours.key, ours.authority, theirs.revocations)


SCENES: dict[str, tuple[Callable[[Path], Scene], Cause | None]] = {
    "good": (scene, None),
    "expired": (lambda folder: scene(folder, signed=-31, listed=-1), Cause.EXPIRED),
    "not yet valid": (lambda folder: scene(folder, signed=1), Cause.NOT_YET_VALID),
    "revoked": (lambda folder: scene(folder, is_revoked=True), Cause.REVOKED),
    "another name": (lambda folder: scene(folder, host="front.example"), Cause.WRONG_NAME),
    "inspected": (inspected, Cause.UNKNOWN_AUTHORITY),
    "another federation's": (of_another_federation, Cause.UNKNOWN_AUTHORITY),
    "an old list": (lambda folder: scene(folder, signed=-10, listed=-91), Cause.LIST_ENDED),
    "a list of tomorrow": (lambda folder: scene(folder, listed=1), Cause.LIST_NOT_YET_VALID),
    "another authority's list": (with_a_list_of_another, Cause.LIST_OF_ANOTHER),
}
TELLING = {
    Cause.EXPIRED: "certificate has ended by the clock of this machine",
    Cause.NOT_YET_VALID: "certificate begins later than the clock of this machine",
    Cause.REVOKED: "certificate was revoked",
    Cause.WRONG_NAME: "for",
    Cause.UNKNOWN_AUTHORITY: "not the federation",
    Cause.LIST_ENDED: "list of revoked certificates here has ended",
    Cause.LIST_NOT_YET_VALID: "list of revoked certificates here was signed later",
    Cause.LIST_OF_ANOTHER: "list of revoked certificates here is not of the authority",
}


def of_others(cause: Cause) -> list[str]:
    return [words for other, words in TELLING.items() if other not in {cause, Cause.WRONG_NAME}]


def looks(settings: DataOwnerSettings) -> dict[str, Bad | str]:
    found: dict[str, Bad | str] = {}
    for check in list_front_end_checks(settings):
        try:
            found[check.name] = check.look()
        except Bad as bad:
            found[check.name] = bad
    return found


@pytest.mark.parametrize("case", SCENES)
def test_each_cause_is_told_as_itself(case: str, tmp_path: Path) -> None:
    make, cause = SCENES[case]
    shown = make(tmp_path)
    with serving(shown.certificate, shown.key) as port:
        front_end = FrontEnd(
            url=f"https://127.0.0.1:{port}",
            api_key=SecretStr("ei-00000000-CANARY"),
            authority=shown.authority,
            revocations=shown.revocations,
        )
        settings = DataOwnerSettings(
            data_folder=tmp_path,
            credentials=Credentials(key=tmp_path, certificate=tmp_path, authority=tmp_path),
            at_rest=AtRest(key=SecretStr("ab" * 32)),
            ticket_keys=(tmp_path,),
            inference_service=front_end,
            model_owners=(Peer(organisation="north-lab"),),
            crypto_providers=(Peer(organisation="trust-centre"),),
        )
        found = looks(settings)
        with InferenceServiceClient.of(front_end, timeout_seconds=10) as client:
            if cause is None:
                assert client.live().status == "live"
                assert found["front end: certificate"] == "is the federation's"
                return
            with pytest.raises(PeerUnreachable) as caught:
                client.live()
    bad, clock = found["front end: certificate"], found["clock"]
    assert isinstance(bad, Bad)
    assert isinstance(clock, str), "the clock is right, and that can be told although the certificate is refused"
    assert f"is not accepted ({cause})" in clock
    for words in (f"{bad.found} {bad.advice}", str(caught.value)):
        assert TELLING[cause] in words
        assert [other for other in of_others(cause) if other in words] == []
        assert ("inspect" in words or "opens TLS" in words or "open TLS" in words) == (cause is Cause.UNKNOWN_AUTHORITY)
    if case == "inspected":
        assert "made by CN=Hospital Web Gateway" in bad.found
    if case == "another name":
        assert "is for front.example, not for 127.0.0.1" in bad.found


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_remedy(cause: Cause) -> None:
    for by_system in (True, False):
        found = remedy(cause, now=NOW, by_system=by_system)
        assert found.meaning
        assert found.advice
