"""Two ends of a channel inside one process: same contract as the network, for tests, dry runs and benchmarks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from contract.identity import Party, Role
from secure_computation.channel.channel import Channel, Deadlines, Recorder
from secure_computation.channel.stream import BufferedStream, Deadline, InboundBuffer, Piece

DATA_OWNER: Final = Party(role=Role.DATA_OWNER, organisation="hospital")
MODEL_OWNER: Final = Party(role=Role.MODEL_OWNER, organisation="laboratory")
CRYPTO_PROVIDER: Final = Party(role=Role.CRYPTO_PROVIDER, organisation="dealer")
"""Who the three roles are if one process plays them all."""


class MemoryStream(BufferedStream):
    """One end of a pair of buffers. Writing copies and never waits."""

    def __init__(self, inbound: InboundBuffer, outbound: InboundBuffer) -> None:
        """Read from `inbound`, write to `outbound`, which is the other end's inbound."""
        super().__init__(inbound)
        self._outbound = outbound

    @classmethod
    def pair(cls) -> tuple["MemoryStream", "MemoryStream"]:
        """Two connected ends."""
        left, right = InboundBuffer(), InboundBuffer()
        return cls(left, right), cls(right, left)

    def write(self, pieces: Sequence[Piece], deadline: Deadline) -> None:
        """Hand a copy to the other end; PeerDisconnected once either end has closed."""
        for piece in pieces:
            if self._outbound.append(bytes(piece)) is None:
                raise deadline.disconnected("connection closed")

    def close(self) -> None:
        self._outbound.end("connection closed")
        self._inbound.end("connection closed")


def memory_pair(
    left: Party,
    right: Party,
    deadlines: Deadlines | None = None,
    *,
    left_recorder: Recorder | None = None,
    right_recorder: Recorder | None = None,
) -> tuple[Channel, Channel]:
    """The channel that `left` holds and the one that `right` holds. A recorder sees each frame its side receives."""
    left_stream, right_stream = MemoryStream.pair()
    chosen = deadlines or Deadlines()
    return (
        Channel(left_stream, peer=right, deadlines=chosen, recorder=left_recorder),
        Channel(right_stream, peer=left, deadlines=chosen, recorder=right_recorder),
    )


@dataclass(frozen=True, kw_only=True)
class Recorders:
    """Who sees the frames that each online party receives from each peer."""

    data_owner_from_model_owner: Recorder | None = None
    data_owner_from_dealer: Recorder | None = None
    model_owner_from_data_owner: Recorder | None = None
    model_owner_from_dealer: Recorder | None = None


def memory_links(
    deadlines: Deadlines | None = None, recorders: Recorders | None = None
) -> tuple[tuple[Channel, Channel], tuple[Channel, Channel], tuple[Channel, Channel]]:
    """Both ends of P0 - P1, P0 - D and P1 - D."""
    see = recorders or Recorders()
    return (
        memory_pair(
            DATA_OWNER,
            MODEL_OWNER,
            deadlines,
            left_recorder=see.data_owner_from_model_owner,
            right_recorder=see.model_owner_from_data_owner,
        ),
        memory_pair(DATA_OWNER, CRYPTO_PROVIDER, deadlines, left_recorder=see.data_owner_from_dealer),
        memory_pair(MODEL_OWNER, CRYPTO_PROVIDER, deadlines, left_recorder=see.model_owner_from_dealer),
    )


@contextmanager
def closed_on_failure(*channels: Channel) -> Iterator[None]:
    """Let the other roles notice at once when one fails."""
    try:
        yield
    except BaseException:
        for channel in channels:
            channel.close()
        raise
