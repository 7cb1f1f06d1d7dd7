"""What a hospital remembers across rounds, so that no coordinator can make it mask one update under two sums."""

import json
from collections.abc import Callable
from typing import Final

from contract.errors import ConfigurationError, PeerViolation
from federated_learning.secure_aggregation.terms import RoundTerms

MAX_BYTES: Final = 1 << 26
"""Some 300,000 sums."""


class RoundHistory:
    """The last attempt begun in each training, and with whom every subject was summed. Hashes, nothing secret.

    Two sums of the same vectors that differ in one hospital would reveal that hospital's vector as their difference.
    So a hospital begins each attempt once, and after it helped to open a sum it opens sums of the same purpose and
    subject, be it in another round, run or training, for exactly the same hospitals only. Nor does it put another
    vector into the same sum of the same round, say after its images changed: the difference would be its own change.
    """

    def __init__(self, state: str | None = None, *, save: Callable[[str], None] = lambda _state: None) -> None:
        """Continue from `state` as `save` was last given it (JSON). `save` must have stored it when it returns."""
        self._save = save
        self._begun: dict[str, tuple[int, int]] = {}
        self._opened: dict[str, str] = {}
        self._vectors: dict[str, str] = {}
        if state is not None:
            self._restore(state)

    def _restore(self, state: str) -> None:
        try:
            kept = json.loads(state[:MAX_BYTES])
            self._begun = {str(key): (int(first), int(second)) for key, (first, second) in kept["begun"].items()}
            self._opened = {str(key): str(group) for key, group in kept["opened"].items()}
            self._vectors = {str(key): str(digest) for key, digest in kept["vectors"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigurationError(
                "the kept history of secure aggregation cannot be read: restore the file, or start again in an empty "
                "state folder, with another seed, so that nothing is summed twice"
            ) from error

    def begin(self, terms: RoundTerms) -> None:
        """Note that an attempt begins. Raises PeerViolation if it, or a later one, began before."""
        now, place = (terms.round_number, terms.attempt), f"{terms.training_id}/{terms.purpose}"
        last = self._begun.get(place)
        if last is not None and now <= last:
            raise PeerViolation(
                f"the coordinator asks for {terms} again, after round {last[0]}, attempt {last[1]}: each attempt gets "
                "fresh keys and is run once. Continue with the next attempt"
            )
        self._begun[place] = now
        self.keep()

    def answer(self, terms: RoundTerms, vector: str, *, may_change: bool = False) -> None:
        """Note what the answer is (a hash), before it is sent masked. Raises PeerViolation for another than before.

        When the sum is opened it is too late: the others' shares are enough for that. One that `may_change` may do so
        from run to run, and not within one.
        """
        place = f"{terms.purpose}/{terms.subject.hex()}/{terms.round_number}"
        if may_change:
            place += f"/{terms.training_id}"
        if self._vectors.setdefault(place, vector) != vector:
            raise PeerViolation(
                f"in {terms}, this hospital had another answer to the same question before: its images, or what it "
                "kept of its training, changed since, and the difference of two sums would tell how. Start a new run "
                "with another training.seed"
            )
        self.keep()

    def release(self, terms: RoundTerms, survivors: frozenset[str]) -> None:
        """Note that shares for the sum of `survivors` are given away. Raises PeerViolation for a second sum."""
        key, group = f"{terms.purpose}/{terms.subject.hex()}", terms.group(survivors)
        if self._opened.setdefault(key, group) != group:
            raise PeerViolation(
                f"the coordinator asks to unmask {terms} for other hospitals than those with whom this hospital has "
                "answered the same question before: the difference of both sums would be one hospital's vector. Run it "
                "again with exactly those hospitals, or start a new run with another training.seed"
            )
        self.keep()

    def keep(self) -> None:
        """Save, also if nothing is remembered yet: a history that is missing later was lost."""
        kept = {"begun": self._begun, "opened": self._opened, "vectors": self._vectors}
        self._save(json.dumps(kept, sort_keys=True))
