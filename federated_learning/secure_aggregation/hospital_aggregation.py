"""One hospital's side of one aggregation: five messages in, five out, and no network.

The order is fixed: advertise, share_keys, mask, confirm, unmask. Any error ends the aggregation here and forgets its
secrets; the round is then run again with the next attempt, which draws new ones. docs/secure-aggregation.md shows both
sides beside each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.errors import ConfigurationError, PeerViolation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.keys import (
    PairwiseKeys,
    PublicKeys,
    RoundSecrets,
    Transcript,
    View,
    check_confirmation,
    read_directory,
    self_mask_seed,
    sign_masked,
    write_advertisement,
    write_confirmation,
)
from federated_learning.secure_aggregation.masking import RingVector, apply_mask
from federated_learning.secure_aggregation.messages import (
    BITMAP_BYTES,
    CONFIRMATION_BYTES,
    HEADER_BYTES,
    SEALED_BYTES,
    Kind,
    header,
    masked_bytes,
    read_body,
    read_list,
    read_survivors,
    vector_bytes,
)
from federated_learning.secure_aggregation.sharing import SECRET_BYTES, split
from federated_learning.secure_aggregation.terms import RoundTerms


class _Step(IntEnum):
    ADVERTISE = 1
    SHARE_KEYS = 2
    MASK = 3
    CONFIRM = 4
    UNMASK = 5
    DONE = 6
    GIVEN_UP = 7


class HospitalAggregation:
    """Adds one vector to others; the coordinator learns the sum and nothing else.

    Args:
        terms: as this hospital builds them itself, with its own roster.
        name: this hospital.
        signing_key: the key whose public half stands in the roster under `name`.
        history: this hospital's memory of earlier rounds, kept across restarts.
        may_change: whether another run may get another answer to the same question, as images are added.
        round_secrets: for known-answer tests only.

    Each step raises PeerViolation if the coordinator or another hospital breaks the protocol.
    """

    def __init__(
        self,
        terms: RoundTerms,
        *,
        name: str,
        signing_key: Ed25519PrivateKey,
        history: RoundHistory,
        may_change: bool = False,
        round_secrets: RoundSecrets | None = None,
    ) -> None:
        """Begin an attempt. Raises PeerViolation if it was begun before (a replay)."""
        if name not in terms.roster:
            raise ConfigurationError(f"hospital {name} is not in the training's roster: add it at every site")
        if signing_key.public_key().public_bytes_raw() != terms.roster[name].public_bytes_raw():
            raise ConfigurationError(f"hospital {name} signs with another key than the roster's: correct one of them")
        history.begin(terms)
        self._terms, self._name, self._signing_key, self._history = terms, name, signing_key, history
        self._secrets: RoundSecrets | None = round_secrets or RoundSecrets()
        self._step = _Step.ADVERTISE
        self._keys: dict[str, PublicKeys] = {}
        self._transcript = Transcript(b"")
        self._own_share = b""
        self._shares: dict[str, bytes] = {}
        self._may_change = may_change
        self._masked_digest = b""
        self._digests: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"HospitalAggregation({self._name}, {self._terms}, {self._step.name.lower()})"

    def advertise(self) -> bytes:
        """Step 1: the round's public keys, signed."""
        with self._during(_Step.ADVERTISE) as own:
            return write_advertisement(self._terms, self._name, own, self._signing_key)

    def share_keys(self, directory: bytes) -> bytes:
        """Step 2: check everybody's keys; share own mask key and self seed among them, sealed for each."""
        with self._during(_Step.SHARE_KEYS) as own:
            self._read_directory(directory, own)
            count, threshold = len(self._terms.members), self._terms.threshold
            key_shares = split(own.mask_key.private_bytes_raw(), threshold=threshold, count=count)
            seed_shares = split(own.self_seed, threshold=threshold, count=count)
            pairs = {
                name: key_shares[index] + seed_shares[index]
                for name, index in self._terms.indices.items()
                if name in self._keys
            }
            self._own_share = pairs.pop(self._name)
            sealed = [
                self._pairwise().seal(
                    own.sealing_key, pairs[name], sender=self._name, recipient=name, peer_key=keys.sealing
                )
                for name, keys in self._others()
            ]
            return header(self._terms, Kind.SHARES, self._name) + b"".join(sealed)

    def mask(self, vector: RingVector, delivery: bytes) -> bytes:
        """Step 3: `vector` plus the self mask plus or minus the mask with each hospital that shared.

        `vector` is left as it is. Its elements are uniform on their rings in what this returns. It is signed, so that
        everybody can check later what a sum was made of.
        """
        with self._during(_Step.MASK) as own:
            vector.check(self._terms, name=self._name)
            self._history.answer(self._terms, vector.digest(), may_change=self._may_change)
            self._read_delivery(delivery, own)
            message = bytearray(HEADER_BYTES + masked_bytes(self._terms))
            message[:HEADER_BYTES] = header(self._terms, Kind.MASKED, self._name)
            masked = RingVector.over(self._terms, memoryview(message)[HEADER_BYTES:][: vector_bytes(self._terms)])
            masked.update[:] = vector.update
            masked.exact[:] = vector.exact
            apply_mask(masked, self_mask_seed(self._terms, self._name, own.self_seed), add=True)
            for name, keys in self._others():
                if name in self._shares:
                    seed = self._pairwise().mask_seed(own.mask_key, name=self._name, peer=name, peer_key=keys.mask)
                    apply_mask(masked, seed, add=self._name < name)
            self._masked_digest = sign_masked(message, self._signing_key)
            return bytes(message)

    def confirm(self, survivors: bytes) -> bytes:
        """Step 4: sign who survives, with which masked vectors, as the coordinator says, if enough of them are left."""
        with self._during(_Step.CONFIRM):
            digests = read_survivors(self._terms, survivors)
            if self._name not in digests or not frozenset(digests) <= frozenset(self._shares):
                raise PeerViolation(
                    f"the coordinator names survivors of {self._terms} that cannot be: {', '.join(sorted(digests))}. "
                    "Nothing is unmasked"
                )
            self._require_enough(frozenset(digests), "survivors")
            if digests[self._name] != self._masked_digest:
                raise PeerViolation(
                    f"the coordinator names another masked vector of hospital {self._name} in {self._terms} than it "
                    "sent: nothing is unmasked"
                )
            self._digests = digests
            return write_confirmation(self._terms, self._name, self._transcript, self._view(), self._signing_key)

    def unmask(self, confirmations: bytes) -> bytes:
        """Step 5: one share for each hospital: of a survivor's self seed, of a dropped one's mask key. Never both.

        Enough survivors must have signed the same list before. This opens the sum of the survivors' vectors to the
        coordinator: it is what the round is for.
        """
        with self._during(_Step.UNMASK):
            signed = read_list(self._terms, confirmations, Kind.CONFIRMATIONS, item_bytes=CONFIRMATION_BYTES)
            if not frozenset(signed) <= frozenset(self._digests) or self._name not in signed:
                raise PeerViolation(f"the coordinator's confirmations of {self._terms} are not the survivors': give up")
            self._require_enough(frozenset(signed), "confirmations")
            for name, message in signed.items():
                check_confirmation(self._terms, name, message, self._transcript, self._view())
            self._history.release(self._terms, frozenset(self._digests))
            # A share of the self seed (second half of a pair) for who is in the sum, of the mask key for who is not:
            # the coordinator can remove the masks of the sum and no others.
            revealed = [
                self._shares[name][SECRET_BYTES:] if name in self._digests else self._shares[name][:SECRET_BYTES]
                for name in self._terms.ordered(frozenset(self._shares))
            ]
            bits = self._view().survivors.to_bytes(BITMAP_BYTES, "little")
            return header(self._terms, Kind.UNMASKING, self._name) + bits + b"".join(revealed)

    def _read_directory(self, directory: bytes, own: RoundSecrets) -> None:
        keys, transcript = read_directory(self._terms, directory)
        self._require_enough(frozenset(keys), "hospitals")
        if keys.get(self._name) != own.publish(self._terms, self._name):
            raise PeerViolation(
                f"the coordinator lists other keys of hospital {self._name} in {self._terms} than its own"
            )
        self._keys, self._transcript = keys, transcript

    def _read_delivery(self, delivery: bytes, own: RoundSecrets) -> None:
        whose = "the coordinator"
        shared = frozenset(self._keys)
        if len(delivery) >= HEADER_BYTES + BITMAP_BYTES:
            bits = int.from_bytes(delivery[HEADER_BYTES : HEADER_BYTES + BITMAP_BYTES], "little")
            shared = self._terms.names(bits, whose=whose)
        size = BITMAP_BYTES + SEALED_BYTES * (len(shared) - 1)
        body = read_body(self._terms, delivery, Kind.DELIVERY, None, body_bytes=size)
        if self._name not in shared or not shared <= frozenset(self._keys):
            raise PeerViolation(f"{whose} delivers shares in {self._terms} of hospitals that advertised no keys")
        self._require_enough(shared, "hospitals with shares")
        others = self._terms.ordered(shared - {self._name})
        self._shares = {self._name: self._own_share}
        for index, name in enumerate(others):
            at = BITMAP_BYTES + index * SEALED_BYTES
            self._shares[name] = self._pairwise().unseal(
                own.sealing_key,
                bytes(body[at : at + SEALED_BYTES]),
                sender=name,
                recipient=self._name,
                peer_key=self._keys[name].sealing,
            )

    def _pairwise(self) -> PairwiseKeys:
        return PairwiseKeys(self._terms, self._transcript)

    def _view(self) -> View:
        return View.make(self._terms, frozenset(self._shares), self._digests)

    def _others(self) -> list[tuple[str, PublicKeys]]:
        return [(name, self._keys[name]) for name in self._terms.members if name in self._keys and name != self._name]

    def _require_enough(self, names: frozenset[str], what: str) -> None:
        if len(names) < self._terms.threshold:
            raise PeerViolation(
                f"the coordinator goes on with {len(names)} {what} in {self._terms}, where {self._terms.threshold} are "
                "needed: nothing is unmasked"
            )

    @contextmanager
    def _during(self, step: _Step) -> Iterator[RoundSecrets]:
        """Let a step run once, in order; forget all secrets when it fails or was the last."""
        own = self._secrets
        if self._step is not step or own is None:
            self._forget()
            raise PeerViolation(
                f"hospital {self._name} was asked to {step.name.lower().replace('_', ' ')} out of turn in "
                f"{self._terms}: run it again with the next attempt"
            )
        self._step = _Step.GIVEN_UP
        try:
            yield own
            self._step = _Step(step + 1)
        finally:
            if self._step in (_Step.GIVEN_UP, _Step.DONE):
                self._forget()

    def _forget(self) -> None:
        self._secrets = None
        self._own_share, self._shares = b"", {}
        if self._step is not _Step.DONE:
            self._step = _Step.GIVEN_UP
