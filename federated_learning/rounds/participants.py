"""Who takes part: each hospital's two keys, the coordinator's certificate, and federation.json that names them all.

Every hospital makes its own keys and hands out their public halves. The coordinator gathers them, with its own
certificate, in federation.json; every hospital receives that file and compares its fingerprint with the coordinator's
by telephone. From then on nobody needs to trust the coordinator about keys: a hospital accepts only the coordinator's
very certificate, the coordinator accepts only these node keys, and hospitals verify each other's signatures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import Field, ValidationError, model_validator

from authority.certificates import require_in_time
from authority.enrolment import encode_key, parse_host
from contract.base import Name, Sha256, Strict
from contract.errors import CallerError, ConfigurationError
from contract.files import read_bounded, replace, write_new_together
from federated_learning.faults import explain_fault, read_json
from plumbing.settings import Address

MAX_FILE_BYTES = 1 << 20
MAX_HOSPITALS = 100
MAX_REVOKED = 2000
CERTIFICATE_DAYS = 825
NODE_KEY, SIGNING_KEY = "node.key", "signing.key"
COORDINATOR_KEY, COORDINATOR_CERTIFICATE, FEDERATION = "coordinator.key", "coordinator.pem", "federation.json"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Participant(Strict):
    """What a hospital hands out: its name and the public halves of its two keys."""

    name: Name
    node_key: Annotated[str, Field(max_length=1000)]
    """NIST P-384, PEM. By it the SuperLink recognises the hospital's SuperNode."""
    signing_key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Ed25519, hexadecimal. By it the other hospitals recognise its messages of secure aggregation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            key = serialization.load_pem_public_key(self.node_key.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise ValueError(f"the node key of hospital {self.name} is not a P-384 public key")
        return self

    def key_hashes(self) -> tuple[str, str]:
        """SHA-256 of the node key (DER) and of the signing key, hexadecimal: however they are written."""
        node = serialization.load_pem_public_key(self.node_key.encode())
        encoded = node.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(encoded).hexdigest(), hashlib.sha256(bytes.fromhex(self.signing_key)).hexdigest()


class Participants(Strict):
    """federation.json: all that coordinator and hospitals must agree on before they speak."""

    coordinator: Annotated[str, Field(max_length=300)]
    """host:port under which the hospitals reach it."""
    certificate: Annotated[str, Field(max_length=10_000)]
    """The coordinator's own, PEM; nothing else is accepted in its place."""
    hospitals: Annotated[tuple[Participant, ...], Field(min_length=1, max_length=MAX_HOSPITALS)]
    revoked: Annotated[tuple[Sha256, ...], Field(max_length=MAX_REVOKED)] = ()
    """Hashes of keys that a hospital replaced or that others may know: no hospital has them any more."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        Address.parse(self.coordinator)
        seen: dict[str, str] = {}
        for hospital in self.hospitals:
            values = zip(("name", "node key", "signing key"), (hospital.name, *hospital.key_hashes()), strict=True)
            for field, value in values:
                if value in seen:
                    what = "stands twice" if field == "name" else f"has the same {field} as {seen[value]}"
                    raise ValueError(f"hospital {hospital.name} {what}: each hospital makes its own keys")
                if value in self.revoked:
                    raise ValueError(f"the {field} of hospital {hospital.name} was revoked: it makes new keys")
                seen[value] = hospital.name
        return self

    def require_certificate_in_time(self) -> None:
        """Raise ConfigurationError if the coordinator's certificate is not valid by this machine's clock."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.encode())
        except ValueError:
            raise ConfigurationError(
                "federation.json: holds no certificate in PEM; ask the coordinator for it"
            ) from None
        remedy = "the coordinator moves its key and certificate away and makes federation.json again"
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        what = "the coordinator's certificate in federation.json"
        require_in_time(begins, ends, what=what, remedy=remedy, now=datetime.now(UTC))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole content, hexadecimal: what people compare, and what binds messages to it."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the hospitals, in order."""
        return tuple(hospital.name for hospital in self.hospitals)

    def find(self, name: str) -> Participant:
        """The hospital of that name. Raises ConfigurationError."""
        for hospital in self.hospitals:
            if hospital.name == name:
                return hospital
        raise ConfigurationError(f"federation.json has no hospital '{name}', only {', '.join(self.names)}")

    def roster(self) -> Mapping[str, Ed25519PublicKey]:
        """Each hospital's verification key by its name."""
        return {
            hospital.name: Ed25519PublicKey.from_public_bytes(bytes.fromhex(hospital.signing_key))
            for hospital in self.hospitals
        }


def make_hospital_keys(name: str, folder: Path) -> Path:
    """Make both keys (mode 0600) in `folder` and return the path of the public file, NAME.json, to hand out.

    Raises ConfigurationError if keys stand already, CallerError for a name that is not a plain one.
    """
    node = ec.generate_private_key(ec.SECP384R1())
    signing = Ed25519PrivateKey.generate()
    public = node.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        hospital = Participant(
            name=name, node_key=public.decode(), signing_key=signing.public_key().public_bytes_raw().hex()
        )
    except ValidationError as error:
        raise CallerError(f"hospital {name[:64]!r}: a name is lower-case letters, digits and hyphens") from error
    ssh = serialization.PrivateFormat.OpenSSH  # the form that Flower reads
    node_pem = node.private_bytes(serialization.Encoding.PEM, ssh, serialization.NoEncryption())
    handed_out = folder / f"{name}.json"
    write_new_together(
        {
            folder / NODE_KEY: (node_pem, 0o600),
            folder / SIGNING_KEY: (encode_key(signing), 0o600),
            handed_out: ((hospital.model_dump_json(indent=2) + "\n").encode(), 0o644),
        }
    )
    return handed_out


def make_participants(
    public_files: Sequence[Path], folder: Path, *, host: str, port: int, revoked: Sequence[Path] = ()
) -> Path:
    """Gather the hospitals' public files into folder/federation.json, with a certificate for the coordinator.

    The certificate and its key (mode 0600) are made once; a later call, with another hospital say, keeps them. Keys
    that a hospital has replaced since the last call, and those in the public files `revoked`, are refused from then on.
    Raises ConfigurationError naming the file or hospital that is wrong.
    """
    hospitals = tuple(read_participant(path) for path in public_files)
    refused = _revoked_keys(folder / FEDERATION, hospitals, [read_participant(path) for path in revoked])
    certificate = folder / COORDINATOR_CERTIFICATE
    if not certificate.exists():
        _make_certificate(folder, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        participants = Participants(
            coordinator=address, certificate=certificate.read_text(), hospitals=hospitals, revoked=refused
        )
    except ValidationError as error:
        raise ConfigurationError(f"{explain_fault(error)}; ask them for other public files") from error
    path = folder / FEDERATION
    replace(path, (participants.model_dump_json(indent=2, exclude_defaults=True) + "\n").encode(), mode=0o644)
    return path


def _revoked_keys(path: Path, hospitals: Sequence[Participant], revoked: Sequence[Participant]) -> tuple[str, ...]:
    """What the federation.json at `path` refuses, the keys that its hospitals have replaced, and those of `revoked`."""
    refused = {key for hospital in revoked for key in hospital.key_hashes()}
    if path.exists():
        before, now = read_participants(path), {one.name: one for one in hospitals}
        refused.update(before.revoked)
        for old in before.hospitals:
            if old.name in now:
                refused.update(set(old.key_hashes()) - set(now[old.name].key_hashes()))
    return tuple(sorted(refused))


def read_participant(path: Path) -> Participant:
    """A hospital's public file. Raises ConfigurationError."""
    remedy = "ask the hospital for its public file"
    return read_json(path, Participant.model_validate_json, limit=MAX_FILE_BYTES, remedy=remedy)


def read_participants(path: Path) -> Participants:
    """federation.json. Raises ConfigurationError naming a hospital whose name or key stands twice."""
    remedy = "ask the coordinator for the file again"
    return read_json(path, Participants.model_validate_json, limit=MAX_FILE_BYTES, remedy=remedy)


def read_signing_key(folder: Path, hospital: Participant) -> Ed25519PrivateKey:
    """The hospital's own signing key. Raises ConfigurationError if it is not the one in federation.json."""
    path = folder / SIGNING_KEY
    try:
        key = serialization.load_pem_private_key(read_bounded(path, limit=MAX_FILE_BYTES), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path}: is not a private key; give the folder that `make-keys` made") from None
    if not isinstance(key, Ed25519PrivateKey) or key.public_key().public_bytes_raw().hex() != hospital.signing_key:
        raise ConfigurationError(f"{path}: is not the key of {hospital.name} in federation.json; give its own folder")
    return key


def _make_certificate(folder: Path, host: str) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federated training coordinator")])
    now = datetime.now(UTC)
    hosts = x509.SubjectAlternativeName([parse_host(one) for one in dict.fromkeys((host, *LOOPBACK))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(hosts, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    write_new_together(
        {folder / COORDINATOR_KEY: (encode_key(key), 0o600), folder / COORDINATOR_CERTIFICATE: (pem, 0o644)}
    )
