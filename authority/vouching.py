"""A party vouches for what it says: it signs that with the key of its certificate.

Whoever reads the statement later checks it against the authority, as in a connection to that party itself, and needs no
connection for it. So the front end keeps and shows what model owners say of their models, and can say nothing in their
names; and a model owner can show what a data owner and a crypto provider said in a session.
"""

import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authority.certificates import MALFORMED, read_certificate
from authority.enrolment import load_key
from contract.api import Voucher
from contract.errors import ConfigurationError
from contract.identity import Credentials

_PROJECT: Final = "encrypted-medical-inference"


class Domain(StrEnum):
    """What a statement is about, which begins what is signed.

    The same key signs handshakes and renewals, and none of those begins so; nor can a statement of one kind pass for
    one of another.
    """

    MODEL_ENTRY = "model-entry/3"
    """A model owner's, of what the catalog says of its model."""
    DECOY = "decoy/1"
    """A crypto provider's, of what the messages of a decoy must be."""
    SESSION = "session/1"
    """A data owner's, of what it got and sent in a session."""
    VIOLATION = "violation/1"
    """A model owner's, of a data owner that did not follow the protocol."""

    def begin(self, statement: bytes) -> bytes:
        """What is signed for a statement."""
        return f"{_PROJECT}/{self.value}\n".encode("ascii") + statement


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A party's key in memory, for statements that must not wait for a file."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: str = field(repr=False)
    """In PEM."""

    @classmethod
    def of(cls, credentials: Credentials) -> Self:
        """Read both files. Raises ConfigurationError if key and certificate cannot be used together."""
        key, certificate = load_key(credentials.key), read_certificate(credentials.certificate)
        if key.public_key() != certificate.public_key():
            raise ConfigurationError(f"{credentials.certificate}: is not for {credentials.key}; restore them")
        return cls(key=key, certificate=encode_certificate(certificate))

    def sign(self, statement: bytes, domain: Domain) -> Voucher:
        """Vouch for `statement`."""
        signature = self.key.sign(domain.begin(statement), ec.ECDSA(hashes.SHA256()))
        return Voucher(certificate=self.certificate, signature=signature.hex())


def encode_certificate(certificate: x509.Certificate) -> str:
    """In PEM, in the one way that `Signer` writes it."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def is_canonical(voucher: Voucher) -> bool:
    """Whether the certificate of a voucher that holds is written as `Signer` writes it, to the last byte."""
    return encode_certificate(x509.load_pem_x509_certificate(voucher.certificate.encode())) == voucher.certificate


def sign_voucher(statement: bytes, credentials: Credentials, *, domain: Domain = Domain.MODEL_ENTRY) -> Voucher:
    """Vouch for `statement`. Raises ConfigurationError if key and certificate cannot be used together."""
    return Signer.of(credentials).sign(statement, domain)


def find_signer(
    voucher: Voucher, statement: bytes, authority: x509.Certificate, *, domain: Domain = Domain.MODEL_ENTRY
) -> bytes | None:
    """The certificate (DER) whose key signed `statement`; None if it did not, or `authority` did not sign it.

    Whose certificate it is, and whether it is valid today, is for the caller to judge.
    """
    try:
        with warnings.catch_warnings():  # of a certificate that anybody may have written: nobody wants to read them
            warnings.simplefilter("ignore")
            (certificate,) = x509.load_pem_x509_certificates(voucher.certificate.encode())
        certificate.verify_directly_issued_by(authority)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        key.verify(bytes.fromhex(voucher.signature), domain.begin(statement), ec.ECDSA(hashes.SHA256()))
    except (*MALFORMED, InvalidSignature, UnsupportedAlgorithm):
        return None
    return certificate.public_bytes(serialization.Encoding.DER)
