"""What a hospital remembers across rounds, so that no coordinator can make it mask one update under two sums."""

import json
from collections.abc import Callable
from typing import Final

from contract.errors import ConfigurationError, PeerViolation
from federated_learning.secure_aggregation.terms import RoundTerms

_MAX_BYTES: Final = 1 << 20


def _forget(_state: str) -> None:
    """Keep the history in memory only."""


class RoundHistory:
    """The last attempt begun and the last sum released, for each purpose. Holds names and numbers, nothing secret.

    Two sums of the same updates that differ in one hospital would reveal that hospital's update as their difference.
    So a hospital begins each attempt once, and after it helped to unmask a round it unmasks that round again only for
    exactly the same survivors.
    """

    def __init__(self, state: str | None = None, *, save: Callable[[str], None] = _forget) -> None:
        """Continue from `state` as `save` was last given it (JSON). `save` must have stored it when it returns."""
        self._save = save
        self._begun: dict[str, tuple[int, int]] = {}
        self._released: dict[str, tuple[int, int]] = {}
        if state is not None:
            self._restore(state)

    def _restore(self, state: str) -> None:
        try:
            kept = json.loads(state[:_MAX_BYTES])
            for name, target in (("begun", self._begun), ("released", self._released)):
                for purpose, (first, second) in kept[name].items():
                    target[str(purpose)] = (int(first), int(second))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                "the kept history of secure aggregation cannot be read: restore the file, or start a new federation id"
            ) from error

    def begin(self, terms: RoundTerms) -> None:
        """Note that an attempt begins. Raises PeerViolation if it, or a later one, began before."""
        now = (terms.round_number, terms.attempt)
        last = self._begun.get(self._key(terms))
        if last is not None and now <= last:
            raise PeerViolation(
                f"the coordinator asks for {terms} again, after round {last[0]}, attempt {last[1]}: each attempt gets "
                "fresh keys and is run once. Continue with the next attempt"
            )
        self._begun[self._key(terms)] = now
        self._store()

    def release(self, terms: RoundTerms, survivors: int) -> None:
        """Note that shares for the sum of `survivors` (bits) are given away. Raises PeerViolation for a second sum."""
        last = self._released.get(self._key(terms))
        if last is not None and last[0] == terms.round_number and last[1] != survivors:
            raise PeerViolation(
                f"the coordinator asks to unmask round {terms.round_number} ({terms.purpose}) for other survivors than "
                "before: the difference of both sums would be one hospital's update. Continue with the next round"
            )
        self._released[self._key(terms)] = (terms.round_number, survivors)
        self._store()

    @staticmethod
    def _key(terms: RoundTerms) -> str:
        return f"{terms.federation_id}/{terms.purpose}"

    def _store(self) -> None:
        self._save(json.dumps({"begun": self._begun, "released": self._released}, sort_keys=True))
