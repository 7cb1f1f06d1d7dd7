"""The parties' certificate authority: makes its key, signs what parties ask for, and revokes.

A certificate names exactly one party by a URI (contract/identity.py). Names of hosts may stand beside it for the front
end's outer TLS; between parties they mean nothing. All keys are NIST P-256: unlike Ed25519, browsers and proxies accept
it too.

    authority.key     private; never leaves this folder
    authority.pem     its certificate, for every party
    revoked.crl       the newest list of revoked certificates and their keys, for every party
    issued/           what was signed, by serial number: renewals are checked against it, and revoking needs no other

A key serves one party. Once one of its certificates was revoked, for whatever reason, no request for that key is signed
again, whoever asks and in whatever form. The list itself says which keys these are, so a folder that was restored
from a backup knows them again as soon as it is given the newest list that any party holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authority.certificates import (
    MALFORMED,
    NEW_KEY,
    PartyCertificate,
    explain_slow_clock,
    hash_key,
    read_certificate,
    show_time,
)
from authority.enrolment import (
    AUTHORITY_CERTIFICATE,
    REVOCATIONS,
    SigningRequest,
    encode_key,
    load_key,
    make_alternative_names,
    name_subject,
)
from authority.revocation import RevocationList, make_entry, read_key
from contract.errors import CallerError, ConfigurationError, PeerViolation
from contract.files import refuse_existing, replace, write_new, write_new_together
from contract.identity import Party

AUTHORITY_KEY: Final = "authority.key"
ISSUED: Final = "issued"
AUTHORITY_YEARS: Final = 10
MAX_DAYS: Final = 825
LIST_DAYS: Final = 90
CLOCK_SKEW: Final = timedelta(minutes=5)
"""A certificate or list begins this long before it is signed, for parties whose clocks are behind."""


class Reason(StrEnum):
    """Why a certificate is revoked (RFC 5280, 5.3.1)."""

    KEY_COMPROMISE = "key-compromise"
    SUPERSEDED = "superseded"
    CESSATION = "cessation"

    @property
    def flag(self) -> x509.ReasonFlags:
        """The library's name for it."""
        return {
            Reason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
            Reason.SUPERSEDED: x509.ReasonFlags.superseded,
            Reason.CESSATION: x509.ReasonFlags.cessation_of_operation,
        }[self]


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The authority in a folder, opened: its key is in memory."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        """The folder; nothing of the key."""
        return f"Authority({self.folder})"

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Load key and certificate. Raises ConfigurationError if they are damaged or do not belong together."""
        key = load_key(folder / AUTHORITY_KEY)
        certificate = read_certificate(folder / AUTHORITY_CERTIFICATE)
        if key.public_key() != certificate.public_key():
            raise ConfigurationError(
                f"{folder}: the authority's key and certificate do not belong together; restore them"
            )
        return cls(folder=folder, key=key, certificate=certificate)

    def require_renewal(self, wanted: SigningRequest) -> None:
        """Raise PeerViolation unless a request proves that it renews a certificate which is good today."""
        proof = wanted.renewal
        again = f"on the party's machine, {NEW_KEY} and tell its fingerprint by telephone"
        if proof is None:
            raise PeerViolation(f"the request of the {wanted.party} proves no renewal: {again}")
        path = self._issued(proof.serial)
        if not path.is_file():
            raise PeerViolation(f"the request of the {wanted.party} renews a certificate not issued here: {again}")
        renewed = PartyCertificate.read(path)
        if renewed.party != wanted.party or not proof.is_made_with(renewed.key):
            raise PeerViolation(f"the request of the {wanted.party} does not prove that it holds the key: {again}")
        if renewed.key == wanted.key:
            raise PeerViolation(f"the renewal of the {wanted.party} brings no new key: make it with `federation renew`")
        if not set(wanted.hosts) <= set(renewed.hosts):
            raise PeerViolation(f"the renewal of the {wanted.party} asks for more host names than it had: {again}")
        if self.revocations().refuses(renewed):
            raise PeerViolation(f"the certificate that the {wanted.party} wants to renew was revoked: {again}")
        if renewed.ends < datetime.now(UTC):
            raise PeerViolation(
                f"the certificate that the {wanted.party} wants to renew ended at {show_time(renewed.ends)}, and the "
                f"clock of this machine says {show_time(datetime.now(UTC))}: set it if it is ahead, or {again}"
            )

    def sign(self, wanted: SigningRequest, *, days: int = 365, hosts: Sequence[str] = ()) -> bytes:
        """Sign a request that was read and confirmed; return the certificate as PEM and keep a copy.

        Raises what `require_usable_key` raises.

        The certificate names the request's one party and `hosts`, which the caller chooses: what the request asks for
        counts only if the caller passes it on. Valid for `days` days from now, for clients and servers.
        """
        if not 1 <= days <= MAX_DAYS:
            raise CallerError(f"a certificate for {days} days: choose from 1 to {MAX_DAYS}")
        self.require_usable_key(wanted)
        now = self._now()
        ends = now + timedelta(days=days)
        if ends > self.certificate.not_valid_after_utc:
            raise CallerError(
                f"the authority itself ends before {days} days are over: choose fewer days or make a new one"
            )
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(name_subject(wanted.party))
            .issuer_name(self.certificate.subject)
            .public_key(wanted.key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(make_alternative_names(wanted.party, hosts), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(wanted.key), critical=False)
            .add_extension(issuer, critical=False)
        )
        certificate = builder.sign(self.key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        write_new(self._issued(certificate.serial_number), pem, mode=0o644)
        return pem

    def revocations(self) -> RevocationList:
        """The newest list. Raises ConfigurationError if it is gone: a new one would forget what was revoked."""
        return RevocationList.read(self.folder / REVOCATIONS, self.certificate)

    def require_usable_key(self, wanted: SigningRequest) -> None:
        """Raise PeerViolation for a request whose key was revoked, is another party's, or is the authority's own."""
        again = f"on the party's machine, {NEW_KEY}"
        if wanted.key == self.key.public_key():
            raise PeerViolation(f"the request of the {wanted.party} is for the authority's own key: {again}")
        revocations = self.revocations()
        of_this_key = [one for one in self.issued() if one.key == wanted.key]
        if wanted.fingerprint in revocations.keys or any(map(revocations.refuses, of_this_key)):
            raise PeerViolation(
                f"the key in the request of the {wanted.party} was revoked and is never signed again: {again}"
            )
        others = sorted({str(one.party) for one in of_this_key if one.party != wanted.party})
        if others:
            raise PeerViolation(f"the key in the request of the {wanted.party} is the {others[0]}'s: {again}")

    def issued(self) -> list[PartyCertificate]:
        """Every certificate that was signed here, the oldest first."""
        issued = [PartyCertificate.read(path) for path in (self.folder / ISSUED).glob("*.pem")]
        return sorted(issued, key=lambda one: one.begins)

    def issued_to(self, party: Party) -> list[PartyCertificate]:
        """A party's certificates, the oldest first; also those that have ended, since their keys may be revoked."""
        return [one for one in self.issued() if one.party == party]

    def with_same_keys(self, certificates: Sequence[PartyCertificate]) -> list[PartyCertificate]:
        """These certificates and every other one for the same keys."""
        keys, serials = {hash_key(one.key) for one in certificates}, {one.serial for one in certificates}
        return [
            *certificates,
            *(one for one in self.issued() if hash_key(one.key) in keys and one.serial not in serials),
        ]

    def require_issued(self, certificate: x509.Certificate) -> PartyCertificate:
        """A certificate that this authority signed. Raises CallerError for another."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
            return PartyCertificate.parse(certificate)
        except (*MALFORMED, InvalidSignature, PeerViolation):
            raise CallerError("the certificate is not one that this authority signed for a party") from None

    def revoke(
        self,
        certificates: Sequence[PartyCertificate],
        reason: Reason,
        *,
        days: int = LIST_DAYS,
        known: Sequence[RevocationList] = (),
    ) -> Path:
        """Sign a new list that holds these certificates, and their keys, too; return its path.

        None: the same list, good for longer. Every certificate for the same keys goes with them. `known`: lists of this
        authority that parties hold; what they have as revoked stays revoked.
        """
        if not 1 <= days <= MAX_DAYS:
            raise CallerError(f"a list for {days} days: choose from 1 to {MAX_DAYS}")
        now, before = self._now(), self.revocations()
        keys = {one.serial: hash_key(one.key) for one in self.issued()}
        entries = {
            entry.serial_number: make_entry(
                entry.serial_number,
                at=entry.revocation_date_utc,
                key=read_key(entry) or keys.get(entry.serial_number),
                others=[one.value for one in entry.extensions if isinstance(one.value, x509.CRLReason)],
            )
            for listed in (*known, before)
            for entry in listed.parsed
        }
        for one in self.with_same_keys(certificates):
            reasons = [x509.CRLReason(reason.flag)]
            fresh = make_entry(one.serial, at=now, key=hash_key(one.key), others=reasons)
            entries.setdefault(one.serial, fresh)
        number = max(listed.number for listed in (*known, before)) + 1
        content = _signed_list(self.key, self.certificate, list(entries.values()), number=number, now=now, days=days)
        replace(before.path, content, mode=0o644)
        return before.path

    def _now(self) -> datetime:
        """The present. Raises ConfigurationError if this authority signed something that is still to come."""
        now = datetime.now(UTC)
        latest = max([self.revocations().issued, *(one.begins for one in self.issued())])
        if latest > now:
            fact = "this authority signed something after"
            raise ConfigurationError(explain_slow_clock("this machine", now, fact=fact, since=latest))
        return now

    def _issued(self, serial: int) -> Path:
        return self.folder / ISSUED / f"{serial:040x}.pem"


def create_authority(folder: Path) -> Path:
    """Make the authority's key (mode 0600), its certificate and an empty list of revoked certificates in `folder`.

    Return the certificate's path. Raises ConfigurationError if one stands already: a new authority would lock every
    party out.
    """
    key_path, certificate_path, list_path = folder / AUTHORITY_KEY, folder / AUTHORITY_CERTIFICATE, folder / REVOCATIONS
    for path in (key_path, certificate_path, list_path):
        refuse_existing(path)
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
    write_new_together(
        {
            key_path: (encode_key(key), 0o600),
            certificate_path: (certificate.public_bytes(serialization.Encoding.PEM), 0o644),
            list_path: (_signed_list(key, certificate, (), number=1, now=now, days=LIST_DAYS), 0o644),
        }
    )
    return certificate_path


def _signed_list(
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    entries: Sequence[x509.RevokedCertificate],
    *,
    number: int,
    now: datetime,
    days: int,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now - CLOCK_SKEW)
        .next_update(now + timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **dict.fromkeys((*others, "decipher_only"), False),
    )
