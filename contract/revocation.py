"""The list of revoked certificates: an X.509 CRL in PEM, signed by the authority, read by every party from a file.

A list is good until the date in it. After that its holder accepts nobody: a list that nobody renews would hide what was
revoked since.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from contract.certificates import MALFORMED, PartyCertificate, said
from contract.errors import CertificateRefused, ConfigurationError
from contract.files import read_bounded

MAX_LIST_BYTES = 1 << 20
"""Some 25,000 certificates."""

EXTEND_BEFORE = timedelta(days=14)
"""A list that ends within this is warned about."""


@dataclass(frozen=True, kw_only=True)
class RevocationList:
    """A list whose signature was checked. Public."""

    path: Path
    number: int
    """Grows with each list that the authority signs."""
    issued: datetime
    ends: datetime
    parsed: x509.CertificateRevocationList = field(repr=False)

    @classmethod
    def read(cls, path: Path, authority: x509.Certificate) -> Self:
        """Parse a list from outside. Raises ConfigurationError where it is not one that `authority` signed."""
        content = read_bounded(path, limit=MAX_LIST_BYTES)
        wrong = ConfigurationError(
            f"{path}: is not a list of revoked certificates that this federation's authority signed; fetch it anew"
        )
        key = authority.public_key()
        try:
            parsed = x509.load_pem_x509_crl(content)
            # The key's type is the authority's; the signature covers everything that is read below.
            if not isinstance(key, ec.EllipticCurvePublicKey) or not parsed.is_signature_valid(key):
                raise wrong
            number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            issued, ends = parsed.last_update_utc, parsed.next_update_utc
        except (*MALFORMED, InvalidSignature, UnsupportedAlgorithm):
            raise wrong from None
        if parsed.issuer != authority.subject or ends is None:
            raise wrong
        return cls(path=path, number=number, issued=issued, ends=ends, parsed=parsed)

    def revoked_at(self, serial: int) -> datetime | None:
        """When a certificate was revoked, if it was."""
        entry = self.parsed.get_revoked_certificate_by_serial_number(serial)
        return None if entry is None else entry.revocation_date_utc

    def require_current(self, peer: PartyCertificate, *, own: PartyCertificate, now: datetime, skew: timedelta) -> None:
        """Raise CertificateRefused where this party's list is too old to judge a peer by."""
        if self.ends + skew < now:
            raise CertificateRefused(
                f"the list of revoked certificates that the {own.party} has ended at {said(self.ends)}, so nobody is "
                f"accepted; put the authority's newest there ({self.path.name}; `federation revoke` makes it), or set "
                f"that clock if {said(now)} is wrong",
                party=peer.party,
            )

    def require_not_revoked(self, peer: PartyCertificate, *, found_at: str) -> None:
        """Raise CertificateRefused for a certificate that is on the list."""
        revoked_at = self.revoked_at(peer.serial)
        if revoked_at is not None:
            raise CertificateRefused(
                f"the certificate of {found_at}, the {peer.party}, was revoked on {revoked_at:%Y-%m-%d}: it must enrol "
                "again with a new key, which the federation's authority decides",
                party=peer.party,
            )
