"""How far a diagnosis is: whom it tells, and how its user gives it up from another thread."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from contract.errors import SessionCancelled

if TYPE_CHECKING:  # takes long to load, and the clinician's page is up before it
    from secure_computation.channel.channel import Channel
    from secure_computation.engines.interface import OnLayer


class Stage(StrEnum):
    """What a diagnosis does now."""

    READING = "reading"
    OPENING = "opening"
    """A session, at the front end."""
    FROM_STOCK = "from-stock"
    """Material that was prepared ahead is fetched."""
    PREPARING = "preparing"
    """Material is made for this session."""
    COMPUTING = "computing"


OnStage = Callable[[Stage], None]
"""Told which stage begins."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Whom to tell how far a diagnosis is."""

    stage: OnStage
    layer: "OnLayer"

    def until(self, cancellation: "Cancellation") -> "Progress":
        """The same, that raises SessionCancelled at the first stage or layer after the session was given up."""

        def stage(begins: Stage) -> None:
            cancellation.check()
            self.stage(begins)

        def layer(index: int, total: int, name: str) -> None:
            cancellation.check()
            self.layer(index, total, name)

        return Progress(stage=stage, layer=layer)


class Cancellation:
    """One session's, or one file's: it cannot be taken back."""

    def __init__(self) -> None:
        """Not cancelled."""
        self._lock = threading.Lock()
        self._cancelled = False
        self._channels: list[Channel] = []

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Wake whoever waits for a peer, and stop at the next layer. May be called from anywhere, more than once."""
        with self._lock:
            self._cancelled = True
            channels = tuple(self._channels)
        for channel in channels:
            channel.cancel("it was stopped here")

    def check(self) -> None:
        """Raise SessionCancelled if the session was given up."""
        if self._cancelled:
            raise SessionCancelled("the session was stopped here; submit the image again for a result")

    def watch(self, channel: "Channel") -> None:
        """Let waits of this channel end with the session."""
        with self._lock:
            self._channels.append(channel)
        self.check()
