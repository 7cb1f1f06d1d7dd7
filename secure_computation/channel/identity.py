"""Whether the party at the other end is one that this party meant."""

from typing import TypeAlias

from contract.errors import PeerViolation
from contract.identity import Party, Role
from secure_computation.channel.channel import Channel

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
        f"{found_at} is {channel.peer}, where {describe(expected)} was expected: check the address and who may connect"
    )
    channel.send_error(error.code, str(error), step=step)
    raise error
