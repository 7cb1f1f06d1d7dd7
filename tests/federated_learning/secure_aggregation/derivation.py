"""Derives known_answers.json a second time, from the protocol's text: PyCryptodome, hashlib and integers, none of the
package's code. `python -m tests.federated_learning.secure_aggregation.derivation` prints it.
"""

import hashlib
import hmac
import json
import struct
import sys
from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.DH import import_x25519_private_key, import_x25519_public_key, key_agreement
from Crypto.Protocol.KDF import HKDF
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

NAMES = ("hospital-a", "hospital-b", "hospital-c")
PREFIX = b"encrypted-medical-inference/secure-aggregation/1"
VECTORS = {
    "hospital-a": {"update": [1, 2, 3, 4, 5], "exact": [10, 20]},
    "hospital-b": {"update": [65535, 0, 65534, 1, 7], "exact": [2**64 - 1, 5]},
    "hospital-c": {"update": [0, 0, 0, 0, 0], "exact": [0, 0]},
}


def secret(name: str, purpose: str) -> bytes:
    return hashlib.sha256(f"{name} {purpose}".encode()).digest()


def public(name: str, purpose: str) -> bytes:
    key = import_x25519_private_key(secret(name, purpose)).public_key().export_key(format="raw")
    assert isinstance(key, bytes)
    return key


def signing(name: str) -> ECC.EccKey:
    seed: Any = bytes([NAMES.index(name) + 1]) * 32  # PyCryptodome's stub asks for str or int, its code for bytes
    return ECC.construct(curve="Ed25519", seed=seed)


def sign(name: str, content: bytes, more: bytes = b"") -> bytes:
    return content + eddsa.new(signing(name), "rfc8032").sign(PREFIX + b"/signature" + content + more)


def session() -> bytes:
    digest = hashlib.sha256(PREFIX)
    for text in (b"pneumonia", b"update"):
        digest.update(struct.pack("<H", len(text)) + text)
    # round, attempt, threshold, update length, ring bits, exact length
    digest.update(struct.pack("<6Q", 3, 0, 3, 5, 16, 2))
    for text in (b"the global weights", b"the same model for everybody"):
        digest.update(hashlib.sha256(text).digest())
    for name in NAMES:
        key = signing(name).public_key().export_key(format="raw")
        assert isinstance(key, bytes)
        digest.update(struct.pack("<H", len(name)) + name.encode() + key)
    return digest.digest()


def head(kind: int, sender: int) -> bytes:
    return b"SAG1" + bytes([kind, 0]) + struct.pack("<H", sender) + session()


def advertisement(name: str) -> bytes:
    index = NAMES.index(name)
    committed = hashlib.sha256(PREFIX + b"/self-mask" + session() + bytes([index]) + secret(name, "self")).digest()
    return sign(name, head(1, index) + public(name, "sealing") + public(name, "mask") + committed)


def transcript() -> bytes:
    return hashlib.sha256(head(2, 0xFFFF) + b"".join(map(advertisement, NAMES))).digest()


def derive(name: str, peer: str, purpose: str, info: bytes) -> bytes:
    shared = key_agreement(
        static_priv=import_x25519_private_key(secret(name, purpose)),
        static_pub=import_x25519_public_key(public(peer, purpose)),
        kdf=bytes,
    )
    assert isinstance(shared, bytes)
    key = HKDF(shared, 32, session() + transcript(), SHA256, context=info)
    assert isinstance(key, bytes)
    return key


def stream(seed: bytes, label: bytes, size: int) -> bytes:
    item = b"secure-aggregation"
    message = b"encrypted-medical-inference/stream/1" + struct.pack(">I", len(item)) + item
    message += struct.pack(">QI", 0, len(label)) + label
    key = hmac.new(seed, message, "sha256").digest()
    return AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=0).encrypt(bytes(size))


def self_mask_seed(name: str) -> bytes:
    info = PREFIX + b"/self-mask-key" + bytes([NAMES.index(name)])
    seed = HKDF(secret(name, "self"), 32, session(), SHA256, context=info)
    assert isinstance(seed, bytes)
    return seed


def masked(name: str) -> bytes:
    index = NAMES.index(name)
    update, exact = VECTORS[name]["update"], VECTORS[name]["exact"]
    masks = [(1, self_mask_seed(name))]
    for other, peer in enumerate(NAMES):
        if peer != name:
            pair = bytes([min(index, other), max(index, other)])
            masks.append((1 if index < other else -1, derive(name, peer, "mask", PREFIX + b"/pairwise-mask" + pair)))
    for sign_, seed in masks:
        stream_update = struct.unpack("<5H", stream(seed, b"update", 10))
        stream_exact = struct.unpack("<2Q", stream(seed, b"exact", 16))
        update = [(value + sign_ * mask) % 2**16 for value, mask in zip(update, stream_update, strict=True)]
        exact = [(value + sign_ * mask) % 2**64 for value, mask in zip(exact, stream_exact, strict=True)]
    content = head(5, index) + struct.pack("<2Q", *exact) + struct.pack("<5H", *update)
    signature = sign(name, head(5, index) + hashlib.sha256(content).digest())[-64:]
    return content + signature


def confirmation(name: str) -> bytes:
    everybody = struct.pack("<Q", 0b111)
    vectors = b"".join(hashlib.sha256(masked(name)[:-64]).digest() for name in NAMES)
    return sign(name, head(7, NAMES.index(name)) + everybody, transcript() + everybody + vectors)


def sealed(sender: str, recipient: str, text: bytes) -> bytes:
    info = PREFIX + b"/sealed-shares" + bytes([NAMES.index(sender), NAMES.index(recipient)])
    cipher = AES.new(derive(sender, recipient, "sealing", info), AES.MODE_GCM, nonce=bytes(12))
    cipher.update(info)
    hidden, tag = cipher.encrypt_and_digest(text)
    return hidden + tag


def times(one: int, other: int) -> int:
    """Product in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1."""
    product = 0
    while other:
        product ^= one if other & 1 else 0
        one <<= 1
        one ^= (1 << 128 | 0x87) if one >> 128 else 0
        other >>= 1
    return product


def shamir_share(holder: int) -> bytes:
    """The share of threshold 3 with fixed coefficients, at the point holder + 1."""
    point, share = holder + 1, b""
    polynomial = [hashlib.sha256(text).digest() for text in (b"a shared secret", b"coefficient 1", b"coefficient 2")]
    for half in (slice(0, 16), slice(16, 32)):
        value = 0
        for coefficient in reversed(polynomial):
            value = times(value, point) ^ int.from_bytes(coefficient[half], "big")
        share += value.to_bytes(16, "big")
    return share


def known_answers() -> dict[str, Any]:
    return {
        "session": session().hex(),
        "advertisements": {name: advertisement(name).hex() for name in NAMES},
        "masked": {name: masked(name).hex() for name in NAMES},
        "confirmations": {name: confirmation(name).hex() for name in NAMES},
        "sealed": sealed("hospital-a", "hospital-b", bytes(range(64))).hex(),
        "shamir": {
            "secret": hashlib.sha256(b"a shared secret").hexdigest(),
            "shares": [shamir_share(holder).hex() for holder in range(5)],
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(known_answers(), indent=2) + "\n")
