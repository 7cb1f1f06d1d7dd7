"""What everybody must agree on before a round of secure aggregation, and its hash, which binds every message to it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.errors import ConfigurationError, PeerViolation

MIN_SURVIVORS: Final = 3
"""With two, each would learn the other's vector by subtracting its own from the sum."""
MAX_HOSPITALS: Final = 64
MAX_ELEMENTS: Final = 1 << 28
HASH_BYTES: Final = 32
_DOMAIN: Final = b"encrypted-medical-inference/secure-aggregation/1"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")


def least_threshold(hospitals: int) -> int:
    """The smallest safe number of survivors: more than two thirds, and at least three.

    Two sets of more than two thirds of the hospitals share more than a third of them, so no coordinator can have two
    different lists of survivors confirmed (Bonawitz et al. 2017, theorem 6.5).
    """
    return max(MIN_SURVIVORS, 2 * hospitals // 3 + 1)


@dataclass(frozen=True, kw_only=True)
class RoundTerms:
    """The public terms of one aggregation. Every hospital builds them itself, from its own settings and what it trains.

    purpose: what is summed, say "update" or "class-counts": several aggregations may belong to one round.
    attempt: counts from 0; a round that was aborted is run again with the next attempt.
    roster: each hospital's Ed25519 public key, from this site's own settings, never from the coordinator.
    threshold: how many hospitals must survive; at least `least_threshold`.
    update_length, ring_bits: elements of the first part, mod 2^16 or 2^32.
    exact_length: elements of the second part, mod 2^64.
    subject: SHA-256 of what the hospitals' vectors follow from, such as the global weights that they train: no matter
        in which round, attempt or training, two sums of one purpose and subject must be over the same hospitals.
    common_hash: SHA-256 of all that the coordinator sent the hospitals for this round (global weights, limits,
        settings). Each hospital hashes what it received itself: a coordinator that gives one hospital another model, to
        single out its update (Pasquini et al. 2022), gets masks that do not even share a session.
    """

    training_id: str
    purpose: str
    round_number: int
    attempt: int
    roster: Mapping[str, Ed25519PublicKey]
    threshold: int
    update_length: int
    ring_bits: Literal[16, 32]
    exact_length: int
    subject: bytes
    common_hash: bytes

    def __post_init__(self) -> None:
        """Refuse terms under which masks would not protect, or that nobody could hold in memory."""
        object.__setattr__(self, "roster", MappingProxyType(dict(self.roster)))
        self._check_roster()
        for what, text in (("training id", self.training_id), ("purpose", self.purpose)):
            if not _NAME.fullmatch(text):
                raise ConfigurationError(f"{what} {text[:64]!r} is not lower-case letters, digits and hyphens")
        if not (0 <= self.round_number < 1 << 63 and 0 <= self.attempt < 1 << 31):
            raise ConfigurationError("round and attempt are counted from 0")
        if self.ring_bits not in (16, 32):
            raise ConfigurationError("updates are summed mod 2^16 or 2^32: set ring_bits to 16 or 32")
        if not (0 <= self.update_length <= MAX_ELEMENTS and 0 <= self.exact_length <= MAX_ELEMENTS):
            raise ConfigurationError(f"a vector has at most {MAX_ELEMENTS} elements: train a smaller model")
        if len(self.common_hash) != HASH_BYTES or len(self.subject) != HASH_BYTES:
            raise ConfigurationError(f"hashes of what all hospitals received have {HASH_BYTES} bytes")

    def _check_roster(self) -> None:
        if not MIN_SURVIVORS <= len(self.roster) <= MAX_HOSPITALS:
            raise ConfigurationError(
                f"secure aggregation needs {MIN_SURVIVORS} to {MAX_HOSPITALS} hospitals, not {len(self.roster)}: with "
                "two, each would learn the other's update"
            )
        for name in self.roster:
            if not _NAME.fullmatch(name):
                raise ConfigurationError(f"hospital name {name[:64]!r} is not lower-case letters, digits and hyphens")
        holders: dict[bytes, str] = {}
        for name in self.members:
            other = holders.setdefault(self.roster[name].public_bytes_raw(), name)
            if other != name:
                raise ConfigurationError(
                    f"hospitals {other} and {name} have the same signing key: one of them is entered wrongly"
                )
        least = least_threshold(len(self.roster))
        if not least <= self.threshold <= len(self.roster):
            raise ConfigurationError(
                f"with {len(self.roster)} hospitals, {least} to {len(self.roster)} must survive a round, not "
                f"{self.threshold}"
            )

    @cached_property
    def members(self) -> tuple[str, ...]:
        """All hospitals in the order in which messages list them."""
        return tuple(sorted(self.roster))

    @cached_property
    def indices(self) -> Mapping[str, int]:
        """Position of each hospital in `members`."""
        return {name: index for index, name in enumerate(self.members)}

    @cached_property
    def session(self) -> bytes:
        """SHA-256 over all terms. It stands in every message, so that none fits another round, attempt or model."""
        digest = hashlib.sha256(_DOMAIN)
        for text in (self.training_id, self.purpose):
            digest.update(len(text).to_bytes(2, "little") + text.encode())
        for number in (self.round_number, self.attempt, self.threshold, self.update_length, self.ring_bits):
            digest.update(number.to_bytes(8, "little"))
        digest.update(self.exact_length.to_bytes(8, "little") + self.subject + self.common_hash)
        for name in self.members:
            digest.update(len(name).to_bytes(2, "little") + name.encode() + self.roster[name].public_bytes_raw())
        return digest.digest()

    def bitmap(self, names: frozenset[str]) -> int:
        """A set of hospitals as bits by position."""
        return sum(1 << self.indices[name] for name in names)

    def names(self, bitmap: int, *, whose: str) -> frozenset[str]:
        """Read such bits. `whose` names the sender in the error."""
        if bitmap >> len(self.members):
            raise PeerViolation(f"{whose} lists a hospital that is not in the training: compare the rosters")
        return frozenset(name for index, name in enumerate(self.members) if bitmap >> index & 1)

    def group(self, names: frozenset[str]) -> str:
        """SHA-256 (hexadecimal) of these hospitals' keys: the same hospitals, in whatever training."""
        return hashlib.sha256(b"".join(sorted(self.roster[name].public_bytes_raw() for name in names))).hexdigest()

    def ordered(self, names: frozenset[str]) -> list[str]:
        """A set of hospitals in the order of messages."""
        return [name for name in self.members if name in names]

    def __str__(self) -> str:
        return f"round {self.round_number} ({self.purpose}, attempt {self.attempt})"
