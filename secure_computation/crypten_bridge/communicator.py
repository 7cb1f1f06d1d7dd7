"""CrypTen's communicator for two parties, on our channel."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from secure_computation.crypten_bridge.refusals import COMMUNICATOR, refuse, refuse_call

DATA_OWNER_RANK: Final = 0
MODEL_OWNER_RANK: Final = 1


class OpeningChannel(Protocol):
    """The part of a channel that openings need."""

    def exchange_tensor(self, own: NDArray[np.int64], /, *, step: str) -> NDArray[Any]:
        """Send `own` and receive the peer's tensor of the same shape, at the same time."""
        ...


class TwoPartyCommunicator:
    """Opens shared values to both parties. `step` names the layer at work, for errors that say where it stopped."""

    def __init__(self, *, rank: int, channel: OpeningChannel | None) -> None:
        """Join as rank 0 (data owner) or rank 1 (model owner)."""
        self._rank = rank
        self._channel = channel
        self.step = "start"

    def get_rank(self) -> int:
        """0: data owner, 1: model owner."""
        return self._rank

    def get_world_size(self) -> int:
        """Two: the dealer takes no part in the online phase."""
        return 2

    def all_reduce(
        self,
        shares: torch.Tensor | Sequence[torch.Tensor],
        op: Any = torch.distributed.ReduceOp.SUM,
        *,
        batched: bool = False,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Open one shared tensor, or several in one message each way.

        CrypTen opens a value to both parties only after hiding it with a fresh dealt mask (Beaver's epsilon and delta,
        the masked bit of B2A), so what both learn here is uniform. Results go through `reveal_to_data_owner` instead.
        """
        combine = combiner(op)
        if not batched:
            if not isinstance(shares, torch.Tensor):
                raise ConfigurationError("CrypTen asked to open several tensors without batching them")
            return combine(self.exchange(shares), shares)
        parts = list(shares)
        joined = torch.cat([part.reshape(-1) for part in parts])
        opened = combine(self.exchange(joined), joined)
        pieces = torch.split(opened, [part.numel() for part in parts])
        return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]

    def gather(self, share: torch.Tensor, dst: int) -> list[torch.Tensor | None]:
        """Give rank `dst` both parties' tensors (the masked value of CrypTen's wrap count)."""
        other = self.exchange(share)
        if self._rank != dst:
            return [None]
        return [share, other] if self._rank == DATA_OWNER_RANK else [other, share]

    def __getattr__(self, name: str) -> Any:
        """Refuse the rest of CrypTen's interface by name."""
        reason = COMMUNICATOR.get(name, "an engine's two-party session does not need it")
        refuse(f"crypten.communicator.get().{name}", reason)

    def exchange(self, own: torch.Tensor) -> torch.Tensor:
        """Send this party's share and return the peer's, a new tensor of the same shape. Both must be masked."""
        if self._channel is None:
            raise ConfigurationError("this communicator has no channel to open values on")
        received = self._channel.exchange_tensor(own.reshape(-1).numpy(), step=self.step)
        return torch.from_numpy(received).view(own.shape)


def combiner(op: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """How two parties' tensors become one, in place of the first. Raises ConfigurationError for a reduction that is no
    sharing's.
    """
    if op == torch.distributed.ReduceOp.BXOR:
        return torch.Tensor.bitwise_xor_
    if op != torch.distributed.ReduceOp.SUM:
        refuse_call("a reduction that is neither SUM nor BXOR")
    return torch.Tensor.add_
