"""The bytes of each message. Lengths follow from the terms, so they are compared before anything is read or allocated.

header        "SAG1" | kind (1) | 0 | sender (2) | session (32)            40 bytes, little-endian
ADVERTISEMENT header | sealing key (32) | mask key (32) | commitment (32) | Ed25519 signature (64)
DIRECTORY     header | advertisements in the order of the roster
SHARES        header | for each other hospital of the directory: sealed pair of shares (80)
DELIVERY      header | who shared (8, bits) | for each other one of them: sealed pair of shares (80)
MASKED        header | exact part (8 each) | update (2 or 4 each) | Ed25519 signature (64)
SURVIVORS     header | who is in the sum (8, bits) | for each of them: SHA-256 of its masked message (32)
CONFIRMATION  header | who is in the sum (8, bits) | Ed25519 signature (64)
CONFIRMATIONS header | confirmations in the order of the roster
UNMASKING     header | who is in the sum (8, bits) | for each hospital that shared: one share (32)
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from contract.errors import PeerViolation
from federated_learning.secure_aggregation.terms import HASH_BYTES, RoundTerms

_MAGIC: Final = b"SAG1"
_HEADER: Final = struct.Struct("<4sBBH32s")
_COORDINATOR_INDEX: Final = 0xFFFF
HEADER_BYTES: Final = _HEADER.size
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
BITMAP_BYTES: Final = 8
SEALED_BYTES: Final = 80
ADVERTISEMENT_BYTES: Final = HEADER_BYTES + 3 * KEY_BYTES + SIGNATURE_BYTES
CONFIRMATION_BYTES: Final = HEADER_BYTES + BITMAP_BYTES + SIGNATURE_BYTES


class Kind(IntEnum):
    """Kinds of messages, in the order in which a round sends them."""

    ADVERTISEMENT = 1
    DIRECTORY = 2
    SHARES = 3
    DELIVERY = 4
    MASKED = 5
    SURVIVORS = 6
    CONFIRMATION = 7
    CONFIRMATIONS = 8
    UNMASKING = 9


def name_speaker(name: str | None) -> str:
    """How errors name a sender; None is the coordinator."""
    return "the coordinator" if name is None else f"hospital {name}"


def header(terms: RoundTerms, kind: Kind, sender: str | None) -> bytes:
    """The 40 bytes that begin a message."""
    index = _COORDINATOR_INDEX if sender is None else terms.indices[sender]
    return _HEADER.pack(_MAGIC, kind, 0, index, terms.session)


def read_body(terms: RoundTerms, message: bytes, kind: Kind, sender: str | None, *, body_bytes: int) -> memoryview:
    """Check length, kind, sender and session of a message and return what follows its header.

    Raises PeerViolation naming the sender. Nothing is copied.
    """
    whose = name_speaker(sender)
    if len(message) != HEADER_BYTES + body_bytes:
        raise PeerViolation(
            f"{whose} sent {len(message)} bytes as {kind.name.lower()} of {terms}, not {HEADER_BYTES + body_bytes}: "
            "all sites must train the same network with the same settings"
        )
    magic, got_kind, zero, index, session = _HEADER.unpack_from(message)
    if magic != _MAGIC or zero != 0 or got_kind != kind:
        raise PeerViolation(f"{whose} sent something else than the {kind.name.lower()} of {terms}: run it again")
    if session != terms.session:
        raise PeerViolation(
            f"{whose} sent the {kind.name.lower()} of another session than {terms}: an old message, another model, "
            "roster or setting. Compare them and run the round again"
        )
    if index != (_COORDINATOR_INDEX if sender is None else terms.indices[sender]):
        raise PeerViolation(f"{whose} sent a message in the name of somebody else: it does not take part in {terms}")
    return memoryview(message)[HEADER_BYTES:]


def read_list(terms: RoundTerms, message: bytes, kind: Kind, *, item_bytes: int) -> dict[str, bytes]:
    """Split a list of equally long messages of hospitals that the coordinator passed on, by hospital."""
    count, rest = divmod(len(message) - HEADER_BYTES, item_bytes)
    if rest or not 0 <= count <= len(terms.members):
        raise PeerViolation(
            f"the coordinator sent {len(message)} bytes as {kind.name.lower()} of {terms}: run it again"
        )
    body = read_body(terms, message, kind, None, body_bytes=count * item_bytes)
    items = [bytes(body[at : at + item_bytes]) for at in range(0, len(body), item_bytes)]
    indices = [int.from_bytes(item[6:8], "little") for item in items]
    if any(index >= len(terms.members) for index in indices):
        raise PeerViolation("the coordinator passed on a message of a hospital that is not in the training")
    names = [terms.members[index] for index in indices]
    if names != terms.ordered(frozenset(names)):
        raise PeerViolation(f"the coordinator lists a hospital twice or in the wrong order in {terms}: run it again")
    return dict(zip(names, items, strict=True))


def write_survivors(terms: RoundTerms, digests: Mapping[str, bytes]) -> bytes:
    """Who is in the sum, with the digest of each one's masked message."""
    names = frozenset(digests)
    listed_digests = b"".join(digests[name] for name in terms.ordered(names))
    return header(terms, Kind.SURVIVORS, None) + terms.bitmap(names).to_bytes(BITMAP_BYTES, "little") + listed_digests


def read_survivors(terms: RoundTerms, message: bytes) -> dict[str, bytes]:
    """The digests that `write_survivors` wrote, by hospital. Raises PeerViolation."""
    count = max(0, len(message) - HEADER_BYTES - BITMAP_BYTES) // HASH_BYTES
    body = read_body(terms, message, Kind.SURVIVORS, None, body_bytes=BITMAP_BYTES + HASH_BYTES * count)
    names = terms.ordered(terms.names(int.from_bytes(body[:BITMAP_BYTES], "little"), whose="the coordinator"))
    if len(names) != count:
        raise PeerViolation(f"the coordinator's list of survivors of {terms} has another length: run it again")
    return {name: bytes(body[BITMAP_BYTES + HASH_BYTES * index :][:HASH_BYTES]) for index, name in enumerate(names)}


def vector_bytes(terms: RoundTerms) -> int:
    """Length of a vector in a masked message."""
    return 8 * terms.exact_length + terms.ring_bits // 8 * terms.update_length


def masked_bytes(terms: RoundTerms) -> int:
    """Length of the body of a masked message."""
    return vector_bytes(terms) + SIGNATURE_BYTES
