"""Whether the party at the other end is one that this party meant."""

from typing import TypeAlias

from contract.errors import CertificateRefused, PeerViolation
from contract.identity import Party, Role
from plumbing.words_for_others import without_places
from secure_computation.channel.channel import Channel, Deadlines, Recorder
from secure_computation.channel.stream import Deadline
from secure_computation.channel.tls import TlsStream

HANDSHAKE_STEP = "tls handshake"

Expected: TypeAlias = Party | Role | tuple[Party | Role, ...]
"""Whom a connection may end at: one party, anybody of a role, or any of several."""


def describe(expected: Expected) -> str:
    """The expected party in words."""
    if isinstance(expected, tuple):
        return " or ".join(describe(one) for one in expected)
    return str(expected) if isinstance(expected, Party) else f"a {expected.value}"


def require_identity(channel: Channel, expected: Expected, *, found_at: str, step: str) -> None:
    """Raise PeerViolation, and tell the peer, unless its certificate names an expected party."""
    allowed = expected if isinstance(expected, tuple) else (expected,)
    if channel.peer in allowed or channel.peer.role in allowed:
        return
    error = PeerViolation(
        f"{found_at} is {channel.peer}, but {describe(expected)} was expected: check the address and who may connect"
    )
    _tell(channel, error, found_at=found_at, step=step)
    raise error


def _tell(channel: Channel, error: PeerViolation, *, found_at: str, step: str) -> None:
    """Why the other end is refused; not where this one sees it, which may be a machine in between."""
    channel.send_error(error.code, without_places(str(error).replace(found_at, "the other end")), step=step)


def open_channel(
    stream: TlsStream,
    *,
    expect: Expected,
    found_at: str,
    deadline: Deadline,
    deadlines: Deadlines,
    recorder: Recorder | None = None,
) -> Channel:
    """Shake hands and return the channel, to a party that this party meant and whose certificate is good.

    Args:
        stream: not yet used.
        expect: whom it may end at.
        found_at: the other end in words, whoever it is.
        deadline: of the handshake.
        deadlines: of the channel.
        recorder: see Channel.

    Raises what `TlsStream.handshake` raises, and PeerViolation for another party; the peer is told either.
    """
    try:
        party = stream.handshake(deadline)
    except CertificateRefused as error:
        if error.party_uri:
            refused = Channel(stream, peer=Party.from_uri(error.party_uri), deadlines=deadlines)
            _tell(refused, error, found_at=found_at, step=HANDSHAKE_STEP)
        raise
    channel = Channel(stream, peer=party, deadlines=deadlines, recorder=recorder)
    require_identity(channel, expect, found_at=found_at, step=HANDSHAKE_STEP)
    return channel
