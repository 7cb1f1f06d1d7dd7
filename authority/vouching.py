"""A model owner vouches for what the catalog says of its model: it signs that with the key of its certificate.

The front end keeps and shows the signature and can make none. Whoever relies on the catalog checks it against the
authority, as in a connection to the model owner itself, and needs no connection for it.
"""

import warnings
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authority.certificates import MALFORMED, read_certificate
from authority.enrolment import load_key
from contract.api import Voucher
from contract.errors import ConfigurationError
from contract.identity import Credentials

_DOMAIN: Final = b"encrypted-medical-inference/model-entry/2\n"
"""Begins what is signed: the same key signs handshakes and renewals, and none of those begins so."""


def sign_voucher(statement: bytes, credentials: Credentials) -> Voucher:
    """Vouch for `statement`. Raises ConfigurationError if key and certificate cannot be used together."""
    key, certificate = load_key(credentials.key), read_certificate(credentials.certificate)
    if key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{credentials.certificate}: is not for {credentials.key}; restore them")
    return Voucher(
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        signature=key.sign(_DOMAIN + statement, ec.ECDSA(hashes.SHA256())).hex(),
    )


def find_signer(voucher: Voucher, statement: bytes, authority: x509.Certificate) -> bytes | None:
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
        key.verify(bytes.fromhex(voucher.signature), _DOMAIN + statement, ec.ECDSA(hashes.SHA256()))
    except (*MALFORMED, InvalidSignature, UnsupportedAlgorithm):
        return None
    return certificate.public_bytes(serialization.Encoding.DER)
