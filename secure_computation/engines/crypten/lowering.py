"""Lowers a public network for CrypTen: a dry run on zeros records every tuple and every opening of a session."""

import math
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field

from contract.model_card import Strict
from secure_computation.crypten_bridge.dealing import ELEMENT_BYTES, Request, correction_bytes
from secure_computation.crypten_bridge.dry_run import META, recording_session
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.session import activate
from secure_computation.engines.crypten.evaluation import PRECISION_BITS, EncryptedTensor, evaluate
from secure_computation.network import Network, Shape

MAX_REQUESTS: Final = 100_000
MAX_CORRECTION_BYTES: Final = 16 << 30


class CrypTenLowering(Strict):
    """The public part of a model that the crypten engine adds: what is dealt for one image, and what that costs."""

    precision_bits: Literal[16] = 16
    requests: Annotated[tuple[Request, ...], Field(max_length=MAX_REQUESTS)]
    openings: Annotated[int, Field(ge=0)]
    """Openings in a session: each is one message in both directions at once, one one-way trip."""
    opened_bytes_each_way: Annotated[int, Field(ge=0)]
    """Payload of all openings in one direction, without frame headers."""

    def dealt_bytes(self) -> int:
        """Bytes of corrections that the crypto provider sends the model owner for one image."""
        return sum(correction_bytes(request) for request in self.requests)


def lower(network: Network) -> CrypTenLowering:
    """Record the session of one image (batch 1)."""
    crypten = load_crypten()
    session, provider, communicator = recording_session()
    with activate(session), torch.inference_mode():
        image = _without_values(crypten, (1, *network.input_shape))
        weights = {name: _without_values(crypten, shape) for name, shape in network.weight_shapes().items()}
        evaluate(network, image, weights, lambda _index, _operation: None)
    return CrypTenLowering(
        requests=tuple(provider.requests),
        openings=len(communicator.openings),
        opened_bytes_each_way=sum(ELEMENT_BYTES * math.prod(shape) for shape in communicator.openings),
    )


def _without_values(crypten: Any, shape: Shape) -> EncryptedTensor:
    share = torch.empty(shape, dtype=torch.int64, device=META)
    return crypten.mpc.MPCTensor.from_shares(share, precision=PRECISION_BITS)
