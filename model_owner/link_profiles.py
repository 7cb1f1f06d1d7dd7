"""Links between parties: what they are like, and what a computation costs over them.

seconds = trips x latency + bytes in line / bandwidth + computing

Plain arithmetic over what the engines declare or count; `scripts/bench networks` holds it against measurements.
"""

from typing import Annotated, Final

from pydantic import Field

from contract.base import Strict
from contract.errors import CallerError

MAX_MILLISECONDS: Final = 2_000.0
"""One way. A satellite takes 270."""
MIN_MEGABITS, MAX_MEGABITS = 0.1, 400_000.0

Milliseconds = Annotated[float, Field(ge=0.0, le=MAX_MILLISECONDS)]
Megabits = Annotated[float, Field(ge=MIN_MEGABITS, le=MAX_MEGABITS)]


class LinkProfile(Strict):
    """What lies between two parties: the same in both directions, which do not disturb each other."""

    name: str
    one_way_milliseconds: Milliseconds
    """Latency. Half of what `ping` says."""
    megabits_per_second: Megabits | None
    """Rate of each direction; None: no limit."""

    @property
    def latency_seconds(self) -> float:
        """One way."""
        return self.one_way_milliseconds / 1e3

    @property
    def bytes_per_second(self) -> float | None:
        return None if self.megabits_per_second is None else self.megabits_per_second * 1e6 / 8

    def words(self) -> str:
        if self == LOOPBACK:
            return self.name
        rate = "no limit" if self.megabits_per_second is None else f"{self.megabits_per_second:g} Mbit/s"
        return f"{self.name} ({rate}, {self.one_way_milliseconds:g} ms one way)"


LOOPBACK: Final = LinkProfile(name="loopback", one_way_milliseconds=0.0, megabits_per_second=None)
LINKS: Final = (
    LOOPBACK,
    LinkProfile(name="lan", one_way_milliseconds=1.0, megabits_per_second=1_000.0),
    LinkProfile(name="hospital", one_way_milliseconds=10.0, megabits_per_second=100.0),
    LinkProfile(name="wan", one_way_milliseconds=20.0, megabits_per_second=100.0),
    # AriaNN's tables say "WAN 70 ms" and name no rate. We read the 70 ms as one way, the reading that is harder for us.
    # Its ResNet-18 takes 4.2 s longer there than on its LAN, with 148 MB: no less than 280 Mbit/s. We take fewer.
    LinkProfile(name="ariann-wan", one_way_milliseconds=70.0, megabits_per_second=100.0),
)
"""The profiles, by name. The hospital's is an uplink as clinics have; the others are usual in the literature."""


def find_link(text: str) -> LinkProfile:
    """A profile by its name, or a link spelt out: `latency_ms=15,mbit=50`. Raises CallerError for anything else."""
    named = {link.name: link for link in LINKS}
    if text in named:
        return named[text]
    known = f"give one of {', '.join(named)}, or say latency_ms=15,mbit=50"
    values: dict[str, float] = {}
    for part in text.split(","):
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or key not in {"latency_ms", "mbit"} or key in values:
            raise CallerError(f"unknown network '{text[:60]}': {known}")
        try:
            values[key] = float(value)
        except ValueError:
            raise CallerError(f"network '{text[:60]}': {key} is not a number; {known}") from None
    if values.keys() != {"latency_ms", "mbit"}:
        raise CallerError(f"network '{text[:60]}' needs both a latency and a rate: {known}")
    latency, rate = values["latency_ms"], values["mbit"]
    if not 0.0 <= latency <= MAX_MILLISECONDS:
        raise CallerError(f"network '{text[:60]}': latency_ms must be from 0 to {MAX_MILLISECONDS:g}, one way")
    if not MIN_MEGABITS <= rate <= MAX_MEGABITS:
        raise CallerError(f"network '{text[:60]}': mbit must be from {MIN_MEGABITS:g} to {MAX_MEGABITS:g}")
    return LinkProfile(name=f"{latency:g}ms-{rate:g}mbit", one_way_milliseconds=latency, megabits_per_second=rate)


class PhaseCost(Strict):
    """What one phase of a computation costs, whatever lies between the parties."""

    trips: Annotated[int, Field(ge=0)]
    """Messages on the longest chain in which each waits for the one before."""
    bytes_in_line: Annotated[int, Field(ge=0)]
    """What has to pass one after another: the sum of both directions if the parties take turns, the larger one
    if both send at once, and of links that work at the same time the busiest."""
    computing_seconds: Annotated[float, Field(ge=0.0)]
    """Without a network: on loopback, measured or estimated."""

    def seconds_over(self, link: LinkProfile) -> float:
        """Seconds that the phase takes where this link is between every two parties."""
        transfer = 0.0 if link.bytes_per_second is None else self.bytes_in_line / link.bytes_per_second
        return self.trips * link.latency_seconds + transfer + self.computing_seconds
