"""A session without a peer, on zeros: records which tuples a computation asks for and what it sends."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secure_computation.crypten_bridge.communicator import MODEL_OWNER_RANK, TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import BitRequest, Request, SquareRequest, WrapRequest
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import binary_triple_request, triple_request
from secure_computation.crypten_bridge.session import Session
from secure_computation.randomness import Seed


@dataclass
class OpeningLog:
    """Stands in for a channel: answers each opening with zeros and counts it."""

    payload_bytes_each_way: int = 0
    openings: int = 0

    def exchange_tensor(self, own: NDArray[np.int64], /, *, step: str) -> NDArray[Any]:
        """Count one opening."""
        del step
        self.payload_bytes_each_way += own.nbytes
        self.openings += 1
        return np.zeros_like(own)


@dataclass
class RecordingProvider:
    """Answers every request with zeros and writes it down."""

    NAME = "recording"
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find CrypTen's tensor types."""
        primitives = load_crypten().mpc.primitives
        self._arithmetic = primitives.ArithmeticSharedTensor
        self._binary = primitives.BinarySharedTensor

    def generate_additive_triple(
        self, size0: torch.Size, size1: torch.Size, op: str, device: object = None, **options: Any
    ) -> tuple[Any, Any, Any]:
        """Record an additive triple."""
        del device
        request = triple_request(size0, size1, op, options)
        self.requests.append(request)
        return self._zeros(request.left), self._zeros(request.right), self._zeros(request.output)

    def square(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:
        """Record a square."""
        del device
        self.requests.append(SquareRequest(output=tuple(size)))
        return self._zeros(size), self._zeros(size)

    def generate_binary_triple(
        self, size0: torch.Size, size1: torch.Size, device: object = None
    ) -> tuple[Any, Any, Any]:
        """Record a binary triple."""
        del device
        self.requests.append(binary_triple_request(size0, size1))
        return self._binary_zeros(size0), self._binary_zeros(size1), self._binary_zeros(size0)

    def wrap_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:
        """Record a wrap count."""
        del device
        self.requests.append(WrapRequest(output=tuple(size)))
        return self._zeros(size), self._zeros(size)

    def B2A_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:  # noqa: N802 - CrypTen's name
        """Record random bits."""
        del device
        self.requests.append(BitRequest(output=tuple(size)))
        return self._zeros(size), self._binary_zeros(size)

    def _zeros(self, size: torch.Size | tuple[int, ...]) -> Any:
        return self._arithmetic.from_shares(torch.zeros(tuple(size), dtype=torch.int64), precision=0)

    def _binary_zeros(self, size: torch.Size | tuple[int, ...]) -> Any:
        return self._binary.from_shares(torch.zeros(tuple(size), dtype=torch.int64), precision=0)


def recording_session() -> tuple[Session, RecordingProvider, OpeningLog]:
    """Make a session that computes on zeros as the model owner would, and its two records."""
    log = OpeningLog()
    provider = RecordingProvider()
    seed = Seed.fresh()  # hides nothing here: there is no peer and no data
    streams = {name: seed.stream(item="dry run", step=0, label=name) for name in ("prev", "next", "local")}
    communicator = TwoPartyCommunicator(rank=MODEL_OWNER_RANK, channel=log)
    return Session(communicator=communicator, provider=provider, streams=streams), provider, log
