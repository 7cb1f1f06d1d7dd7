"""One CrypTen session: what belongs to it, and how CrypTen finds it.

CrypTen keeps its communicator, random generators and tuple provider in module globals. Here they live in a `Session`,
found through a context variable, so that any number of sessions run at once in one process, each in its own thread.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from contract.errors import ConfigurationError
from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK, TwoPartyCommunicator
from secure_computation.randomness import Seed


class TupleProvider(Protocol):
    """The part of CrypTen's interface to correlated randomness that is called here; `provider.TupleSource` has all."""

    def generate_additive_triple(
        self, size0: torch.Size, size1: torch.Size, op: str, device: object = None, **options: object
    ) -> tuple[Any, Any, Any]: ...
    def opened_right(self) -> torch.Tensor | None:
        """Delta = y - b of the additive triple given last, if both parties opened it before the session."""

    def generate_binary_triple(
        self, size0: torch.Size, size1: torch.Size, device: object = None
    ) -> tuple[Any, Any, Any]: ...
    def B2A_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]: ...  # noqa: N802 - CrypTen's


class RingStream(Protocol):
    """A `RandomStream`, or what stands in for one in a dry run."""

    def int64(self, shape: tuple[int, ...], /) -> Any: ...


@dataclass(kw_only=True)
class Script:
    """What a CrypTen user's own script may change while its session lasts."""

    autograd: bool = True
    tensor_type: str = "mpc"
    """By CrypTen's name: what `crypten.cryptensor` makes."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from CrypTen's configuration, by dotted name."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything that CrypTen would keep in globals. Rank 0 is the data owner, rank 1 the model owner."""

    communicator: TwoPartyCommunicator
    provider: TupleProvider
    streams: Mapping[str, RingStream]
    """See `agree_on_streams`; an engine draws nothing from `global`."""
    script: Script | None = None
    """None in an engine's session: no autograd, and CrypTen's configuration as it comes."""


def agree_on_streams(peer: Channel, *, item: str, rank: int) -> dict[str, RingStream]:
    """P0 <-> P1: each sends the other one fresh seed, which D must not know. A name of a stream is bound to its use.

    What one party draws as `next`, for sharings of zero, the other draws as `prev`; `global` is rank 0's seed, known to
    both, for what is public and random; `local` is drawn from a seed that stays here. `item`: name of the material.
    """
    own = Seed.fresh()
    peer.send_seed(own.reveal_to_channel(), step="zero-sharing seed")
    other = Seed(peer.receive_seed(step="zero-sharing seed"))
    common = own if rank == DATA_OWNER_RANK else other
    return {
        "next": own.stream(item=item, step=0, label="zero sharing"),
        "prev": other.stream(item=item, step=0, label="zero sharing"),
        "global": common.stream(item=item, step=0, label="public randomness"),
        "local": Seed.fresh().stream(item=item, step=0, label="local"),
    }


_current: ContextVar[Session] = ContextVar("crypten_session")


def current_session() -> Session:
    """Return the session of this thread. Raises ConfigurationError outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise ConfigurationError(
            "CrypTen was used outside of a session; wrap the computation in crypten_bridge.session.activate(...)"
        ) from None


def find_script() -> Script | None:
    """What the script of this thread may change; None outside of a script's session."""
    session = _current.get(None)
    return None if session is None else session.script


def current_script() -> Script:
    """What the script of this thread may change. Raises ConfigurationError outside of a script's session."""
    script = current_session().script
    if script is None:
        raise ConfigurationError("an engine's session computes with CrypTen's settings as they are; nothing is changed")
    return script


@contextmanager
def activate(session: Session) -> Iterator[None]:
    """Make `session` the one that CrypTen uses in this thread until the block ends."""
    token = _current.set(session)
    try:
        yield
    finally:
        _current.reset(token)
