"""Whom a diagnosis tells how far it is, and how that ends it when its user has given it up."""

from collections.abc import Callable
from dataclasses import dataclass

from data_owner.cancellation import Cancellation
from secure_computation.engines.interface import OnLayer

OnStage = Callable[[str], None]
"""Progress in words: which stage begins."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Whom to tell how far a diagnosis is."""

    stage: OnStage
    layer: OnLayer

    def until(self, cancellation: Cancellation) -> "Progress":
        """The same, that raises SessionCancelled at the first stage or layer after the session was given up."""

        def stage(words: str) -> None:
            cancellation.check()
            self.stage(words)

        def layer(index: int, total: int, name: str) -> None:
            cancellation.check()
            self.layer(index, total, name)

        return Progress(stage=stage, layer=layer)
