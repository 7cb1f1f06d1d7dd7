"""How a sum was opened, so that everybody can open it again: no hospital has to believe the coordinator's arithmetic.

A coordinator that could name any sum could choose the next global weights, and with them what the hospitals' next
updates are. So it passes on what the sum follows from: the signed keys, the signed masked vectors, the survivors'
signatures on both, and the secrets that the survivors' shares gave. Whoever has these learns the sum and nothing else,
as the coordinator did.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contract.errors import PeerViolation
from federated_learning.secure_aggregation.keys import (
    PairwiseKeys,
    PublicKeys,
    Transcript,
    View,
    check_confirmation,
    check_masked,
    commitment,
    derive_public_key,
    read_directory,
    self_mask_seed,
)
from federated_learning.secure_aggregation.masking import RingVector, apply_mask
from federated_learning.secure_aggregation.messages import (
    CONFIRMATION_BYTES,
    HEADER_BYTES,
    Kind,
    masked_bytes,
    read_body,
    read_list,
    read_survivors,
    vector_bytes,
)
from federated_learning.secure_aggregation.sharing import SECRET_BYTES
from federated_learning.secure_aggregation.terms import RoundTerms

DIRECTORY: Final = "directory"
SURVIVORS: Final = "survivors"
CONFIRMATIONS: Final = "confirmations"
SECRET, MASKED = "secret/", "masked/"


@dataclass(frozen=True, kw_only=True, repr=False)
class Opening:
    """The messages and secrets that one sum follows from. Nothing here was unknown to the coordinator.

    directory, survivors, confirmations: messages. masked: each survivor's message. secrets: of each hospital that
    shared, the self seed (survivors) or the private mask key (who dropped out), 32 bytes.
    """

    directory: bytes
    survivors: bytes
    confirmations: bytes
    secrets: Mapping[str, bytes]
    masked: Mapping[str, bytes]

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> Self:
        """Of byte strings by name, as `parts` gave them. Raises PeerViolation for other names."""
        secrets = {name.removeprefix(SECRET): part for name, part in parts.items() if name.startswith(SECRET)}
        masked = {name.removeprefix(MASKED): part for name, part in parts.items() if name.startswith(MASKED)}
        if len(parts) != 3 + len(secrets) + len(masked) or not {DIRECTORY, SURVIVORS, CONFIRMATIONS} <= parts.keys():
            raise PeerViolation("the coordinator's opening of a sum lacks a part: run the same version everywhere")
        return cls(
            directory=parts[DIRECTORY],
            survivors=parts[SURVIVORS],
            confirmations=parts[CONFIRMATIONS],
            secrets=secrets,
            masked=masked,
        )

    def parts(self) -> dict[str, bytes]:
        """Byte strings by name, to be sent or kept."""
        named = {DIRECTORY: self.directory, SURVIVORS: self.survivors, CONFIRMATIONS: self.confirmations}
        secrets = {SECRET + name: secret for name, secret in self.secrets.items()}
        return named | secrets | {MASKED + name: message for name, message in self.masked.items()}

    def total(self, terms: RoundTerms) -> tuple[RingVector, frozenset[str]]:
        """The sum, and whose vectors are in it. Raises PeerViolation if anything does not follow from signed keys.

        This opens the sum of the survivors' vectors: it is what the round is for, and everybody receives it anyway as
        the new global model.
        """
        keys, transcript = self._read_keys(terms)
        survivors = self._read_survivors(terms, keys, transcript)
        total = RingVector.zeros(terms)
        for name in terms.ordered(survivors):
            body = memoryview(self.masked[name])[HEADER_BYTES:]
            total.add(RingVector.over(terms, body[: vector_bytes(terms)]))
            apply_mask(total, self_mask_seed(terms, name, self.secrets[name]), add=False)
        pairwise = PairwiseKeys(terms, transcript)
        for dropped in terms.ordered(frozenset(self.secrets) - survivors):
            key = X25519PrivateKey.from_private_bytes(self.secrets[dropped])
            for name in terms.ordered(survivors):
                seed = pairwise.mask_seed(key, name=dropped, peer=name, peer_key=keys[name].mask)
                apply_mask(total, seed, add=dropped < name)
        return total, survivors

    def _read_keys(self, terms: RoundTerms) -> tuple[dict[str, PublicKeys], Transcript]:
        """Of the signed directory; the secrets fit them."""
        keys, transcript = read_directory(terms, self.directory)
        for name, secret in self.secrets.items():
            known = name in keys and len(secret) == SECRET_BYTES
            if not known or not fits_keys(terms, name, keys[name], secret, survived=name in self.masked):
                raise PeerViolation(f"the coordinator's opening of {terms} holds a wrong secret of {name[:64]}")
        return keys, transcript

    def _read_survivors(
        self, terms: RoundTerms, keys: Mapping[str, PublicKeys], transcript: Transcript
    ) -> frozenset[str]:
        """Whose signed vectors enough survivors confirmed."""
        digests, shared = read_survivors(terms, self.survivors), frozenset(self.secrets)
        if frozenset(digests) != frozenset(self.masked) or not frozenset(digests) <= shared <= frozenset(keys):
            raise PeerViolation(f"the coordinator's opening of {terms} lacks a survivor's vector or secret")
        for name, message in self.masked.items():
            read_body(terms, message, Kind.MASKED, name, body_bytes=masked_bytes(terms))
            if check_masked(terms, name, message) != digests[name]:
                raise PeerViolation(f"the coordinator's opening of {terms} holds another vector of hospital {name}")
        signed = read_list(terms, self.confirmations, Kind.CONFIRMATIONS, item_bytes=CONFIRMATION_BYTES)
        if len(signed) < terms.threshold or not frozenset(signed) <= frozenset(digests):
            raise PeerViolation(f"too few survivors confirmed the coordinator's opening of {terms}: it is not believed")
        view = View.make(terms, shared, digests)
        for name, message in signed.items():
            check_confirmation(terms, name, message, transcript, view)
        return frozenset(digests)


def fits_keys(terms: RoundTerms, name: str, keys: PublicKeys, secret: bytes, *, survived: bool) -> bool:
    """Whether a secret is what a hospital's signed keys stand for: a survivor's self seed, else a private mask key."""
    if survived:
        return hmac.compare_digest(commitment(terms, name, secret), keys.commitment)
    return hmac.compare_digest(derive_public_key(secret), keys.mask)
