"""The secrets of one hospital in one round, and what is derived from them. All are drawn afresh for each attempt."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NewType, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from contract.errors import PeerViolation
from federated_learning.secure_aggregation.messages import (
    ADVERTISEMENT_BYTES,
    BITMAP_BYTES,
    CONFIRMATION_BYTES,
    HEADER_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    Kind,
    header,
    read_body,
    read_list,
)
from federated_learning.secure_aggregation.sharing import SECRET_BYTES
from federated_learning.secure_aggregation.terms import RoundTerms
from secure_computation.randomness import Seed

Transcript = NewType("Transcript", bytes)
"""SHA-256 of the directory: which hospitals take part, with which keys."""

_MASK: Final = b"encrypted-medical-inference/secure-aggregation/1/pairwise-mask"
_SEAL: Final = b"encrypted-medical-inference/secure-aggregation/1/sealed-shares"
_SELF: Final = b"encrypted-medical-inference/secure-aggregation/1/self-mask-key"
_COMMIT: Final = b"encrypted-medical-inference/secure-aggregation/1/self-mask"
_SIGN: Final = b"encrypted-medical-inference/secure-aggregation/1/signature"
_NONCE: Final = bytes(12)
"""Each sealing key is derived for one message in one direction, so its only nonce may be zero."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class RoundSecrets:
    """Two X25519 keys and the seed of the self mask: drawn here, except in known-answer tests, and never shown."""

    sealing_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    mask_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    self_seed: bytes = field(default_factory=partial(secrets.token_bytes, SECRET_BYTES))

    def publish(self, terms: RoundTerms, name: str) -> "PublicKeys":
        """What others may know of them."""
        sealing, mask = (key.public_key().public_bytes_raw() for key in (self.sealing_key, self.mask_key))
        return PublicKeys(sealing, mask, commitment(terms, name, self.self_seed))

    def __repr__(self) -> str:
        return "RoundSecrets(<secret>)"

    def __reduce__(self) -> tuple[object, ...]:
        """Refuse to be serialised by accident."""
        raise TypeError("the secrets of a round are not serialised: a restarted round draws new ones")


@dataclass(frozen=True)
class PublicKeys:
    """What one hospital advertised: 32 bytes each."""

    sealing: bytes
    mask: bytes
    commitment: bytes


def commitment(terms: RoundTerms, name: str, self_seed: bytes) -> bytes:
    """SHA-256 by which the coordinator knows a recovered self seed. Hides it: the seed has 256 random bits."""
    return hashlib.sha256(_COMMIT + terms.session + bytes([terms.indices[name]]) + self_seed).digest()


def self_mask_seed(terms: RoundTerms, name: str, self_seed: bytes) -> Seed:
    """The seed of a hospital's self mask, in this session only."""
    info = _SELF + bytes([terms.indices[name]])
    return Seed(HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=terms.session, info=info).derive(self_seed))


def derive_public_key(private: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def write_advertisement(terms: RoundTerms, name: str, own: RoundSecrets, signing_key: Ed25519PrivateKey) -> bytes:
    """The round's public keys, signed with the site's long-lived key."""
    keys = own.publish(terms, name)
    content = header(terms, Kind.ADVERTISEMENT, name) + keys.sealing + keys.mask + keys.commitment
    return content + signing_key.sign(_SIGN + content)


def read_advertisement(terms: RoundTerms, name: str, message: bytes) -> PublicKeys:
    """Check an advertisement's session and signature. Raises PeerViolation naming the hospital."""
    body = read_body(terms, message, Kind.ADVERTISEMENT, name, body_bytes=ADVERTISEMENT_BYTES - HEADER_BYTES)
    _verify(terms, name, message, "round keys")
    sealing, mask, committed = (bytes(body[at : at + KEY_BYTES]) for at in range(0, 3 * KEY_BYTES, KEY_BYTES))
    return PublicKeys(sealing, mask, committed)


def read_directory(terms: RoundTerms, directory: bytes) -> tuple[dict[str, PublicKeys], Transcript]:
    """Everybody's keys, and what stands for this very list. Raises PeerViolation if it is not signed."""
    messages = read_list(terms, directory, Kind.DIRECTORY, item_bytes=ADVERTISEMENT_BYTES)
    keys = {name: read_advertisement(terms, name, message) for name, message in messages.items()}
    check_distinct(terms, keys)
    return keys, Transcript(hashlib.sha256(directory).digest())


def check_distinct(terms: RoundTerms, keys: dict[str, PublicKeys]) -> None:
    """Refuse one public key in two places: a pair of hospitals with the same key would know each other's masks."""
    holders: dict[bytes, str] = {}
    for name in terms.ordered(frozenset(keys)):
        for value in (keys[name].sealing, keys[name].mask):
            if value in holders:
                raise PeerViolation(
                    f"hospital {name} advertises a key in {terms} that hospital {holders[value]} advertises already: "
                    "one of them copies the other, or its random numbers are broken"
                )
            holders[value] = name


def masked_digest(message: bytes | bytearray) -> bytes:
    """SHA-256 of a masked message without its signature."""
    return hashlib.sha256(memoryview(message)[:-SIGNATURE_BYTES]).digest()


def sign_masked(message: bytearray, signing_key: Ed25519PrivateKey) -> bytes:
    """Put the signature into its place at the end; the message's digest."""
    digest = masked_digest(message)
    message[-SIGNATURE_BYTES:] = signing_key.sign(_SIGN + bytes(message[:HEADER_BYTES]) + digest)
    return digest


def check_masked(terms: RoundTerms, name: str, message: bytes) -> bytes:
    """The digest of a masked message. Raises PeerViolation if the hospital did not sign it."""
    digest = masked_digest(message)
    _verify(terms, name, message[:HEADER_BYTES] + digest + message[-SIGNATURE_BYTES:], "masked vector")
    return digest


@dataclass(frozen=True, kw_only=True)
class View:
    """What the hospitals of one sum must all have received before anything is unmasked."""

    shared: int
    """Who shared, as bits."""
    survivors: int
    """Who is in the sum, as bits."""
    vectors: bytes
    """The survivors' masked messages: one digest after the other, in the order of the roster."""

    @classmethod
    def make(cls, terms: RoundTerms, shared: frozenset[str], digests: Mapping[str, bytes]) -> Self:
        """Of these digests, by survivor."""
        survivors = frozenset(digests)
        vectors = b"".join(digests[name] for name in terms.ordered(survivors))
        return cls(shared=terms.bitmap(shared), survivors=terms.bitmap(survivors), vectors=vectors)


def write_confirmation(
    terms: RoundTerms, name: str, transcript: Transcript, view: View, signing_key: Ed25519PrivateKey
) -> bytes:
    """Sign `view`, as this hospital received it."""
    content = header(terms, Kind.CONFIRMATION, name) + view.survivors.to_bytes(BITMAP_BYTES, "little")
    return content + signing_key.sign(_confirmed(content, transcript, view))


def check_confirmation(terms: RoundTerms, name: str, message: bytes, transcript: Transcript, view: View) -> None:
    """Check that a hospital received the same as this side. Raises PeerViolation naming it."""
    body = read_body(terms, message, Kind.CONFIRMATION, name, body_bytes=CONFIRMATION_BYTES - HEADER_BYTES)
    if int.from_bytes(body[:BITMAP_BYTES], "little") != view.survivors:
        raise PeerViolation(f"hospital {name} received other survivors of {terms}: nothing is unmasked")
    content = message[:-SIGNATURE_BYTES]
    _verify(terms, name, _confirmed(content, transcript, view) + message[-SIGNATURE_BYTES:], "survivors", signed=True)


def _confirmed(content: bytes, transcript: Transcript, view: View) -> bytes:
    return _SIGN + content + transcript + view.shared.to_bytes(BITMAP_BYTES, "little") + view.vectors


def _verify(terms: RoundTerms, name: str, message: bytes, what: str, *, signed: bool = False) -> None:
    content = message[:-SIGNATURE_BYTES]
    try:
        terms.roster[name].verify(message[-SIGNATURE_BYTES:], content if signed else _SIGN + content)
    except InvalidSignature as error:
        raise PeerViolation(
            f"hospital {name}: the signature of its {what} in {terms} is wrong: another key than the roster's, other "
            "participants or other vectors. Compare the key's fingerprint with the hospital"
        ) from error


@dataclass(frozen=True)
class PairwiseKeys:
    """Derives what two hospitals share, in one session and directory, from a private and the other's public key."""

    terms: RoundTerms
    transcript: Transcript

    def mask_seed(self, own: X25519PrivateKey, *, name: str, peer: str, peer_key: bytes) -> Seed:
        """The seed of the mask between `name`, who calls this, and `peer`: the same on both sides."""
        low, high = sorted((self.terms.indices[name], self.terms.indices[peer]))
        return Seed(self._derive(own, peer, peer_key, _MASK + bytes([low, high])))

    def seal(self, own: X25519PrivateKey, text: bytes, *, sender: str, recipient: str, peer_key: bytes) -> bytes:
        """Encrypt for `recipient`; called by `sender`."""
        info = self._direction(sender, recipient)
        return AESGCM(self._derive(own, recipient, peer_key, info)).encrypt(_NONCE, text, info)

    def unseal(self, own: X25519PrivateKey, text: bytes, *, sender: str, recipient: str, peer_key: bytes) -> bytes:
        """Decrypt what `sender` sealed; called by `recipient`. Raises PeerViolation naming the sender."""
        info = self._direction(sender, recipient)
        try:
            return AESGCM(self._derive(own, sender, peer_key, info)).decrypt(_NONCE, text, info)
        except InvalidTag as error:
            raise PeerViolation(
                f"hospital {sender}: its shares in {self.terms} do not open: they were changed on the way, or it "
                "received other participants"
            ) from error

    def _direction(self, sender: str, recipient: str) -> bytes:
        return _SEAL + bytes([self.terms.indices[sender], self.terms.indices[recipient]])

    def _derive(self, own: X25519PrivateKey, peer: str, peer_key: bytes, info: bytes) -> bytes:
        try:
            shared = own.exchange(X25519PublicKey.from_public_bytes(peer_key))
        except ValueError as error:  # a point of small order, whose "secret" everybody knows
            raise PeerViolation(
                f"hospital {peer} advertises a degenerate key in {self.terms}: it cannot take part"
            ) from error
        salt = self.terms.session + self.transcript
        return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=salt, info=info).derive(shared)
