"""A session without a peer and without values: records which tuples a computation asks for and what it sends.

Runs on torch's `meta` tensors, which have a shape but no memory: recording a large network takes a moment.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from contract.errors import ModelFileError
from secure_computation.crypten_bridge.communicator import MODEL_OWNER_RANK, TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import (
    MAX_REQUESTS,
    BitRequest,
    Request,
    SquareRequest,
    TripleRequest,
    WrapRequest,
)
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import binary_triple_request, triple_request
from secure_computation.crypten_bridge.session import Session

META = torch.device("meta")


class RecordingCommunicator(TwoPartyCommunicator):
    """Answers each opening with nothing of its shape and counts it."""

    def __init__(self) -> None:
        """Stand in for either party: both open the same."""
        super().__init__(rank=MODEL_OWNER_RANK, channel=None)
        self.openings: list[tuple[int, ...]] = []

    def exchange(self, own: torch.Tensor) -> torch.Tensor:
        """Count one opening."""
        self.openings.append(tuple(own.shape))
        return torch.empty_like(own)


class RecordingStream:
    """Stands in for a random stream: the shapes it would have given."""

    def int64(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Ring elements without values."""
        return torch.empty(shape, dtype=torch.int64, device=META)


@dataclass
class RecordingProvider:
    """Answers every request with tensors of its shapes and writes it down."""

    NAME = "recording"
    weights_are_opened: bool
    """Whether each layer's masked weights were opened before the session, as the engine does."""
    most_requests: int
    """After so many, the dry run ends: it stands for a computation that nobody will run."""
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
        self._record(request)
        return self._zeros(request.left), self._zeros(request.right), self._zeros(request.output)

    def opened_right(self) -> torch.Tensor | None:
        """The weights' delta of the last request, without values."""
        request = self.requests[-1]
        if not (self.weights_are_opened and isinstance(request, TripleRequest) and request.has_weights):
            return None
        return torch.empty(request.right, dtype=torch.int64, device=META)

    def square(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:
        """Record a square."""
        del device
        self._record(SquareRequest(output=tuple(size)))
        return self._zeros(size), self._zeros(size)

    def generate_binary_triple(
        self, size0: torch.Size, size1: torch.Size, device: object = None
    ) -> tuple[Any, Any, Any]:
        """Record a binary triple."""
        del device
        self._record(binary_triple_request(size0, size1))
        return self._binary_zeros(size0), self._binary_zeros(size1), self._binary_zeros(size0)

    def wrap_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:
        """Record a wrap count."""
        del device
        self._record(WrapRequest(output=tuple(size)))
        return self._zeros(size), self._zeros(size)

    def B2A_rng(self, size: torch.Size, device: object = None) -> tuple[Any, Any]:  # noqa: N802 - CrypTen's name
        """Record random bits."""
        del device
        self._record(BitRequest(output=tuple(size)))
        return self._zeros(size), self._binary_zeros(size)

    def _record(self, request: Request) -> None:
        if len(self.requests) == self.most_requests:
            raise ModelFileError(
                f"CrypTen asks for more than {self.most_requests} tuples for this network: use a smaller model"
            )
        self.requests.append(request)

    def _zeros(self, size: torch.Size | tuple[int, ...]) -> Any:
        return self._arithmetic.from_shares(torch.empty(tuple(size), dtype=torch.int64, device=META), precision=0)

    def _binary_zeros(self, size: torch.Size | tuple[int, ...]) -> Any:
        return self._binary.from_shares(torch.empty(tuple(size), dtype=torch.int64, device=META), precision=0)


def recording_session(
    *, weights_are_opened: bool, most_requests: int = MAX_REQUESTS
) -> tuple[Session, RecordingProvider, RecordingCommunicator]:
    """Make a session on shapes alone, and its two records. It raises ModelFileError beyond `most_requests`."""
    communicator = RecordingCommunicator()
    provider = RecordingProvider(weights_are_opened=weights_are_opened, most_requests=most_requests)
    streams = {name: RecordingStream() for name in ("prev", "next", "local")}
    return Session(communicator=communicator, provider=provider, streams=streams), provider, communicator
