"""The authority, its certificates, and the command line that makes them."""

import itertools
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from authority import command as federation_command
from authority.enrolment import create_request, locate_credentials, read_request
from authority.signing import create_authority
from contract.errors import CallerError, ConfigurationError, EncryptedInferenceError, PeerViolation
from contract.identity import Credentials, Party, Role
from plumbing.command_line import new_app, one_line, run
from tests.signed_requests import sign_request

OWNER = Party(role=Role.DATA_OWNER, organisation="st-mary")
LAB = Party(role=Role.MODEL_OWNER, organisation="north-lab")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    create_authority(tmp_path / "authority")
    return tmp_path / "authority"


def enrolled(authority: Path, party: Party, folder: Path) -> Credentials:
    files = locate_credentials(party, folder)
    request = create_request(party, folder)
    files.certificate.write_bytes(sign_request(authority, request))
    if not files.authority.exists():
        files.authority.write_bytes((authority / "authority.pem").read_bytes())
    return files


def context(files: Credentials, *, server: bool, authority: Path | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_cert_chain(files.certificate, files.key)
    made.load_verify_locations(authority or files.authority)
    return made


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a TLS connection in memory, after the handshake."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for end in itertools.islice(itertools.cycle(ends), 8):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ends


def test_certificates_work_for_mutual_tls_and_name_the_party(authority: Path, tmp_path: Path) -> None:
    owner, lab = enrolled(authority, OWNER, tmp_path / "a"), enrolled(authority, LAB, tmp_path / "b")
    client, server = handshake(context(owner, server=False), context(lab, server=True))
    assert client.version() == server.version() == "TLSv1.3"
    for end, peer in ((client, LAB), (server, OWNER)):
        certificate = end.getpeercert()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("URI", peer.uri),)


def test_a_certificate_of_another_authority_is_refused(authority: Path, tmp_path: Path) -> None:
    create_authority(tmp_path / "stranger")
    owner = enrolled(tmp_path / "stranger", OWNER, tmp_path / "a")
    lab = enrolled(authority, LAB, tmp_path / "b")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context(owner, server=False, authority=lab.authority), context(lab, server=True))


def test_certificate_says_what_it_may_be_used_for(authority: Path, tmp_path: Path) -> None:
    request = create_request(OWNER, tmp_path / "a", hosts=["10.0.0.1", "never-passed-on.example"])
    pem = sign_request(authority, request, days=30, hosts=["127.0.0.1", "::1", "front.example"])
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [OWNER.uri]
    assert names.get_values_for_type(x509.DNSName) == ["front.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30
    again = x509.load_pem_x509_certificate(sign_request(authority, request))
    assert again.serial_number != certificate.serial_number


def test_authority_certificate_and_key_modes(authority: Path, tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate((authority / "authority.pem").read_bytes())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 3650
    create_request(OWNER, tmp_path / "a")
    for key in (authority / "authority.key", tmp_path / "a" / "data-owner.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_nothing_is_overwritten(authority: Path, tmp_path: Path) -> None:
    before = (authority / "authority.key").read_bytes()
    with pytest.raises(ConfigurationError, match="not overwritten"):
        create_authority(authority)
    create_request(OWNER, tmp_path / "a")
    with pytest.raises(ConfigurationError, match="not overwritten"):
        create_request(OWNER, tmp_path / "a")
    assert (authority / "authority.key").read_bytes() == before


def hostile_request(names: list[x509.GeneralName] | None, *, ed: bool = False) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ed:
        return builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "names no party"),
        ([x509.DNSName("a.example")], "names 0 parties"),
        ([uri(OWNER.uri), uri(LAB.uri)], "names 2 parties"),
        ([uri("party://emperor/rome")], "not a party"),
        ([uri("party://data-owner/St_Mary")], "not a name"),
        ([uri("https://example.org")], "not a party"),
        ([uri(OWNER.uri), x509.RFC822Name("a@b.example")], "names that no party needs"),
    ],
)
def test_requests_that_are_refused(
    authority: Path, tmp_path: Path, names: list[x509.GeneralName] | None, message: str
) -> None:
    path = tmp_path / "bad.csr"
    path.write_bytes(hostile_request(names).public_bytes(serialization.Encoding.PEM))
    with pytest.raises(PeerViolation, match=message):
        sign_request(authority, path)


def test_request_with_another_kind_of_key_is_refused(authority: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.csr"
    path.write_bytes(hostile_request([uri(OWNER.uri)], ed=True).public_bytes(serialization.Encoding.PEM))
    with pytest.raises(PeerViolation, match="P-256"):
        sign_request(authority, path)


def test_request_changed_on_its_way_is_refused(authority: Path, tmp_path: Path) -> None:
    path = create_request(OWNER, tmp_path / "a")
    der = bytearray(x509.load_pem_x509_csr(path.read_bytes()).public_bytes(serialization.Encoding.DER))
    at = der.index(b"st-mary")
    der[at : at + 7] = b"st-jane"
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    path.write_bytes(changed)
    with pytest.raises(PeerViolation, match="signature is wrong"):
        sign_request(authority, path)


@pytest.mark.parametrize(
    "content", [b"", b"not a request", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"x" * 10**6]
)
def test_garbage_in_place_of_a_request(authority: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.csr"
    path.write_bytes(content)
    with pytest.raises(EncryptedInferenceError) as caught:
        sign_request(authority, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("days", [0, -1, 826, 10**6])
def test_unreasonable_lifetimes(authority: Path, tmp_path: Path, days: int) -> None:
    with pytest.raises(CallerError, match="days"):
        sign_request(authority, create_request(OWNER, tmp_path / "a"), days=days)


@pytest.mark.parametrize("host", ["", "two words", "a..b", "umläut.example", "*.example", "x" * 300])
def test_host_names_that_are_none(tmp_path: Path, host: str) -> None:
    with pytest.raises(CallerError, match="--host"):
        create_request(OWNER, tmp_path / "a", hosts=[host])
    assert not (tmp_path / "a").exists()


def test_authority_whose_files_do_not_belong_together(authority: Path, tmp_path: Path) -> None:
    create_authority(tmp_path / "other")
    (authority / "authority.key").write_bytes((tmp_path / "other" / "authority.key").read_bytes())
    with pytest.raises(ConfigurationError, match="do not belong together"):
        sign_request(authority, create_request(OWNER, tmp_path / "a"))


def test_command_line_in_two_halves(tmp_path: Path) -> None:
    runner = CliRunner()
    authority, folder, out = tmp_path / "authority", tmp_path / "st-mary", tmp_path / "data-owner.pem"

    def invoke(*arguments: str | Path, answer: str = "") -> str:
        result = runner.invoke(federation_command.app, [str(argument) for argument in arguments], input=answer)
        assert result.exit_code == 0, result.output
        return result.output

    invoke("init", "--folder", authority)
    role = ["--role", "data-owner", "--organisation", "st-mary"]
    shown = invoke("request", *role, "--folder", folder, "--host", "127.0.0.1")
    fingerprint = read_request(folder / "data-owner.csr").fingerprint
    assert fingerprint in shown
    signing = ["enroll", "--authority", str(authority), str(folder / "data-owner.csr"), "--out", str(out)]
    refused = runner.invoke(federation_command.app, signing, input="n\n")
    assert refused.exit_code != 0
    assert not out.exists()
    assert fingerprint in invoke(*signing, answer="y\n")
    assert b"BEGIN CERTIFICATE" in out.read_bytes()


def test_command_line_in_one_step(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(federation_command.app, ["init", "--folder", str(tmp_path / "ca")]).exit_code == 0
    made = {}
    for party in (OWNER, LAB):
        options = ["--role", party.role.value, "--organisation", party.organisation, "--folder", str(tmp_path / "all")]
        result = runner.invoke(federation_command.app, ["enroll", "--authority", str(tmp_path / "ca"), *options])
        assert result.exit_code == 0, result.output
        made[party] = locate_credentials(party, tmp_path / "all")
    _, server = handshake(context(made[OWNER], server=False), context(made[LAB], server=True))
    assert server.getpeercert() is not None


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["enroll", "--authority", "nowhere"], 2),
        (["enroll", "--authority", "nowhere", "missing.csr", "--out", "c.pem"], 5),
        (["request", "--role", "data-owner", "--organisation", "St Mary", "--folder", "f"], 2),
        (["request", "--role", "emperor", "--organisation", "rome", "--folder", "f"], 2),
    ],
)
def test_command_line_errors_are_one_line_with_a_status(
    arguments: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(federation_command.app, name="federation", arguments=arguments)
    assert ended.value.code == status
    written = capsys.readouterr()
    assert written.out == ""
    assert "Traceback" not in written.err
    if "emperor" not in arguments:  # a wrong option is typer's own message, with usage
        assert written.err.startswith("federation: ")
        assert written.err.count("\n") == 1


def test_one_line_takes_control_characters_out() -> None:
    assert one_line(PeerViolation("a\nb\x1b[31mred\x00 c")) == "a b[31mred c"


def test_run_prints_nothing_of_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    app = new_app("A test.")

    @app.command()
    def work() -> None:
        """Do nothing."""

    with pytest.raises(SystemExit) as ended:
        run(app, name="test", arguments=[])
    assert ended.value.code == 0
    assert capsys.readouterr() == ("", "")
