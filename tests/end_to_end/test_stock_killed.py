"""Parties that are killed at each message while they stock an item or spend one. No item is ever used twice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contract.errors import EncryptedInferenceError, PeerReported
from contract.identity import Role
from secure_computation.channel.channel import Channel
from secure_computation.wire import Phase
from tests.end_to_end.federation import (
    SHORT,
)
from tests.end_to_end.stocking import Parties, answer


class Killed(Exception):
    """Ends a party without a word: nothing handles it."""


@dataclass
class Killer:
    """Ends the party with `peer` at the other end at its n-th message, before or after it crosses."""

    peer: Role
    number: int
    after: bool
    seen: int = 0
    online: set[Role] = field(default_factory=set)
    """Who sent in the online phase, by the peer's role."""

    def cross(self, channel: Channel, cross: Callable[[], Any], *, sends: bool) -> Any:
        if channel.peer.role is not self.peer:
            if sends and channel._phase is Phase.ONLINE:
                self.online.add(channel.peer.role)
            return cross()
        self.seen += 1
        dies = self.seen > self.number
        if dies and not (self.after and self.seen == self.number + 1):
            raise Killed
        if sends and channel._phase is Phase.ONLINE:
            self.online.add(channel.peer.role)
        result = cross()
        if dies:
            raise Killed
        return result

    @contextmanager
    def at_work(self) -> Iterator[None]:
        send, receive = Channel._send, Channel._receive

        def killing_send(channel: Channel, *arguments: Any) -> None:
            self.cross(channel, lambda: send(channel, *arguments), sends=True)

        def killing_receive(channel: Channel, *arguments: Any, **named: Any) -> Any:
            return self.cross(channel, lambda: receive(channel, *arguments, **named), sends=False)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Channel, "_send", killing_send)
            patch.setattr(Channel, "_receive", killing_receive)
            yield


MESSAGES = 10
"""Between both owners in a stocked diagnosis of the tiny model: ticket, item, answer, image, two openings and answers,
the output share, the end.
"""
POINTS = [(peer, number, after) for peer in ("p0", "p1") for number in range(MESSAGES) for after in (False, True)]
SAMPLE = {("p0", 1, True), ("p0", 3, True), ("p1", 2, False), ("p1", 4, False)}


def slow_unless(sample: set[tuple[str, int, bool]], points: list[tuple[str, int, bool]]) -> list[Any]:
    return [pytest.param(*point, marks=[] if point in sample else [pytest.mark.slow]) for point in points]


@pytest.mark.parametrize(("party", "number", "after"), slow_unless(SAMPLE, POINTS))
def test_a_party_killed_in_a_diagnosis_takes_its_item_with_it(
    parties: Parties, chest: Path, party: str, number: int, *, after: bool
) -> None:
    parties.stock()
    (item,) = parties.items(parties.data_owner_stock)
    killer = Killer(Role.MODEL_OWNER if party == "p0" else Role.DATA_OWNER, number, after)
    with killer.at_work(), suppress(Killed, EncryptedInferenceError):
        parties.diagnose(chest, waiting=SHORT)
    assert killer.seen > number
    for owner, folder in (("p0", parties.data_owner_stock), ("p1", parties.model_owner_stock)):
        assert parties.consumed(owner, item) or item in parties.items(folder), "neither consumed nor unused"
        if killer.online:
            assert parties.consumed(owner, item)
    unused, spent_at_model_owner = not parties.consumed("p0", item), parties.consumed("p1", item)
    parties.check(parties.diagnose(chest), chest, stocked=unused)
    if spent_at_model_owner:
        with pytest.raises(PeerReported, match="never used twice"):
            answer(parties, item)
    parties.never_twice()


PREPARING = [(party, number, after) for party in ("p0", "p1") for number in range(9) for after in (False, True)]


@pytest.mark.parametrize(("party", "number", "after"), slow_unless({("p0", 7, True), ("p1", 6, False)}, PREPARING))
def test_a_party_killed_while_it_stocks_harms_nobody(
    parties: Parties, chest: Path, party: str, number: int, *, after: bool
) -> None:
    killer = Killer(Role.MODEL_OWNER if party == "p0" else Role.DATA_OWNER, number, after)
    with killer.at_work(), suppress(Killed, EncryptedInferenceError):
        parties.stock(waiting=SHORT)
    assert killer.seen > 0
    for _ in range(2):
        diagnosis = parties.diagnose(chest)
        parties.check(diagnosis, chest, stocked=diagnosis.stocked)
    assert parties.items(parties.data_owner_stock) == []
    parties.never_twice()
