"""What a party that does not follow the protocol does with an open channel, in the place of sending a 32-byte seed."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from contract.errors import EncryptedInferenceError
from secure_computation.channel.channel import Channel
from secure_computation.channel.stream import Deadline
from secure_computation.wire import Phase

Deed = Callable[[Channel], None]


def disconnect(channel: Channel) -> None:
    channel.close()


def stall(channel: Channel) -> None:
    """Say nothing until the other end gives up."""
    with suppress(EncryptedInferenceError):
        while True:
            channel._stream.read_some(Deadline(peer="the peer", step="stall", seconds=15))


def send_garbage(channel: Channel) -> None:
    channel._stream.write([b"\xc3" * 64], Deadline(peer="the peer", step="garbage", seconds=5))


def send_wrong_step(channel: Channel) -> None:
    channel.send_seed(bytes(32), step="something else")


def send_wrong_kind(channel: Channel) -> None:
    channel.send_tensor(np.zeros(4, np.int64), step="zero-sharing seed")


def send_wrong_phase(channel: Channel) -> None:
    channel.set_phase(Phase.OUTPUT)
    channel.send_seed(bytes(32), step="zero-sharing seed")


def report(channel: Channel) -> None:
    channel.send_error("computation-failed", "the disk is full; try again later", step="any")


VIOLATIONS: dict[str, tuple[Deed, str]] = {
    "garbage": (send_garbage, "what it sent is not a frame"),
    "wrong step": (send_wrong_step, "broke the protocol in step"),
    "wrong kind": (send_wrong_kind, "broke the protocol in step"),
    "wrong phase": (send_wrong_phase, "broke the protocol in step"),
}
"""By name: the deed, and what the other end says of it."""


class Sabotage(EncryptedInferenceError):
    """Ends the honest code of a party that has misbehaved."""


SENDING = ("send_tensor", "exchange_tensor", "send_bytes", "send_seed", "send_hello", "send_end")


def sabotage(channel: Channel, phase: Phase, deed: Deed) -> Channel:
    """Let an honest party do `deed` in the place of the first frame that it would send in `phase`.

    What it says afterwards comes too late: the channel stays open until the other end has drawn its conclusion.
    """
    honest = {name: getattr(channel, name) for name in SENDING}

    def instead(name: str) -> Callable[..., Any]:
        def send(*arguments: Any, **named: Any) -> Any:
            if channel._phase is not phase:
                return honest[name](*arguments, **named)
            for other, method in honest.items():
                setattr(channel, other, method)
            deed(channel)
            stall(channel)
            raise Sabotage("the test made this party misbehave: expected")

        return send

    for name in SENDING:
        setattr(channel, name, instead(name))
    return channel
