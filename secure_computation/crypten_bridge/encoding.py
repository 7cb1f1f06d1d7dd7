"""What becomes a share, and what comes back: numbers that fit the ring, on the processor.

CrypTen itself encodes what is no number, what overflows and what lies on a device that does not compute, and goes on
with the nonsense that comes of it. Here each way in is checked: encoding, a party's own tensor, shares, devices. What
is opened is decoded without CrypTen's error in numbers below -65536.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from contract.errors import CallerError
from secure_computation.crypten_bridge.refusals import refuse_call
from secure_computation.crypten_bridge.session import current_session, find_script

CPU: Final = torch.device("cpu")
_COARSE: Final = (torch.float16, torch.bfloat16)


def check_inputs(crypten: Any) -> None:
    """Put the checks into CrypTen's classes."""
    encoder = crypten.encoder.FixedPointEncoder
    encoder.encode = _checked_encode(encoder.encode)
    encoder.decode = _corrected_decode(encoder.decode)
    primitives = crypten.mpc.primitives
    for kind in (primitives.ArithmeticSharedTensor, primitives.BinarySharedTensor):
        kind.__init__ = _without_placeholder(kind.__init__)
        kind.share = kind.share.setter(_after(_check_share, kind.share.fset))
    for kind in (primitives.ArithmeticSharedTensor, primitives.BinarySharedTensor, crypten.mpc.MPCTensor):
        kind.to = _after(_check_move, kind.to)
        kind.cuda = _refuse_cuda
    for name in ("mul_", "div_"):
        method = getattr(primitives.ArithmeticSharedTensor, name)
        setattr(primitives.ArithmeticSharedTensor, name, _after(_check_factor, method))


def require_cpu(device: object) -> None:
    """Raise ConfigurationError for another device. None stands for the usual one.

    An engine's dry run computes on torch's `meta` tensors, which have shapes alone; for a script they would give zeros.
    """
    kind = "cpu" if device is None else "cuda" if isinstance(device, int) else torch.device(str(device)).type
    if kind != "cpu" and (kind != "meta" or find_script() is not None):
        refuse_call("a device that is not the CPU")


def _checked_encode(encode: Callable[..., Any]) -> Callable[..., Any]:
    def checked(encoder: Any, x: Any, device: object = None) -> Any:
        require_cpu(device)
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(x)  # CrypTen would cut an array's fractions off
        if isinstance(x, list):
            x = torch.tensor(x, dtype=torch.float)
        if isinstance(x, torch.Tensor):
            require_cpu(x.device)
            x = x.float() if x.dtype in _COARSE else x  # times 2^16, float16 overflows from 1 on
        _require_room(x, encoder.scale)
        return encode(encoder, x, device=device)

    return checked


def _corrected_decode(decode: Callable[..., Any]) -> Callable[..., Any]:
    """CrypTen divides negative numbers by 65535 in place of 65536: one below -65536 comes back too small."""

    def corrected(encoder: Any, tensor: torch.Tensor | None) -> Any:
        scale = encoder.scale
        if tensor is None or scale == 1:
            return decode(encoder, tensor)
        return (tensor.div(scale, rounding_mode="floor").float() + (tensor % scale).float() / scale).data

    return corrected


def _require_room(x: Any, scale: int) -> None:
    """Raise CallerError unless all numbers are finite and, times the scale, integers of 64 bits."""
    most = 2.0**63 / scale
    if isinstance(x, torch.Tensor):
        is_ring = scale == 1 and not x.is_floating_point()
        fits = x.is_meta or x.is_complex() or is_ring or bool((x.detach().double().abs() < most).all())
    else:
        fits = not isinstance(x, int | float) or (math.isfinite(x) and abs(x) < most)
    if not fits:
        raise CallerError(
            f"with {round(math.log2(scale))} fractional bits, CrypTen computes with finite numbers below "
            f"2^{round(math.log2(most))}, and one that was given to it is not: correct or scale the data"
        )


def _without_placeholder(create: Callable[..., None]) -> Callable[..., None]:
    """A constructor to which the tensor of whoever is not the source says its size alone, as CrypTen's manual promises.

    CrypTen encodes it as well: it may be `torch.empty`, in whose memory anything lies.
    """
    signature = inspect.signature(create)

    @functools.wraps(create)
    def checked(own: Any, *arguments: Any, **named: Any) -> None:
        if not arguments and "tensor" not in named:
            require_cpu(named.get("device"))
            create(own, **named)
            return
        given = signature.bind(own, *arguments, **named).arguments
        tensor = given.get("tensor")
        require_cpu(given.get("device"))
        require_cpu(getattr(tensor, "device", None))
        if tensor is not None and given.get("src", 0) == 1 - current_session().communicator.get_rank():
            device = given.get("device", getattr(tensor, "device", None))
            given |= {"tensor": None, "size": torch.Size(np.shape(tensor)), "device": device}
        create(**given)

    return checked


def _after(check: Callable[..., None], method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(*arguments: Any, **named: Any) -> Any:
        check(*arguments, **named)
        return method(*arguments, **named)

    return checked


def _check_share(_tensor: object, share: Any) -> None:
    if find_script() is not None and isinstance(share, torch.Tensor):
        require_cpu(share.device)
        if share.dtype != torch.int64:
            refuse_call("a ring that is not of 64 bits")


def _check_move(_tensor: object, *arguments: object, **named: object) -> None:
    for wanted in (*arguments[:1], named.get("device"), named.get("other")):
        if isinstance(wanted, torch.Tensor):
            require_cpu(wanted.device)
        elif isinstance(wanted, str | torch.device | int):
            require_cpu(wanted)


def _check_factor(tensor: Any, y: Any) -> None:
    """Whole numbers are not encoded, so they are checked here."""
    if isinstance(y, torch.Tensor):
        require_cpu(y.device)
    else:
        _require_room(y, tensor.encoder.scale)


def _refuse_cuda(*_arguments: object, **_named: object) -> None:
    refuse_call("a device that is not the CPU")
