"""Lowers a public network for CrypTen: a dry run on zeros records every tuple and every opening of a session."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from contract.base import Strict
from secure_computation.crypten_bridge.dealing import (
    ELEMENT_BYTES,
    MAX_REQUESTS,
    Request,
    TripleRequest,
    correction_bytes,
)
from secure_computation.network import Network, Shape
from secure_computation.wire import HEADER_BYTES, SEED_BYTES, TAG_BYTES, tensor_prelude


class CrypTenLowering(Strict):
    """The public part of a model that the crypten engine adds: what is dealt for one image, and what that costs."""

    precision_bits: Literal[16] = 16
    requests: Annotated[tuple[Request, ...], Field(max_length=MAX_REQUESTS, fail_fast=True)]
    openings: Annotated[int, Field(ge=0)]
    """Openings of the online phase: each is one message in both directions at once, one one-way trip."""
    opened_bytes_each_way: Annotated[int, Field(ge=0)]
    """Payload of all openings in one direction, without frame headers."""

    def weight_triples(self) -> dict[int, TripleRequest]:
        """The triples of layers with weights by their place in the list, in the order of the network's operations."""
        return {
            step: request
            for step, request in enumerate(self.requests)
            if isinstance(request, TripleRequest) and request.has_weights
        }

    def dealt_bytes(self) -> int:
        """Bytes of corrections that the crypto provider sends the model owner for one image."""
        return sum(correction_bytes(request) for request in self.requests)


def lower(network: Network, *, most_requests: int = MAX_REQUESTS) -> CrypTenLowering:
    """Record the session of one image (batch 1). Raises ModelFileError at the first request beyond `most_requests`."""
    # Here, because a plan is read without CrypTen and torch, which take seconds to load.
    import torch

    from secure_computation.crypten_bridge.dry_run import recording_session
    from secure_computation.crypten_bridge.installation import load_crypten
    from secure_computation.crypten_bridge.session import activate
    from secure_computation.engines.crypten.evaluation import evaluate

    crypten = load_crypten()
    session, provider, communicator = recording_session(weights_are_opened=True, most_requests=most_requests)
    with activate(session), torch.inference_mode():
        image = _without_values(crypten, (1, *network.input_shape))
        weights = {name: _without_values(crypten, shape) for name, shape in network.weight_shapes().items()}
        evaluate(network, image, weights, lambda _index, _operation: None)
    return CrypTenLowering(
        requests=tuple(provider.requests),
        openings=len(communicator.openings),
        opened_bytes_each_way=sum(ELEMENT_BYTES * math.prod(shape) for shape in communicator.openings),
    )


def _without_values(crypten: Any, shape: Shape) -> Any:
    import torch

    from secure_computation.crypten_bridge.dry_run import META
    from secure_computation.engines.crypten.evaluation import PRECISION_BITS

    share = torch.empty(shape, dtype=torch.int64, device=META)
    return crypten.mpc.MPCTensor.from_shares(share, precision=PRECISION_BITS)


@dataclass(frozen=True, kw_only=True)
class PredictedCost:
    """What one image costs on the channels: bytes of frames, header and body, before encryption."""

    online_bytes_each_way: int
    """Between data owner and model owner, in each direction."""
    online_trips: int
    output_bytes: int
    """Model owner to data owner."""
    dealer_bytes: int
    """Crypto provider to both."""
    masked_weights_bytes_each_way: int
    """Between data owner and model owner before the image is used: deal tag, masked weights, and a seed."""

    @property
    def offline_bytes(self) -> int:
        """All that crosses before the online phase."""
        return self.dealer_bytes + 2 * self.masked_weights_bytes_each_way


def predict_cost(network: Network, lowering: CrypTenLowering) -> PredictedCost:
    """Predict the traffic of one image, exactly."""
    seed, tag = HEADER_BYTES + SEED_BYTES, HEADER_BYTES + TAG_BYTES
    corrections = sum(_tensor_frame(request.output) for request in lowering.requests)
    return PredictedCost(
        online_bytes_each_way=lowering.openings * _tensor_frame((0,)) + lowering.opened_bytes_each_way,
        online_trips=lowering.openings,
        output_bytes=_tensor_frame((1, network.classes)),
        dealer_bytes=2 * (seed + tag) + corrections,
        masked_weights_bytes_each_way=tag
        + seed
        + sum(_tensor_frame(triple.right) for triple in lowering.weight_triples().values()),
    )


def _tensor_frame(shape: Shape) -> int:
    """Bytes of a frame that carries an int64 tensor."""
    return HEADER_BYTES + len(tensor_prelude(shape, np.dtype(np.int64))) + ELEMENT_BYTES * math.prod(shape)
