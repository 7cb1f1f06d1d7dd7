"""The coordinator's side of one aggregation: passes messages on, gathers masked vectors, and opens their sum.

`receive` takes what hospitals send, one message of one hospital at a time; a message that it refuses (PeerViolation,
with the hospital's name) leaves the others' work as it is, and the hospital counts as dropped out. `directory`,
`deliveries`, `survivors`, `confirmations` and `opening` each end a stage, and raise AggregationAborted when too few
hospitals are left.
docs/secure-aggregation.md shows both sides beside each other.
"""

import hashlib
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

from contract.errors import AggregationAborted, ComputationFailed, PeerViolation
from federated_learning.secure_aggregation.keys import (
    PublicKeys,
    Transcript,
    View,
    check_confirmation,
    check_distinct,
    check_masked,
    read_advertisement,
)
from federated_learning.secure_aggregation.messages import (
    BITMAP_BYTES,
    HEADER_BYTES,
    SEALED_BYTES,
    Kind,
    header,
    masked_bytes,
    read_body,
    write_survivors,
)
from federated_learning.secure_aggregation.opening import Opening, fits_keys
from federated_learning.secure_aggregation.sharing import SECRET_BYTES, recover
from federated_learning.secure_aggregation.terms import RoundTerms


class _Stage(IntEnum):
    ADVERTISEMENTS = 1
    SHARES = 2
    MASKED = 3
    CONFIRMATIONS = 4
    UNMASKINGS = 5
    DONE = 6


_AWAITED: Final = {
    _Stage.ADVERTISEMENTS: "round keys",
    _Stage.SHARES: "shares",
    _Stage.MASKED: "masked update",
    _Stage.CONFIRMATIONS: "confirmation",
    _Stage.UNMASKINGS: "shares to unmask",
}


class CoordinatorAggregation:
    """Collects one aggregation of `terms`: masked vectors, public keys. Of a hospital's vector it can learn nothing."""

    def __init__(self, terms: RoundTerms) -> None:
        self._terms = terms
        self._stage = _Stage.ADVERTISEMENTS
        self._expected = frozenset(terms.members)
        """Who may send in this stage: who sent in the one before."""
        self._received: dict[str, bytes] = {}
        """The messages of this stage, checked."""
        self._keys: dict[str, PublicKeys] = {}
        self._shared: frozenset[str] = frozenset()
        self._directory = self._confirmations = b""
        self._masked: dict[str, bytes] = {}
        self._digests: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"CoordinatorAggregation({self._terms}, {self._stage.name.lower()})"

    @property
    def awaited(self) -> frozenset[str]:
        """The hospitals whose message of this stage is still to come."""
        return self._expected - frozenset(self._received)

    def receive(self, name: str, message: bytes) -> None:
        """Take one hospital's message of the present stage. Raises PeerViolation naming the hospital."""
        if name not in self._expected:
            raise PeerViolation(
                f"hospital {name[:64]} takes no part in this stage of {self._terms}: it is not in the roster, or "
                "dropped out before"
            )
        if name in self._received:
            raise PeerViolation(f"hospital {name} sent its {_AWAITED[self._stage]} in {self._terms} twice")
        checks: dict[_Stage, Callable[[str, bytes], None]] = {
            _Stage.ADVERTISEMENTS: self._check_advertisement,
            _Stage.SHARES: self._check_shares,
            _Stage.MASKED: self._check_masked,
            _Stage.CONFIRMATIONS: self._check_confirmation,
            _Stage.UNMASKINGS: self._check_unmasking,
        }
        checks[self._stage](name, message)
        self._received[name] = bytes(message)

    def directory(self) -> bytes:
        """End stage 1: everybody's signed keys, the same bytes for all who advertised."""
        self._directory = self._list(Kind.DIRECTORY, self._end(_Stage.ADVERTISEMENTS))
        return self._directory

    def deliveries(self) -> dict[str, bytes]:
        """End stage 2: for each hospital that shared, what the others sealed for it."""
        messages = self._end(_Stage.SHARES)
        self._shared = frozenset(messages)
        start = header(self._terms, Kind.DELIVERY, None)
        start += self._terms.bitmap(self._shared).to_bytes(BITMAP_BYTES, "little")
        sealed = {}
        for sender, message in messages.items():
            others = self._terms.ordered(frozenset(self._keys) - {sender})
            for index, other in enumerate(others):
                sealed[sender, other] = message[HEADER_BYTES + index * SEALED_BYTES :][:SEALED_BYTES]
        order = self._terms.ordered(self._shared)
        return {name: start + b"".join(sealed[sender, name] for sender in order if sender != name) for name in order}

    def survivors(self) -> bytes:
        """End stage 3: who is in the sum, with which vectors, the same bytes for all of them."""
        self._masked = self._end(_Stage.MASKED)
        return write_survivors(self._terms, self._digests)

    def confirmations(self) -> bytes:
        """End stage 4: the survivors' signatures on the list, the same bytes for all who signed."""
        self._confirmations = self._list(Kind.CONFIRMATIONS, self._end(_Stage.CONFIRMATIONS))
        return self._confirmations

    def opening(self) -> Opening:
        """End stage 5: what the sum of the survivors' vectors follows from. `Opening.total` removes the masks.

        This is the one opening of the protocol. The coordinator gets the self seed of who is in the sum and the mask
        key of who is not, never both of one hospital.
        """
        messages = self._end(_Stage.UNMASKINGS)
        secrets = {name: self._recover(messages, name) for name in self._terms.ordered(self._shared)}
        return Opening(
            directory=self._directory,
            survivors=write_survivors(self._terms, self._digests),
            confirmations=self._confirmations,
            secrets=secrets,
            masked=self._masked,
        )

    @property
    def in_sum(self) -> frozenset[str]:
        """The hospitals whose vectors are in the sum, once `survivors` was called."""
        return frozenset(self._masked)

    def _list(self, kind: Kind, messages: Mapping[str, bytes]) -> bytes:
        items = b"".join(messages[name] for name in self._terms.ordered(frozenset(messages)))
        return header(self._terms, kind, None) + items

    def _recover(self, messages: Mapping[str, bytes], owner: str) -> bytes:
        start = HEADER_BYTES + BITMAP_BYTES + SECRET_BYTES * self._terms.ordered(self._shared).index(owner)
        shares = {self._terms.indices[name]: message[start:][:SECRET_BYTES] for name, message in messages.items()}
        secret = recover(
            shares,
            threshold=self._terms.threshold,
            accept=lambda secret: fits_keys(
                self._terms, owner, self._keys[owner], secret, survived=owner in self._masked
            ),
        )
        if secret is None:
            raise ComputationFailed(
                f"the shares of hospital {owner} in {self._terms} do not fit its signed keys: that hospital shared "
                f"wrongly, or one of {', '.join(sorted(messages))} answered wrongly. Run it again over the same "
                "survivors"
            )
        return secret

    def _check_advertisement(self, name: str, message: bytes) -> None:
        keys = read_advertisement(self._terms, name, message)
        check_distinct(self._terms, self._keys | {name: keys})
        self._keys[name] = keys

    def _check_shares(self, name: str, message: bytes) -> None:
        read_body(self._terms, message, Kind.SHARES, name, body_bytes=SEALED_BYTES * (len(self._keys) - 1))

    def _check_masked(self, name: str, message: bytes) -> None:
        read_body(self._terms, message, Kind.MASKED, name, body_bytes=masked_bytes(self._terms))
        self._digests[name] = check_masked(self._terms, name, message)

    def _check_confirmation(self, name: str, message: bytes) -> None:
        transcript = Transcript(hashlib.sha256(self._directory).digest())
        view = View.make(self._terms, self._shared, self._digests)
        check_confirmation(self._terms, name, message, transcript, view)

    def _check_unmasking(self, name: str, message: bytes) -> None:
        size = BITMAP_BYTES + SECRET_BYTES * len(self._shared)
        body = read_body(self._terms, message, Kind.UNMASKING, name, body_bytes=size)
        if body[:BITMAP_BYTES] != self._terms.bitmap(self.in_sum).to_bytes(BITMAP_BYTES, "little"):
            raise PeerViolation(f"hospital {name} unmasks other survivors of {self._terms} than it confirmed")

    def _end(self, stage: _Stage) -> dict[str, bytes]:
        """The messages of a stage, which is then over. Who sent none takes no part in what follows."""
        if self._stage is not stage:
            raise ValueError(f"{self._terms} is at {self._stage.name.lower()}, not at {stage.name.lower()}")
        messages, self._received = self._received, {}
        if len(messages) < self._terms.threshold:
            self._stage, self._expected = _Stage.DONE, frozenset()
            missing = ", ".join(self._terms.ordered(frozenset(self._terms.members) - frozenset(messages)))
            same = " over exactly the same survivors" if stage is _Stage.UNMASKINGS else ""
            raise AggregationAborted(
                f"{self._terms} is given up before anything is unmasked: {len(messages)} hospitals left, "
                f"{self._terms.threshold} are needed. No {_AWAITED[stage]} from {missing}. Run it again{same}, as the "
                "next attempt with fresh keys"
            )
        self._stage = _Stage(stage + 1)
        self._expected = frozenset(messages) if self._stage is not _Stage.DONE else frozenset()
        return messages
