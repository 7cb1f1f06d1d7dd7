"""The party's side of enrolment: its own key, signing requests for it, and certificates put in place.

Each party makes its own key and sends a signing request, so the authority never sees a party's key. A renewal makes a
new key as well. Its request carries a proof, made with the current key, that the same party asks, so that the authority
can sign it without asking for a fingerprint by telephone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from authority.certificates import (
    MALFORMED,
    NEW_KEY,
    PartyCertificate,
    hash_key,
    read_certificate,
    require_in_time,
    require_own_valid,
)
from authority.revocation import MAX_LIST_BYTES, RevocationList, is_revoked
from contract.errors import CallerError, ConfigurationError, PeerViolation
from contract.files import move, read_bounded, replace, write_new_together
from contract.identity import Credentials, Party

AUTHORITY_CERTIFICATE: Final = "authority.pem"
REVOCATIONS: Final = "revoked.crl"
MAX_HOSTS: Final = 32
SERIAL_BYTES: Final = 20
_RENEWAL: Final = x509.ObjectIdentifier("2.25.275813466170297153")
"""In a signing request: the serial number of the certificate that it renews, and a signature by that one's key. Under
the arc for identifiers that nobody assigns (X.667); never in a certificate."""
_RENEWAL_DOMAIN: Final = b"encrypted-medical-inference/renewal/1"
_MAX_PROOF_BYTES: Final = 128


@dataclass(frozen=True, kw_only=True)
class RenewalProof:
    """What a request for a renewal says, not yet checked against the certificate that it names."""

    serial: int
    signature: bytes
    signed: bytes

    def is_made_with(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Whether the holder of this key made it."""
        try:
            key.verify(self.signature, self.signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class SigningRequest:
    """What a request asks for, after its own signature was checked."""

    party: Party
    hosts: tuple[str, ...]
    key: ec.EllipticCurvePublicKey
    renewal: RenewalProof | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, hexadecimal: both sides compare it over another way than the file came."""
        return hash_key(self.key)


def locate_credentials(party: Party, folder: Path) -> Credentials:
    """Where a party's key, its certificate and the authority's files stand in its own folder."""
    role = party.role.value
    return Credentials(
        key=folder / f"{role}.key",
        certificate=folder / f"{role}.pem",
        authority=folder / AUTHORITY_CERTIFICATE,
        revocations=folder / REVOCATIONS,
    )


def create_request(party: Party, folder: Path, *, hosts: Sequence[str] = ()) -> Path:
    """Make the party's own key (mode 0600) and a signing request for it in `folder`; return the request's path."""
    key_path = locate_credentials(party, folder).key
    request_path = key_path.with_suffix(".csr")
    standing = [str(path) for path in (key_path, request_path) if path.exists()]
    if standing:
        raise ConfigurationError(
            f"{' and '.join(standing)}: there already and not overwritten; --replace asks for a certificate for a new "
            "key, and until that is installed the key in use stays"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    request = _build_request(party, hosts).sign(key, hashes.SHA256())
    encoded = request.public_bytes(serialization.Encoding.PEM)
    write_new_together({key_path: (encode_key(key), 0o600), request_path: (encoded, 0o644)})
    return request_path


def create_replacement(party: Party, folder: Path, *, hosts: Sequence[str] = ()) -> Path:
    """Make a new key beside the one in use, and a request that nothing vouches for; return the request's path.

    For a key that was revoked, lost or is not trusted any more. `hosts`: of the certificate in use if left out.
    Nothing that is in use changes before `install_certificate`. A request made before and not used is replaced.
    """
    files = locate_credentials(party, folder)
    if not hosts and files.certificate.exists():
        hosts = PartyCertificate.read(files.certificate).hosts
    following = ec.generate_private_key(ec.SECP256R1())
    return _put_next(files, following, _build_request(party, hosts))


def create_renewal(party: Party, folder: Path) -> Path:
    """Make the party's next key beside its current one, and a request that the current one vouches for.

    Nothing that is in use changes before `install_certificate`. A request made before and not used is replaced.
    """
    files = locate_credentials(party, folder)
    current = PartyCertificate.read(files.certificate)
    key = load_key(files.key)
    if current.party != party or key.public_key() != current.key:
        raise ConfigurationError(f"{files.certificate}: is not the {party}'s, or not for {files.key}; restore them")
    _require_renewable(current, files)
    following = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(_renewal_text(party, following.public_key()), ec.ECDSA(hashes.SHA256()))
    proof = x509.UnrecognizedExtension(_RENEWAL, current.serial.to_bytes(SERIAL_BYTES, "big") + signature)
    return _put_next(files, following, _build_request(party, current.hosts).add_extension(proof, critical=False))


def install_certificate(
    party: Party, folder: Path, certificate: Path, *, authority: Path | None = None, revocations: Path | None = None
) -> PartyCertificate:
    """Put a signed certificate in place, and with it the key that it was signed for; servers that run pick it up.

    Checked before anything changes: it is the party's, for a key that stands here, signed by the authority, which the
    first time comes along as `authority`. `revocations`: the authority's list, put in place too.
    """
    files = locate_credentials(party, folder)
    issuer = read_certificate(authority or files.authority)
    if authority is not None and files.authority.exists() and read_certificate(files.authority) != issuer:
        raise ConfigurationError(f"{files.authority}: is another authority's certificate; choose another folder")
    signed = read_certificate(certificate)
    try:
        signed.verify_directly_issued_by(issuer)
        given = PartyCertificate.parse(signed)
    except (*MALFORMED, InvalidSignature, PeerViolation):
        raise ConfigurationError(f"{certificate}: was not signed for a party by the authority") from None
    if given.party != party:
        raise ConfigurationError(f"{certificate}: is the certificate of the {given.party}, not of the {party}")
    both = (files.key, _locate_next_key(files))
    keys = [path for path in both if path.exists() and load_key(path).public_key() == given.key]
    if not keys:
        raise ConfigurationError(f"{certificate}: is for a key that is not in {folder}; ask for the right one")
    _require_good_today(certificate, given, files, issuer, revocations)
    if authority is not None:
        replace(files.authority, issuer.public_bytes(serialization.Encoding.PEM), mode=0o644)
    if revocations is not None and files.revocations is not None:
        install_revocations(files.revocations, revocations, issuer)
    if keys[0] != files.key:
        move(keys[0], files.key)  # a server that reads between the two keeps what it has
    replace(files.certificate, signed.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return given


def _require_good_today(
    path: Path, given: PartyCertificate, files: Credentials, issuer: x509.Certificate, revocations: Path | None
) -> None:
    """Raise ConfigurationError for a certificate that nobody would accept: out of date by this clock, or revoked."""
    require_own_valid(given, now=datetime.now(UTC), skew=files.clock_skew)
    for listed in (revocations, files.revocations):
        if listed is not None and listed.exists() and RevocationList.read(listed, issuer).refuses(given):
            raise ConfigurationError(f"{path}: was revoked, or its key was; {NEW_KEY}")


def install_revocations(target: Path, source: Path, authority: x509.Certificate) -> RevocationList:
    """Put a newer list of revoked certificates in place, and return it.

    Raises ConfigurationError for one that is not newer, or out of date by this machine's clock.
    """
    given, now = RevocationList.read(source, authority), datetime.now(UTC)
    if target.exists():
        given.require_follows(RevocationList.read(target, authority))
    require_in_time(given.issued, given.ends, what=str(source), remedy="fetch the authority's newest", now=now)
    replace(target, read_bounded(source, limit=MAX_LIST_BYTES), mode=0o644)
    return given


def read_request(path: Path) -> SigningRequest:
    """Parse a signing request from outside and check that its sender holds the key that it names."""
    request = _parse_request(path)
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerViolation(f"{path}: the request's key is not on NIST P-256; make it with `federation request`")
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        proof = next((one.value for one in request.extensions if one.oid == _RENEWAL), None)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except MALFORMED:
        raise PeerViolation(f"{path}: the request names no party; make it with `federation request`") from None
    if len(uris) != 1:
        raise PeerViolation(f"{path}: the request names {len(uris)} parties instead of one; ask for a new one")
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if len(hosts) + 1 != len(names) or len(hosts) > MAX_HOSTS:
        raise PeerViolation(f"{path}: the request holds names that no party needs; make it with `federation request`")
    party = Party.from_uri(uris[0])
    renewal = None if proof is None else _parse_proof(proof, party, key, path)
    return SigningRequest(party=party, hosts=tuple(hosts), key=key, renewal=renewal)


def name_subject(party: Party) -> x509.Name:
    """A party's name in its certificate, for people; the URI decides."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, party.organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, party.role.value),
        ]
    )


def make_alternative_names(party: Party, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    """The party's URI, and hosts for outer TLS. Raises CallerError for what is no host name."""
    if len(hosts) > MAX_HOSTS:
        raise CallerError(f"{len(hosts)} host names for {party}: a certificate carries at most {MAX_HOSTS}")
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(party.uri), *map(parse_host, hosts)])


def encode_key(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """A private key as it is kept in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key. Raises ConfigurationError; the library's words are left out, they come from parsing a key."""
    try:
        key = serialization.load_pem_private_key(read_bounded(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path}: is not a private key in PEM without a password; restore it") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path}: is not a key on NIST P-256; restore it")
    return key


def _build_request(party: Party, hosts: Sequence[str]) -> x509.CertificateSigningRequestBuilder:
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name_subject(party))
        .add_extension(make_alternative_names(party, hosts), critical=False)
    )


def _locate_next_key(files: Credentials) -> Path:
    return files.key.with_suffix(".next.key")


def _put_next(
    files: Credentials, key: ec.EllipticCurvePrivateKey, wanted: x509.CertificateSigningRequestBuilder
) -> Path:
    request_path = files.key.with_suffix(".csr")
    encoded = wanted.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    replace(_locate_next_key(files), encode_key(key), mode=0o600)
    replace(request_path, encoded, mode=0o644)
    return request_path


def _require_renewable(current: PartyCertificate, files: Credentials) -> None:
    """Raise ConfigurationError for a certificate that the authority would not renew."""
    require_own_valid(current, now=datetime.now(UTC), skew=files.clock_skew)
    if is_revoked(files):
        raise ConfigurationError(
            f"{files.certificate}: was revoked, or its key was, so it cannot be renewed; {NEW_KEY}"
        )


def _renewal_text(party: Party, key: ec.EllipticCurvePublicKey) -> bytes:
    uri = party.uri.encode()
    return b"".join((_RENEWAL_DOMAIN, len(uri).to_bytes(4, "big"), uri, bytes.fromhex(hash_key(key))))


def _parse_proof(extension: object, party: Party, key: ec.EllipticCurvePublicKey, path: Path) -> RenewalProof:
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if not SERIAL_BYTES < len(value) <= SERIAL_BYTES + _MAX_PROOF_BYTES:
        raise PeerViolation(f"{path}: the request's proof of renewal is malformed; make it with `federation renew`")
    return RenewalProof(
        serial=int.from_bytes(value[:SERIAL_BYTES], "big"),
        signature=value[SERIAL_BYTES:],
        signed=_renewal_text(party, key),
    )


def parse_host(host: str) -> x509.GeneralName:
    """A DNS name or an IP address, as a certificate has it. Raises CallerError."""
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


def _parse_request(path: Path) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(read_bounded(path))
    except MALFORMED:
        raise PeerViolation(
            f"{path}: is not a signing request in PEM; make one with `federation request` on the party's machine"
        ) from None
    try:
        signed = request.is_signature_valid
    except (*MALFORMED, UnsupportedAlgorithm, InvalidSignature):
        signed = False
    if not signed:
        raise PeerViolation(f"{path}: the request's signature is wrong; ask the party for a new one")
    return request
