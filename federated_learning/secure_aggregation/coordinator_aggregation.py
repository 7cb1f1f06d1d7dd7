"""The coordinator's side of one aggregation: passes messages on, gathers masked vectors, and opens their sum.

`receive` takes what hospitals send, one message of one hospital at a time; a message that it refuses (PeerViolation,
with the hospital's name) leaves the others' work as it is, and the hospital counts as dropped out. `directory`,
`deliveries`, `survivors`, `confirmations` and `opening` each end a stage, and raise AggregationAborted when too few
hospitals are left.
docs/secure-aggregation.md shows both sides beside each other.
"""

import hashlib
from collections.abc import Callable
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
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.messages import (
    BITMAP_BYTES,
    SEALED_BYTES,
    Kind,
    header,
    masked_bytes,
    read_body,
    write_survivors,
)
from federated_learning.secure_aggregation.opening import Fits, Opening, fits_commitment, fits_mask_key
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
        self._keys: dict[str, PublicKeys] = {}
        self._transcript = Transcript(b"")
        self._messages: dict[str, bytes] = {}
        self._sealed: dict[str, dict[str, bytes]] = {}
        self._shared: frozenset[str] = frozenset()
        self._directory = self._confirmations = b""
        self._masked: dict[str, bytes] = {}
        self._digests: dict[str, bytes] = {}
        self._survivors: frozenset[str] = frozenset()
        self._revealed: dict[str, list[bytes]] = {}

    def __repr__(self) -> str:
        return f"CoordinatorAggregation({self._terms}, {self._stage.name.lower()})"

    @property
    def awaited(self) -> frozenset[str]:
        """The hospitals whose message of this stage is still to come."""
        return self._expected() - frozenset(self._received())

    def receive(self, name: str, message: bytes) -> None:
        """Take one hospital's message of the present stage. Raises PeerViolation naming the hospital."""
        if name not in self._expected():
            raise PeerViolation(
                f"hospital {name[:64]} takes no part in this stage of {self._terms}: it is not in the roster, or "
                "dropped out before"
            )
        if name in self._received():
            raise PeerViolation(f"hospital {name} sent its {_AWAITED[self._stage]} in {self._terms} twice")
        takers: dict[_Stage, Callable[[str, bytes], None]] = {
            _Stage.ADVERTISEMENTS: self._take_advertisement,
            _Stage.SHARES: self._take_shares,
            _Stage.MASKED: self._take_masked,
            _Stage.CONFIRMATIONS: self._take_confirmation,
            _Stage.UNMASKINGS: self._take_unmasking,
        }
        takers[self._stage](name, message)

    def directory(self) -> bytes:
        """End stage 1: everybody's signed keys, the same bytes for all who advertised."""
        present = self._end(_Stage.ADVERTISEMENTS, frozenset(self._keys))
        items = b"".join(self._messages[name] for name in self._terms.ordered(present))
        self._directory = header(self._terms, Kind.DIRECTORY, None) + items
        self._transcript = Transcript(hashlib.sha256(self._directory).digest())
        self._messages = {}
        return self._directory

    def deliveries(self) -> dict[str, bytes]:
        """End stage 2: for each hospital that shared, what the others sealed for it."""
        self._shared = self._end(_Stage.SHARES, frozenset(self._sealed))
        start = header(self._terms, Kind.DELIVERY, None)
        start += self._terms.bitmap(self._shared).to_bytes(BITMAP_BYTES, "little")
        order = self._terms.ordered(self._shared)
        deliveries = {
            name: start + b"".join(self._sealed[sender][name] for sender in order if sender != name) for name in order
        }
        self._sealed = {}
        return deliveries

    def survivors(self) -> bytes:
        """End stage 3: who is in the sum, with which vectors, the same bytes for all of them."""
        self._survivors = self._end(_Stage.MASKED, frozenset(self._masked))
        return write_survivors(self._terms, self._digests)

    def confirmations(self) -> bytes:
        """End stage 4: the survivors' signatures on the list, the same bytes for all who signed."""
        present = self._end(_Stage.CONFIRMATIONS, frozenset(self._messages))
        items = b"".join(self._messages[name] for name in self._terms.ordered(present))
        self._confirmations = header(self._terms, Kind.CONFIRMATIONS, None) + items
        return self._confirmations

    def opening(self) -> Opening:
        """End stage 5: what the sum of the survivors' vectors follows from. `Opening.total` removes the masks.

        This is the one opening of the protocol. The coordinator gets the self seed of who is in the sum and the mask
        key of who is not, never both of one hospital.
        """
        self._end(_Stage.UNMASKINGS, frozenset(self._revealed))
        secrets = {
            name: self._recover(name, fits_commitment if name in self._survivors else fits_mask_key)
            for name in self._terms.ordered(self._shared)
        }
        self._revealed = {}
        return Opening(
            directory=self._directory,
            survivors=write_survivors(self._terms, self._digests),
            confirmations=self._confirmations,
            secrets=secrets,
            masked=self._masked,
        )

    def total(self) -> RingVector:
        """The sum that `opening` gives, checked as every hospital checks it."""
        return self.opening().total(self._terms)[0]

    @property
    def in_sum(self) -> frozenset[str]:
        """The hospitals whose vectors are in the sum, once `survivors` was called."""
        return self._survivors

    def _recover(self, owner: str, fits: Fits) -> bytes:
        position = self._terms.ordered(self._shared).index(owner)
        shares = {self._terms.indices[holder]: revealed[position] for holder, revealed in self._revealed.items()}
        secret = recover(
            shares,
            threshold=self._terms.threshold,
            accept=lambda secret: fits(self._terms, owner, self._keys[owner], secret),
        )
        if secret is None:
            raise ComputationFailed(
                f"the shares of hospital {owner} in {self._terms} do not fit its signed keys: that hospital shared "
                f"wrongly, or one of {', '.join(sorted(self._revealed))} answered wrongly. Run it again over the same "
                "survivors"
            )
        return secret

    def _take_advertisement(self, name: str, message: bytes) -> None:
        keys = read_advertisement(self._terms, name, message)
        check_distinct(self._terms, self._keys | {name: keys})
        self._keys[name] = keys
        self._messages[name] = bytes(message)

    def _take_shares(self, name: str, message: bytes) -> None:
        others = self._terms.ordered(frozenset(self._keys) - {name})
        body = read_body(self._terms, message, Kind.SHARES, name, body_bytes=SEALED_BYTES * len(others))
        self._sealed[name] = {
            other: bytes(body[index * SEALED_BYTES : (index + 1) * SEALED_BYTES]) for index, other in enumerate(others)
        }

    def _take_masked(self, name: str, message: bytes) -> None:
        read_body(self._terms, message, Kind.MASKED, name, body_bytes=masked_bytes(self._terms))
        self._digests[name] = check_masked(self._terms, name, message)
        self._masked[name] = message

    def _take_confirmation(self, name: str, message: bytes) -> None:
        view = View.of(self._terms, self._shared, self._digests)
        check_confirmation(self._terms, name, message, self._transcript, view)
        self._messages[name] = bytes(message)

    def _take_unmasking(self, name: str, message: bytes) -> None:
        size = SECRET_BYTES * len(self._shared)
        body = read_body(self._terms, message, Kind.UNMASKING, name, body_bytes=BITMAP_BYTES + size)
        if body[:BITMAP_BYTES] != self._bits():
            raise PeerViolation(f"hospital {name} unmasks other survivors of {self._terms} than it confirmed")
        self._revealed[name] = [
            bytes(body[at : at + SECRET_BYTES]) for at in range(BITMAP_BYTES, len(body), SECRET_BYTES)
        ]

    def _bits(self) -> bytes:
        return self._terms.bitmap(self._survivors).to_bytes(BITMAP_BYTES, "little")

    def _expected(self) -> frozenset[str]:
        """Who may send in this stage."""
        return {
            _Stage.ADVERTISEMENTS: frozenset(self._terms.members),
            _Stage.SHARES: frozenset(self._keys),
            _Stage.MASKED: self._shared,
            _Stage.CONFIRMATIONS: self._survivors,
            _Stage.UNMASKINGS: frozenset(self._messages),
            _Stage.DONE: frozenset[str](),
        }[self._stage]

    def _received(self) -> frozenset[str]:
        """Who has sent in this stage."""
        return {
            _Stage.ADVERTISEMENTS: frozenset(self._keys),
            _Stage.SHARES: frozenset(self._sealed),
            _Stage.MASKED: frozenset(self._masked),
            _Stage.CONFIRMATIONS: frozenset(self._messages),
            _Stage.UNMASKINGS: frozenset(self._revealed),
            _Stage.DONE: frozenset[str](),
        }[self._stage]

    def _end(self, stage: _Stage, present: frozenset[str]) -> frozenset[str]:
        if self._stage is not stage:
            raise ValueError(f"{self._terms} is at {self._stage.name.lower()}, not at {stage.name.lower()}")
        if len(present) < self._terms.threshold:
            self._stage = _Stage.DONE
            missing = ", ".join(self._terms.ordered(frozenset(self._terms.members) - present))
            same = " over exactly the same survivors" if stage is _Stage.UNMASKINGS else ""
            raise AggregationAborted(
                f"{self._terms} is given up before anything is unmasked: {len(present)} hospitals left, "
                f"{self._terms.threshold} are needed. No {_AWAITED[stage]} from {missing}. Run it again{same}, as the "
                "next attempt with fresh keys"
            )
        self._stage = _Stage(stage + 1)
        return present
