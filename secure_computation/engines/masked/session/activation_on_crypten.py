"""The part of `activation` that runs on CrypTen's tensors and torch: dry run, tuples, evaluation."""

import math
from collections.abc import Iterator
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ConfigurationError
from secure_computation.crypten_bridge.activations import apply_activation
from secure_computation.crypten_bridge.communicator import (
    DATA_OWNER_RANK,
    MODEL_OWNER_RANK,
    OpeningChannel,
    TwoPartyCommunicator,
)
from secure_computation.crypten_bridge.dealing import PartyRandomness, Request, Share, deal
from secure_computation.crypten_bridge.dry_run import META, recording_session
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import Corrections, PartyProvider
from secure_computation.crypten_bridge.session import Session, activate
from secure_computation.crypten_bridge.softmax import softmax
from secure_computation.engines.masked.plan.steps import CrypTenFunction
from secure_computation.engines.masked.session.activation import FRACTIONAL_BITS, ActivationShape, Dealing, Image
from secure_computation.protocols.widening import WideElements
from secure_computation.randomness import Seed


@lru_cache(maxsize=256)
def record_dealing(
    function: CrypTenFunction, image: Image | None, count: int, divided_bits: int, largest: float
) -> Dealing:
    """What CrypTen asks for and opens, by a dry run."""
    session, provider, communicator = recording_session(weights_are_opened=False)
    with activate(session), torch.inference_mode():
        _evaluate(function, image, torch.empty((count,), dtype=torch.int64, device=META), divided_bits, largest)
    return Dealing(
        requests=tuple(provider.requests), openings=tuple(math.prod(shape) for shape in communicator.openings)
    )


def deal_tuples(requests: tuple[Request, ...], *, p0: Seed, p1: Seed, item: str) -> Iterator[NDArray[np.int64]]:
    """D: the correction of each tuple, flat."""
    for number, request in enumerate(requests):
        parties = [PartyRandomness(seed, item=item, step=number) for seed in (p0, p1)]
        with torch.inference_mode():
            yield deal(request, *parties).reshape(-1).numpy()


def model_owner_provider(requests: tuple[Request, ...], words: WideElements, *, seed: Seed, item: str) -> PartyProvider:
    """P1: its tuples, from its seed and D's corrections one after the other."""
    tensors: list[Share] = []
    at = 0
    for request in requests:
        size = math.prod(request.output)
        tensors.append(torch.from_numpy(words[at : at + size].view(np.int64).copy()).view(request.output))
        at += size
    return PartyProvider(requests, seed=seed, item=item, corrections=Corrections(tensors))


def compute_as_p0(
    shape: ActivationShape, x0: WideElements, channel: OpeningChannel, *, seed: Seed, item: str, step_name: str
) -> WideElements:
    """P0's share of y with 16 fractional bits, mod 2^64."""
    provider = PartyProvider(shape.dealing.requests, seed=seed, item=item)
    return _compute(shape, x0, provider, rank=DATA_OWNER_RANK, channel=channel, step_name=step_name)


def compute_as_p1(
    shape: ActivationShape, x1: WideElements, channel: OpeningChannel, provider: PartyProvider, *, step_name: str
) -> WideElements:
    """P1's share of y with 16 fractional bits, mod 2^64. `provider` serves once."""
    return _compute(shape, x1, provider, rank=MODEL_OWNER_RANK, channel=channel, step_name=step_name)


class _NothingDrawn:
    """In place of a stream for sharings of zero: making a tensor, CrypTen draws an empty one, and must draw no more."""

    def int64(self, shape: tuple[int, ...]) -> torch.Tensor:
        """No elements. Raises ConfigurationError for more."""
        if math.prod(shape):
            raise ConfigurationError("CrypTen asked for a fresh sharing, which a masked plan does not provide")
        return torch.empty(shape, dtype=torch.int64)


_NO_STREAMS = MappingProxyType({name: _NothingDrawn() for name in ("prev", "next", "local")})


def _compute(
    shape: ActivationShape,
    share: WideElements,
    provider: PartyProvider,
    *,
    rank: int,
    channel: OpeningChannel,
    step_name: str,
) -> WideElements:
    """One party's share of y with 16 fractional bits, mod 2^64."""
    communicator = TwoPartyCommunicator(rank=rank, channel=channel)
    communicator.step = step_name
    scaled = torch.from_numpy((share * np.uint64(shape.multiplier)).view(np.int64))
    session = Session(communicator=communicator, provider=provider, streams=_NO_STREAMS)
    with activate(session), torch.inference_mode():
        result = _evaluate(shape.function, shape.image, scaled, shape.divided_bits, shape.largest)
        provider.check_finished()
    words: WideElements = result.share.contiguous().numpy().view(np.uint64)
    return words


def _evaluate(
    function: CrypTenFunction, image: Image | None, share: torch.Tensor, divided_bits: int, largest: float
) -> Any:
    """CrypTen's tensor of the function, flat; `share`, flat as well, has 16 + divided_bits fractional bits."""
    x = load_crypten().mpc.MPCTensor.from_shares(share, precision=FRACTIONAL_BITS)
    if divided_bits:
        x = x.div(1 << divided_bits)
    if function != "softmax":
        return apply_activation(function, x, largest=largest)
    assert image is not None
    return softmax(x.reshape(-1, *image)).reshape(share.numel())
