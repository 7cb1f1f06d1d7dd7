"""The federation's certificate authority: makes its key, and signs what parties ask for.

Each party makes its own key and sends a signing request, so the authority never sees a party's key. A certificate
names exactly one party by a URI (contract/identity.py). Names of hosts may stand beside it for the front end's outer
TLS; between parties they mean nothing. All keys are NIST P-256: unlike Ed25519, browsers and proxies accept it too.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contract.errors import CallerError, ConfigurationError, PeerViolation
from contract.identity import Credentials, Party

AUTHORITY_KEY = "authority.key"
AUTHORITY_CERTIFICATE = "authority.pem"
AUTHORITY_YEARS = 10
MAX_DAYS = 825
MAX_PEM_BYTES = 64 * 1024
MAX_HOSTS = 32
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class SigningRequest:
    """What a request asks for, after its signature was checked."""

    party: Party
    hosts: tuple[str, ...]
    fingerprint: str
    """SHA-256 of the public key (DER), hexadecimal: both sides compare it over another way than the file came."""


def party_credentials(party: Party, folder: Path) -> Credentials:
    """Where a party's key, its certificate and the authority's certificate stand in its own folder."""
    role = party.role.value
    return Credentials(
        key=folder / f"{role}.key", certificate=folder / f"{role}.pem", authority=folder / AUTHORITY_CERTIFICATE
    )


def create_authority(folder: Path) -> Path:
    """Make the authority's key (mode 0600) and its certificate in `folder`; return the certificate's path.

    Raises ConfigurationError where one stands already: a new authority would lock every party out.
    """
    key_path, certificate_path = folder / AUTHORITY_KEY, folder / AUTHORITY_CERTIFICATE
    for path in (key_path, certificate_path):
        _refuse_existing(path)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federation authority")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    _write_new(key_path, _private_pem(key), mode=0o600)
    _write_new(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return certificate_path


def create_request(party: Party, folder: Path, *, hosts: Sequence[str] = ()) -> Path:
    """Make the party's own key (mode 0600) and a signing request for it in `folder`; return the request's path."""
    key_path = party_credentials(party, folder).key
    request_path = key_path.with_suffix(".csr")
    for path in (key_path, request_path):
        _refuse_existing(path)
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(party))
        .add_extension(_alternative_names(party, hosts), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_new(key_path, _private_pem(key), mode=0o600)
    _write_new(request_path, request.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return request_path


def read_request(path: Path) -> SigningRequest:
    """Parse a signing request from outside and check that its sender holds the key that it names."""
    return _describe(_parse_request(path), path)


def sign_request(authority: Path, request: Path, *, days: int = 365, hosts: Sequence[str] = ()) -> bytes:
    """Sign a request with the authority in folder `authority`; return the certificate as PEM.

    The certificate names the request's one party and `hosts`, which the caller chooses: what the request asks for
    counts only where the caller passes it on. Valid for `days` days from now, for clients and servers.
    """
    if not 1 <= days <= MAX_DAYS:
        raise CallerError(f"a certificate for {days} days: choose from 1 to {MAX_DAYS}")
    csr = _parse_request(request)
    party = _describe(csr, request).party
    authority_key, authority_certificate = _load_authority(authority)
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    if ends > authority_certificate.not_valid_after_utc:
        raise CallerError(f"the authority itself ends before {days} days are over: choose fewer days or make a new one")
    public_key = csr.public_key()
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(party))
        .issuer_name(authority_certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_alternative_names(party, hosts), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_certificate(path: Path) -> bytes:
    """A certificate file's bytes, checked to be one certificate in PEM."""
    pem = _read_bounded(path)
    try:
        x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigurationError(f"{path}: is not a certificate in PEM form; give the right file") from error
    return pem


def write_certificate(path: Path, pem: bytes) -> None:
    """Write a certificate where none stands yet."""
    _write_new(path, pem, mode=0o644)


def _subject(party: Party) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, party.organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, party.role.value),
        ]
    )


def _alternative_names(party: Party, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    if len(hosts) > MAX_HOSTS:
        raise CallerError(f"{len(hosts)} host names for {party}: a certificate carries at most {MAX_HOSTS}")
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(party.uri), *map(_host_name, hosts)])


def _host_name(host: str) -> x509.GeneralName:
    address: IPv4Address | IPv6Address
    try:
        address = ip_address(host)
    except ValueError:
        labels = host.split(".")
        plain = all(label and label.replace("-", "").isalnum() and len(label) <= 63 for label in labels)
        if not (plain and host.isascii() and len(host) <= 253):
            raise CallerError(f"host {host[:100]!r} is neither a DNS name nor an IP address; correct --host") from None
        return x509.DNSName(host)
    return x509.IPAddress(address)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _parse_request(path: Path) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(_read_bounded(path))
    except ValueError as error:
        raise PeerViolation(
            f"{path}: is not a signing request in PEM; make one with `federation request` on the party's machine"
        ) from error
    try:
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        signed = False
    if not signed:
        raise PeerViolation(f"{path}: the request's signature is wrong; ask the party for a new one")
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerViolation(f"{path}: the request's key is not on NIST P-256; make it with `federation request`")
    return request


def _describe(request: x509.CertificateSigningRequest, path: Path) -> SigningRequest:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise PeerViolation(f"{path}: the request names no party; make it with `federation request`") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise PeerViolation(f"{path}: the request names {len(uris)} parties where one belongs; ask for a new one")
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if len(hosts) + 1 != len(names) or len(hosts) > MAX_HOSTS:
        raise PeerViolation(f"{path}: the request holds names that no party needs; make it with `federation request`")
    public = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public)
    return SigningRequest(party=Party.from_uri(uris[0]), hosts=tuple(hosts), fingerprint=digest.finalize().hex())


def _load_authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(_read_bounded(folder / AUTHORITY_KEY), password=None)
        certificate = x509.load_pem_x509_certificate(_read_bounded(folder / AUTHORITY_CERTIFICATE))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's words are left out: they come from parsing a private key.
        raise ConfigurationError(f"{folder}: the authority's key or certificate is damaged; restore it") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{folder}: the authority's key and certificate do not belong together; restore them")
    return key, certificate


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > MAX_PEM_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_PEM_BYTES} bytes; give a file in PEM form")
    return content


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConfigurationError(f"{path}: exists already and is not overwritten; choose another folder or move it")


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Create the file with its mode from the first moment; never replace one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except FileExistsError:
        _refuse_existing(path)
        raise ConfigurationError(f"{path}: is a dangling link; remove it") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
