"""Counting: bytes, frames and one-way trips of a channel, by phase."""

from dataclasses import dataclass

from secure_computation.wire import Phase


@dataclass(frozen=True, kw_only=True)
class ChannelTraffic:
    """What a channel carried, seen from one end. Bytes are those of frames, header and body, before encryption."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    one_way_trips: int = 0
    """Length of the longest chain of frames in which each was sent after the one before had been received: a
    simultaneous exchange is one, a request and its reply are two. Equal at both ends once all frames have arrived."""

    def __add__(self, other: "ChannelTraffic") -> "ChannelTraffic":
        """Sum, for phases that follow each other."""
        return ChannelTraffic(
            bytes_sent=self.bytes_sent + other.bytes_sent,
            bytes_received=self.bytes_received + other.bytes_received,
            frames_sent=self.frames_sent + other.frames_sent,
            frames_received=self.frames_received + other.frames_received,
            one_way_trips=self.one_way_trips + other.one_way_trips,
        )


class Meter:
    """Counts one phase of one channel. The trips are a Lamport clock whose time every frame carries."""

    def __init__(self) -> None:
        self._bytes_sent = self._bytes_received = self._frames_sent = self._frames_received = 0
        self._depth_sent = self._depth_received = 0

    def next_depth(self) -> int:
        """Depth that the next frame sent carries: one more than the deepest received."""
        return self._depth_received + 1

    def is_possible(self, depth: int) -> bool:
        """Whether an honest peer's next frame can carry `depth`: its clock never runs backwards or ahead of ours."""
        return max(1, self._depth_received) <= depth <= self._depth_sent + 1

    def count_sent(self, size: int, depth: int) -> None:
        """Note a frame of `size` bytes sent."""
        self._bytes_sent += size
        self._frames_sent += 1
        self._depth_sent = max(self._depth_sent, depth)

    def count_received(self, size: int, depth: int) -> None:
        """Note a frame of `size` bytes received."""
        self._bytes_received += size
        self._frames_received += 1
        self._depth_received = max(self._depth_received, depth)

    def traffic(self) -> ChannelTraffic:
        """Snapshot."""
        return ChannelTraffic(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            frames_sent=self._frames_sent,
            frames_received=self._frames_received,
            one_way_trips=max(self._depth_sent, self._depth_received),
        )


def new_meters() -> dict[Phase, Meter]:
    """One meter for each phase."""
    return {phase: Meter() for phase in Phase}
