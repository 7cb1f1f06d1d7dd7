"""The list of revoked certificates: an X.509 CRL in PEM, signed by the authority, read by every party from a file.

A list is good until the date in it. After that its holder accepts nobody: a list that nobody renews would hide what was
revoked since.

An entry names a certificate by its serial number and, in an extension of ours, its key by the SHA-256 of the public
half: whoever holds the list refuses the key for good, in any certificate, whoever it is for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from authority.certificates import (
    MALFORMED,
    PartyCertificate,
    explain_slow_clock,
    hash_key,
    read_certificate,
    show_time,
)
from contract.errors import CertificateRefused, ConfigurationError
from contract.files import read_bounded
from contract.identity import Credentials

MAX_LIST_BYTES = 2 << 20
"""Some 15,000 certificates."""

EXTEND_BEFORE = timedelta(days=14)
"""A list that ends within this is warned about."""

_KEY: Final = x509.ObjectIdentifier("2.25.275813466170297154")
"""In an entry: the key's hash (DER OCTET STRING). Under the arc for identifiers that nobody assigns (X.667); not
critical, so that other programs read the list as any other."""
_OCTETS_32: Final = b"\x04\x20"


@dataclass(frozen=True, kw_only=True)
class RevocationList:
    """A list whose signature was checked. Public."""

    path: Path
    number: int
    """Grows with each list that the authority signs."""
    issued: datetime
    ends: datetime
    keys: frozenset[str]
    """Hashes of the keys that are refused, as `hash_key` has them; lists of earlier releases name none."""
    parsed: x509.CertificateRevocationList = field(repr=False)

    @classmethod
    def read(cls, path: Path, authority: x509.Certificate) -> Self:
        """Parse a list from outside. Raises ConfigurationError if it is not one that `authority` signed."""
        content = read_bounded(path, limit=MAX_LIST_BYTES)
        wrong = ConfigurationError(
            f"{path}: is not a list of revoked certificates that the authority signed; fetch it again"
        )
        key = authority.public_key()
        try:
            parsed = x509.load_pem_x509_crl(content)
            # The key's type is the authority's; the signature covers everything that is read below.
            if not isinstance(key, ec.EllipticCurvePublicKey) or not parsed.is_signature_valid(key):
                raise wrong
            number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            issued, ends = parsed.last_update_utc, parsed.next_update_utc
            keys = frozenset(one for entry in parsed if (one := read_key(entry)) is not None)
        except (*MALFORMED, InvalidSignature, UnsupportedAlgorithm):
            raise wrong from None
        if parsed.issuer != authority.subject or ends is None:
            raise wrong
        return cls(path=path, number=number, issued=issued, ends=ends, keys=keys, parsed=parsed)

    def revoked_at(self, serial: int) -> datetime | None:
        """When a certificate was revoked, if it was."""
        entry = self.parsed.get_revoked_certificate_by_serial_number(serial)
        return None if entry is None else entry.revocation_date_utc

    def require_current(self, peer: PartyCertificate, *, own: PartyCertificate, now: datetime, skew: timedelta) -> None:
        """Raise CertificateRefused if this party's list is too old to judge a peer by, or its clock is slow."""
        if self.issued - skew > now:
            fact = "its list of revoked certificates was signed at"
            words = explain_slow_clock(f"the {own.party}", now, fact=fact, since=self.issued)
            raise CertificateRefused(f"{words} (tolerated: {skew.total_seconds():g} s)", party_uri=peer.party.uri)
        if self.ends + skew < now:
            raise CertificateRefused(
                f"the list of revoked certificates that the {own.party} has ended at {show_time(self.ends)}, so nobody "
                f"is accepted; put the authority's newest there (`federation revoke` makes it), or set that clock if "
                f"{show_time(now)} is wrong",
                party_uri=peer.party.uri,
            )

    def refuses(self, certificate: PartyCertificate) -> bool:
        """Whether a certificate is on the list, or its key is."""
        return self.revoked_at(certificate.serial) is not None or hash_key(certificate.key) in self.keys

    def require_follows(self, before: "RevocationList") -> None:
        """Raise ConfigurationError if this list may not take the place of `before`: nothing is ever un-revoked."""
        if self.number < before.number:
            raise ConfigurationError(
                f"{self.path}: is older (number {self.number}) than the list in use (number {before.number}); put the "
                "authority's newest there"
            )
        forgotten = {entry.serial_number for entry in before.parsed} - {entry.serial_number for entry in self.parsed}
        if forgotten or not before.keys <= self.keys:
            raise ConfigurationError(
                f"{self.path}: forgets what the list in use has as revoked, as if the authority's folder had been set "
                "back; send the authority that list (`federation revoke --authority authority --known revoked.crl`)"
            )

    def require_not_revoked(self, peer: PartyCertificate, *, found_at: str) -> None:
        """Raise CertificateRefused for a certificate that is on the list, or whose key is."""
        revoked_at = self.revoked_at(peer.serial)
        if not self.refuses(peer):
            return
        what, when = ("key", "") if revoked_at is None else ("certificate", f" on {revoked_at:%Y-%m-%d}")
        raise CertificateRefused(
            f"the {what} of {found_at}, the {peer.party}, was revoked{when}: it must enrol again with a new key "
            "(`federation request` with --replace), which the authority decides",
            party_uri=peer.party.uri,
        )


def is_revoked(own: Credentials) -> bool:
    """Whether a party's own certificate, or its key, is on the list that it holds. Raises ConfigurationError."""
    if own.revocations is None or not own.revocations.exists():
        return False
    listed = RevocationList.read(own.revocations, read_certificate(own.authority))
    return listed.refuses(PartyCertificate.read(own.certificate))


def make_entry(
    serial: int, *, at: datetime, key: str | None, others: Iterable[x509.ExtensionType]
) -> x509.RevokedCertificate:
    """An entry for a certificate and, if its hash is known, its key; `others`: further extensions."""
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
    for extension in others:
        builder = builder.add_extension(extension, critical=False)
    if key is not None:
        named = x509.UnrecognizedExtension(_KEY, _OCTETS_32 + bytes.fromhex(key))
        builder = builder.add_extension(named, critical=False)
    return builder.build()


def read_key(entry: x509.RevokedCertificate) -> str | None:
    """The hash of the key that an entry refuses. Raises ValueError if it is malformed."""
    for extension in entry.extensions:
        if extension.oid == _KEY and isinstance(extension.value, x509.UnrecognizedExtension):
            encoded = extension.value.value
            if not encoded.startswith(_OCTETS_32) or len(encoded) != len(_OCTETS_32) + 32:
                raise ValueError("the hash of a key is not of 32 bytes")
            return encoded[len(_OCTETS_32) :].hex()
    return None
