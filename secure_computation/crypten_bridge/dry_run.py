"""A session without a peer and without values: records which tuples a computation asks for and what it sends.

Runs on torch's `meta` tensors, which have a shape but no memory: recording a large network takes a moment.
"""

import torch

from contract.errors import ModelFileError
from secure_computation.crypten_bridge.communicator import MODEL_OWNER_RANK, TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import MAX_REQUESTS, Request, TripleRequest, expand
from secure_computation.crypten_bridge.provider import TupleSource
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


class Shapes:
    """In place of a party's randomness and of its streams: the shapes that they would give."""

    def int64(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Ring elements without values."""
        return torch.empty(shape, dtype=torch.int64, device=META)

    def ring(self, label: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The same; `label` says what they are for."""
        del label
        return self.int64(shape)

    bits = ring


class RecordingProvider(TupleSource):
    """Answers every request with tensors of its shapes and writes it down."""

    NAME = "recording"

    def __init__(self, *, weights_are_opened: bool, most_requests: int) -> None:
        """Record up to `most_requests`; beyond, the dry run ends: it stands for a computation that nobody will run.

        `weights_are_opened`: whether each layer's masked weights were opened before the session, as the engine does.
        """
        super().__init__()
        self._weights_are_opened = weights_are_opened
        self._most_requests = most_requests
        self.requests: list[Request] = []

    def opened_right(self) -> torch.Tensor | None:
        """The weights' delta of the last request, without values."""
        request = self.requests[-1]
        if not (self._weights_are_opened and isinstance(request, TripleRequest) and request.has_weights):
            return None
        return Shapes().int64(request.right)

    def take(self, request: Request) -> tuple[torch.Tensor, ...]:
        """Record a tuple. Raises ModelFileError for one too many."""
        if len(self.requests) == self._most_requests:
            raise ModelFileError(
                f"CrypTen asks for more than {self._most_requests} tuples for this network: use a smaller model"
            )
        self.requests.append(request)
        return expand(request, Shapes(), None)


def recording_session(
    *, weights_are_opened: bool, most_requests: int = MAX_REQUESTS
) -> tuple[Session, RecordingProvider, RecordingCommunicator]:
    """Make a session on shapes alone, and its two records. It raises ModelFileError beyond `most_requests`."""
    communicator = RecordingCommunicator()
    provider = RecordingProvider(weights_are_opened=weights_are_opened, most_requests=most_requests)
    streams = {name: Shapes() for name in ("prev", "next", "local")}
    return Session(communicator=communicator, provider=provider, streams=streams), provider, communicator
