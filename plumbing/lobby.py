"""A bounded number of guests whom nobody has vouched for yet: connections without an identity, channels without a
ticket.

Nobody who comes is refused for those who came before and only wait: if a seat is missing, the guest that has waited
longest makes room, among those of the same origin first. Who is quick to say who it is, as every honest party is, gets
in among any number that are not.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

_NEIGHBOURS = 64
"""Leading bits of an IPv6 address that one customer of a network has for itself: all behind them are one origin."""


@dataclass(frozen=True)
class _Guest:
    origin: str
    leave: Callable[[], None]


@dataclass(repr=False, eq=False)
class Lobby:
    """Seats for guests, in order of arrival. For use by several threads."""

    seats: int
    seats_each: int
    """For those of one origin."""
    _guests: dict[Hashable, _Guest] = field(default_factory=dict, init=False)
    _counts: Counter[str] = field(default_factory=Counter, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._guests)

    def enter(self, guest: Hashable, origin: str, leave: Callable[[], None]) -> None:
        """Take a seat. `leave` makes the guest go; it is called, in any thread, when its seat is needed."""
        with self._lock:
            shown_out = self._whoever_makes_room(origin)
            self._guests[guest] = _Guest(origin, leave)
            self._counts[origin] += 1
        if shown_out is not None:
            shown_out.leave()

    def let_go(self, guest: Hashable) -> None:
        """Free the guest's seat, if it still has one."""
        with self._lock:
            self._remove(guest)

    def _whoever_makes_room(self, origin: str) -> _Guest | None:
        if self._counts[origin] >= self.seats_each:
            crowd = origin
        elif len(self._guests) >= self.seats:
            crowd = max(self._counts, key=self._counts.__getitem__)
        else:
            return None
        return self._remove(next(guest for guest, seat in self._guests.items() if seat.origin == crowd))

    def _remove(self, guest: Hashable) -> _Guest | None:
        seat = self._guests.pop(guest, None)
        if seat is not None:
            self._counts[seat.origin] -= 1
            if not self._counts[seat.origin]:
                del self._counts[seat.origin]
        return seat


def find_origin(host: str | None) -> str:
    """Which origin an IP address counts for: itself, or its network's /64; one for all if there is none."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, _NEIGHBOURS), strict=False))
