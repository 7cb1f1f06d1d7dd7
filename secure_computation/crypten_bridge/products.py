"""Beaver's multiplication for CrypTen's six products, with fewer passes over memory.

    D                        P0, data owner                     P1, model owner
    ----------------------   --------------------------------   --------------------------------
    a, b, c = a * b          a0, b0, c0                         a1, b1, c1
                             sends x0 - a0, y0 - b0             sends x1 - a1, y1 - b1
                             both: epsilon = x - a, delta = y - b
                             z0 = c0 + epsilon * (b0 + delta)   z1 = c1 + epsilon * b1
                                     + a0 * delta                       + a1 * delta

Cost: 8 (|x| + |y|) bytes each way, one trip. If y is a weight, both parties opened its delta beforehand
(`session.provider.opened_right`), since weights and masks are there before any image is: then 8 |x|.

The same tuples and results, bit by bit, as CrypTen's `beaver.py`, which convolves three times where this does twice.
Source: Beaver 1991; CrypTen (Knott et al. 2021).
"""

from collections.abc import Callable
from typing import Any, Final

import torch

from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK
from secure_computation.crypten_bridge.session import Session, current_session

OPERATIONS: Final = ("mul", "matmul", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")


def beaver_protocol(operation: str) -> Callable[..., Any]:
    """Make the function that stands in for CrypTen's of this name: two shared tensors in, their product out.

    A convolution over one dimension is one over two dimensions whose images have one row.
    """

    def multiply(x: Any, y: Any, **options: Any) -> Any:
        if not operation.endswith("1d"):
            return _multiply(operation, x.share, y.share, options)
        options = {name: _beside(name, value) for name, value in options.items()}
        product = _multiply(f"{operation[:-2]}2d", x.share.unsqueeze(-2), y.share.unsqueeze(-2), options)
        product.share = product.share.squeeze(-2)
        return product

    multiply.__name__ = operation
    return multiply


def _beside(name: str, value: Any) -> Any:
    """An option over one dimension as one over two: rows are neither padded nor skipped."""
    if name == "groups":
        return value
    along = value if isinstance(value, int) else value[0]
    return (0 if name in {"padding", "output_padding"} else 1, along)


def _multiply(operation: str, x: torch.Tensor, y: torch.Tensor, options: dict[str, Any]) -> Any:
    session = current_session()
    a, b, c = session.provider.generate_additive_triple(x.size(), y.size(), operation, **options)
    # epsilon = x - a, delta = y - b
    epsilon, delta = _open(session, x - a.share, y, b.share)
    if session.communicator.get_rank() == DATA_OWNER_RANK:
        b.share.add_(delta)
    apply = getattr(torch, operation)
    # z = c + epsilon * (b + delta) + a * delta, with the second delta at P0 alone
    c.share.add_(apply(epsilon, b.share, **options)).add_(apply(a.share, delta, **options))
    return c


def _open(
    session: Session, masked: torch.Tensor, y: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Open x - a, and y - b if it was not opened beforehand."""
    # reveal: x and y under the dealt masks a and b, which are uniform and used once.
    delta = session.provider.opened_right()
    if delta is not None:
        return masked.add_(session.communicator.exchange(masked)), delta
    own = torch.cat([masked.reshape(-1), (y - mask).reshape(-1)])
    own.add_(session.communicator.exchange(own))
    return own[: masked.numel()].view(masked.shape), own[masked.numel() :].view(y.shape)
