"""Certificates as they come from outside: parsed once into what the parties need of them, and judged by the clock.

OpenSSL checks who signed a certificate and what it may be used for. What depends on the time is judged here, with a
tolerance that each party configures and with words that say whose clock is in question.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contract.errors import CertificateRefused, ConfigurationError, PeerViolation
from contract.files import read_bounded
from contract.identity import Party, Role

MALFORMED = (
    ValueError,
    TypeError,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for something that is no certificate, request or list of revocations."""

NEW_KEY: Final = (
    "ask for a certificate for a new key with "
    "`federation request --replace --role ROLE --organisation NAME --folder credentials`"
)
"""What is left to a party whose certificate was revoked or has ended: neither can be renewed."""

RENEW_BEFORE = timedelta(days=30)
"""A certificate that ends within this is warned about."""


@dataclass(frozen=True, kw_only=True)
class PartyCertificate:
    """One party's certificate, parsed. Who signed it is not checked here. Public."""

    party: Party
    hosts: tuple[str, ...]
    serial: int
    begins: datetime
    ends: datetime
    key: ec.EllipticCurvePublicKey

    @classmethod
    def parse(cls, certificate: x509.Certificate) -> Self:
        """Read a parsed certificate's party and dates. Raises PeerViolation if it is not a party's."""
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            key = certificate.public_key()
            hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except x509.ExtensionNotFound:
            uris = []
        except MALFORMED:
            raise PeerViolation("a certificate is malformed; it must enrol with `federation enroll`") from None
        if len(uris) != 1:
            raise PeerViolation(
                f"a certificate names {len(uris)} parties instead of one; it must enrol with `federation enroll`"
            )
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise PeerViolation("a certificate's key is not on NIST P-256; it must enrol with `federation enroll`")
        return cls(
            party=Party.from_uri(uris[0]),
            hosts=tuple(hosts),
            serial=certificate.serial_number,
            begins=begins,
            ends=ends,
            key=key,
        )

    @classmethod
    def from_der(cls, encoded: bytes) -> Self:
        """Parse what a peer showed. Raises PeerViolation."""
        try:
            certificate = x509.load_der_x509_certificate(encoded)
        except MALFORMED:
            raise PeerViolation("a certificate is malformed; it must enrol with `federation enroll`") from None
        return cls.parse(certificate)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read this party's own certificate. Raises ConfigurationError."""
        try:
            return cls.parse(read_certificate(path))
        except PeerViolation as error:
            raise ConfigurationError(
                f"{path}: is not a party's certificate ({error}); make one with `federation enroll`"
            ) from None


def read_certificate(path: Path) -> x509.Certificate:
    """Read a file that holds one certificate in PEM. Raises ConfigurationError."""
    try:
        found = x509.load_pem_x509_certificates(read_bounded(path))
    except MALFORMED:
        found = []
    if len(found) != 1:
        raise ConfigurationError(f"{path}: is not a certificate in PEM form; give the right file")
    return found[0]


def hash_key(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key (DER), hexadecimal."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(encoded)
    return digest.finalize().hex()


def show_time(moment: datetime) -> str:
    """A moment in words."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def show_gap(difference: timedelta) -> str:
    """How far two clocks are from each other, in words."""
    seconds = difference.total_seconds()
    return f"{seconds:.0f} s" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def explain_slow_clock(whose: str, now: datetime, *, fact: str, since: datetime) -> str:
    """Why a clock must be slow: by it, something that is signed already begins later. `fact`: say, `X begins at`."""
    return (
        f"the clock of {whose} is behind by {show_gap(since - now)} or more: it says {show_time(now)}, but {fact} "
        f"{show_time(since)}; set that clock"
    )


def require_in_time(
    begins: datetime, ends: datetime, *, what: str, remedy: str, now: datetime, skew: timedelta = timedelta()
) -> None:
    """Raise ConfigurationError unless this machine's clock lies between. `remedy`: for what has ended."""
    if begins - skew > now:
        raise ConfigurationError(explain_slow_clock("this machine", now, fact=f"{what} begins at", since=begins))
    if ends + skew < now:
        raise ConfigurationError(
            f"{what} ended at {show_time(ends)}, and the clock of this machine says {show_time(now)}; {remedy}, "
            "or set the clock if it is ahead"
        )


def require_own_valid(own: PartyCertificate, *, now: datetime, skew: timedelta) -> None:
    """Raise ConfigurationError if this party's own certificate is not valid by its own clock."""
    what = f"the certificate of the {own.party}"
    require_in_time(own.begins, own.ends, what=what, remedy=NEW_KEY, now=now, skew=skew)


def require_file_in_time(path: Path) -> None:
    """Raise ConfigurationError unless a server's certificate is valid by this machine's clock."""
    try:
        shown = x509.load_pem_x509_certificates(read_bounded(path))[0]  # the first of a chain is the server's
    except MALFORMED:
        raise ConfigurationError(f"{path}: is not a certificate in PEM form; give the right file") from None
    begins, ends = shown.not_valid_before_utc, shown.not_valid_after_utc
    require_in_time(begins, ends, what=str(path), remedy="renew it", now=datetime.now(UTC))


def require_valid(
    peer: PartyCertificate, *, own: PartyCertificate, now: datetime, skew: timedelta, found_at: str
) -> None:
    """Raise CertificateRefused if a peer's certificate is not valid by this party's clock, more than `skew` apart.

    A certificate that begins in the future convicts this side's clock: the authority had signed it before it was shown.
    One that has ended convicts nobody, so the words give this side's clock for the other to compare.
    """
    if peer.begins - skew > now:
        fact = f"the certificate of {found_at}, the {peer.party}, begins at"
        words = explain_slow_clock(f"the {own.party}", now, fact=fact, since=peer.begins)
        raise CertificateRefused(f"{words} (tolerated: {skew.total_seconds():g} s)", party_uri=peer.party.uri)
    if peer.ends + skew < now:
        ahead = own.ends + skew < now
        advice = (
            f"that of the {own.party} has ended by this clock as well, so that clock is ahead or both must renew"
            if ahead
            else f"{NEW_KEY}; if it is valid by the clock of the {peer.party}, compare the two"
        )
        raise CertificateRefused(
            f"the certificate of {found_at}, the {peer.party}, ended at {show_time(peer.ends)}, and the clock of the "
            f"{own.party} says {show_time(now)}: {advice} (tolerated: {skew.total_seconds():g} s)",
            party_uri=peer.party.uri,
        )


def read_own_party(path: Path, *, role: Role) -> Party:
    """Who this party itself is, by its own certificate. Raises ConfigurationError if it is not of `role`."""
    party = PartyCertificate.read(path).party
    if party.role is not role:
        raise ConfigurationError(f"{path}: is not the certificate of a {role.value}; give the one enrolled for it")
    return party
