"""Beaver's multiplication for CrypTen's `mul`, `matmul` and `conv2d`, with fewer passes over memory.

    D                        P0, data owner                     P1, model owner
    ----------------------   --------------------------------   --------------------------------
    a, b, c = a * b          a0, b0, c0                         a1, b1, c1
                             sends x0 - a0, y0 - b0             sends x1 - a1, y1 - b1
                             both: epsilon = x - a, delta = y - b
                             z0 = c0 + epsilon * (b0 + delta)   z1 = c1 + epsilon * b1
                                     + a0 * delta                       + a1 * delta

Cost: 8 (|x| + |y|) bytes each way, one trip. Where y is a weight, both parties opened its delta beforehand
(`session.provider.opened_right`), since weights and masks are there before any image is: then 8 |x|.

The same tuples and results, bit by bit, as CrypTen's `beaver.py`, which convolves three times where this does twice.
Source: Beaver 1991; CrypTen (Knott et al. 2021).
"""

from collections.abc import Callable
from typing import Any

import torch

from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK
from secure_computation.crypten_bridge.session import Session, current_session


def beaver_protocol(operation: str) -> Callable[..., Any]:
    """Make the function that stands in for CrypTen's of this name: two shared tensors in, their product out."""

    def multiply(x: Any, y: Any, **options: Any) -> Any:
        session = current_session()
        a, b, c = session.provider.generate_additive_triple(x.size(), y.size(), operation, **options)
        epsilon, delta = _open(session, x.share - a.share, y.share, b.share)
        if session.communicator.get_rank() == DATA_OWNER_RANK:
            b.share.add_(delta)
        apply = getattr(torch, operation)
        c.share.add_(apply(epsilon, b.share, **options)).add_(apply(a.share, delta, **options))
        return c

    multiply.__name__ = operation
    return multiply


def _open(
    session: Session, masked: torch.Tensor, y: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Open x - a, and y - b where it was not opened beforehand."""
    # reveal: x and y under the dealt masks a and b, which are uniform and used once.
    delta = session.provider.opened_right()
    if delta is not None:
        return masked.add_(session.communicator.exchange(masked)), delta
    own = torch.cat([masked.reshape(-1), (y - mask).reshape(-1)])
    own.add_(session.communicator.exchange(own))
    return own[: masked.numel()].view(masked.shape), own[masked.numel() :].view(y.shape)
