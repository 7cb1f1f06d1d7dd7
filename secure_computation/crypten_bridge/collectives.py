"""CrypTen's whole communicator for a script of two parties: what one sends or gives the other, in one frame each.

    call                        rank 0 -> 1           rank 1 -> 0           who learns what
    -------------------------   -------------------   -------------------   ------------------------------------
    all_reduce, all_gather      its tensor            its tensor            both, both
    reduce, gather to `dst`     if dst = 1            if dst = 0            `dst` the other's; the other nothing
    broadcast from `src`        if src = 0            if src = 1            the other `src`'s
    scatter from `src`          the other's tensor    the other's tensor    the other its own
    send, recv                  the tensor                                  the receiver
    barrier                     nothing               nothing

What is sent here is what the script says to send: shares, or values that it means the other party to have. Objects
travel as plain data (`objects`), never as pickles. The step of a tensor's frame names its dtype and shape: parties
whose tensors differ notice.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from contract.errors import CallerError, ConfigurationError, PeerViolation
from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge.communicator import TwoPartyCommunicator, combiner
from secure_computation.crypten_bridge.objects import (
    Parts,
    as_bytes,
    describe_tensor,
    from_bytes,
    parse_description,
    put_together,
    take_apart,
)
from secure_computation.crypten_bridge.session import find_script

SUM: Final = torch.distributed.ReduceOp.SUM


@dataclass
class Counts:
    """What CrypTen's `communicator.verbose` counts, in its own way: what a party sends and receives."""

    rounds: int = 0
    elements: float = 0
    seconds: float = 0.0


class ScriptCommunicator(TwoPartyCommunicator):
    """Every call of CrypTen's communicator that two parties can make without a pickle."""

    BYTES_PER_ELEMENT = 8

    def __init__(self, *, rank: int, channel: Channel) -> None:
        """Join as rank 0 or 1."""
        super().__init__(rank=rank, channel=channel)
        self._peer_channel = channel
        self._name = f"rank{rank}"
        self._counts = Counts()

    # One tensor to or from the peer

    def exchange(self, own: torch.Tensor) -> torch.Tensor:
        """Send a tensor and return the peer's of the same shape and dtype."""
        entry = describe_tensor(own)
        received = self._peer_channel.exchange_tensor(as_bytes(own).numpy(), step=f"exchange of {entry}")
        return from_bytes(torch.from_numpy(received), entry)

    def _put(self, tensor: torch.Tensor) -> None:
        # reveal: the script says that the other party is to have this tensor.
        self._peer_channel.send_tensor(as_bytes(tensor).numpy(), step=f"message of {describe_tensor(tensor)}")

    def _get(self, like: torch.Tensor) -> torch.Tensor:
        entry = describe_tensor(like)
        received = self._peer_channel.receive_tensor((entry.size,), np.uint8, step=f"message of {entry}")
        return from_bytes(torch.from_numpy(received), entry)

    # Collectives. Names and arguments are CrypTen's.

    def all_reduce(
        self, shares: torch.Tensor | Sequence[torch.Tensor], op: Any = SUM, *, batched: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """See TwoPartyCommunicator."""
        tensors = _as_list(shares)
        with self._timed(2 * _count(tensors)):
            if len({tensor.dtype for tensor in tensors}) <= 1:
                return super().all_reduce(shares, op, batched=batched)
            return [combiner(op)(self.exchange(tensor), tensor) for tensor in tensors]

    def reduce(
        self, shares: torch.Tensor | Sequence[torch.Tensor], dst: int, op: Any = SUM, *, batched: bool = False
    ) -> torch.Tensor | list[torch.Tensor] | None:
        """Combine both parties' tensors for rank `dst` alone. None at the other."""
        combine = combiner(op)
        tensors = _as_list(shares)
        with self._timed(_count(tensors)):
            if not self._is(dst):
                for tensor in tensors:
                    self._put(tensor)
                return None
            combined = [combine(self._get(tensor), tensor) for tensor in tensors]
        return combined if batched else combined[0]

    def gather(self, share: torch.Tensor, dst: int) -> list[torch.Tensor | None]:
        """Give rank `dst`, and nobody else, both parties' tensors."""
        with self._timed(share.numel()):
            if not self._is(dst):
                self._put(share)
                return [None]
            return self._in_order(share.clone(), self._get(share))

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor | None]:
        """Give both parties both tensors."""
        with self._timed(2 * tensor.numel()):
            return self._in_order(tensor.clone(), self.exchange(tensor))

    def broadcast(
        self, tensor: torch.Tensor | list[torch.Tensor], src: int, *, batched: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Give rank `src`'s tensor to the other party, in place of what it holds."""
        del batched
        tensors = _as_list(tensor)
        with self._timed(_count(tensors)):
            for each in tensors:
                if self._is(src):
                    self._put(each)
                else:
                    each.data.copy_(self._get(each))
        return tensor

    def scatter(
        self,
        scatter_list: Sequence[torch.Tensor],
        src: int,
        size: Sequence[int] | None = None,
        device: object = None,
    ) -> torch.Tensor:
        """Give each party its tensor of rank `src`'s list, all int64 and of one size."""
        del device
        if self._is(src):
            mine, other = scatter_list[self._rank], scatter_list[1 - self._rank]
            with self._timed(other.numel()):
                self._put(other)
            return mine
        if size is None:
            size = scatter_list[self._rank].shape
        with self._timed(math.prod(size)):
            return self._get(torch.empty(tuple(size), dtype=torch.int64, device="meta"))

    def send(self, tensor: torch.Tensor, dst: int) -> None:
        """Send the other party a tensor."""
        self._require_peer(dst)
        with self._timed(tensor.numel()):
            self._put(tensor)

    def recv(self, tensor: torch.Tensor, src: int | None = None) -> torch.Tensor:
        """Receive a tensor of the shape and dtype of `tensor`."""
        self._require_peer(1 - self._rank if src is None else src)
        with self._timed(tensor.numel()):
            return self._get(tensor)

    def barrier(self) -> None:
        """Wait until the other party is here."""
        with self._timed(0):
            self._peer_channel.send_end(step="barrier")
            self._peer_channel.receive_end(step="barrier")

    # Objects: numbers, text, tensors, and lists, tuples and dictionaries of them

    def send_obj(self, obj: object, dst: int) -> None:
        """Send the other party plain data. Raises CallerError for anything that would need a pickle, and for shares:
        with them, the other party would have the value.
        """
        self._require_peer(dst)
        parts = take_apart(obj)
        parts.encode_description()
        # reveal: the script says that the other party is to have this value.
        self._peer_channel.send_hello(parts.describe(), step="object")
        for number, tensor in enumerate(parts.tensors):
            self._peer_channel.send_tensor(as_bytes(tensor).numpy(), step=f"object's tensor {number}")

    def recv_obj(self, src: int) -> Any:
        """Receive plain data from the other party. Raises PeerViolation for anything else."""
        self._require_peer(src)
        try:
            description = parse_description(self._peer_channel.receive_hello(step="object"))
            tensors = []
            for number, entry in enumerate(description.tensors):
                step = f"object's tensor {number}"
                received = self._peer_channel.receive_tensor((entry.size,), np.uint8, step=step)
                tensors.append(from_bytes(torch.from_numpy(received), entry))
            return put_together(Parts(description, tuple(tensors)))
        except CallerError as error:
            raise PeerViolation(f"{self._peer_channel.peer} sent an object that is refused: {error}") from None

    def broadcast_obj(self, obj: object, src: int) -> Any:
        """Give rank `src`'s plain data to the other party."""
        if not self._is(src):
            return self.recv_obj(src)
        self.send_obj(obj, 1 - self._rank)
        return obj

    # Names and counters

    def set_name(self, name: str) -> None:
        """Name this party, for the script's own use."""
        if not isinstance(name, str):
            raise ConfigurationError("a party's name must be text")
        self._name = name

    def get_name(self) -> str:
        """The name set last; `rank0` or `rank1` before."""
        return self._name

    @property
    def comm_rounds(self) -> int:
        """Calls since the last reset, while `cfg.communicator.verbose` was set."""
        return self._counts.rounds

    @property
    def comm_bytes(self) -> float:
        """Bytes as CrypTen counts them: 8 for each element sent or received."""
        return self._counts.elements * self.BYTES_PER_ELEMENT

    @property
    def comm_time(self) -> float:
        """Seconds spent in these calls."""
        return self._counts.seconds

    def reset_communication_stats(self) -> None:
        """Begin to count from zero."""
        self._counts = Counts()

    def get_communication_stats(self) -> dict[str, float]:
        """Rounds, bytes and seconds."""
        return {"rounds": self.comm_rounds, "bytes": self.comm_bytes, "time": self.comm_time}

    @contextmanager
    def _timed(self, elements: int) -> Iterator[None]:
        """Count one call, if the script asks for it."""
        began = time.monotonic()
        yield
        script = find_script()
        if script is not None and script.settings.get("communicator.verbose", False):
            self._counts.rounds += 1
            self._counts.elements += elements
            self._counts.seconds += time.monotonic() - began

    def _is(self, rank: int) -> bool:
        if rank not in {0, 1}:
            raise ConfigurationError(f"there is no rank {rank}: two parties compute, 0 and 1")
        return rank == self._rank

    def _require_peer(self, rank: int) -> None:
        if self._is(rank):
            raise ConfigurationError(f"rank {rank} is this party itself; name the other, {1 - rank}")

    def _in_order(self, own: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor | None]:
        return [own, other] if self._rank == 0 else [other, own]


def _as_list(tensors: torch.Tensor | Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [tensors] if isinstance(tensors, torch.Tensor) else tensors


def _count(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
