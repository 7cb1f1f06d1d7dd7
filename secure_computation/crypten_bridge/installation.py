"""Imports CrypTen 0.4.1 on current torch and replaces its globals by look-ups of the current session. Done once.

What is replaced, and why:

- `torch.onnx._internal.registration` is gone from torch; CrypTen's import needs the name (its converter is not used).
- `communicator.get`: one communicator for a process -> the session's.
- `generators`, `generate_random_ring_element`, `generate_kbit_random_tensor`: Mersenne Twisters that keep 32 bits of
  their seed -> AES-CTR streams of the session.
- `mpc.get_default_provider`: the insecure first-party provider -> the session's dealt tuples.
- `beaver.mul`, `matmul`, `conv2d`: the same protocol with fewer passes over memory (`products`).
- autograd: switched off for good; it is a process-wide flag and inference does not need it.
"""

import sys
import threading
import types
import warnings
from types import ModuleType
from typing import Any

import torch

from contract.errors import ConfigurationError
from secure_computation.crypten_bridge import HOW_TO_INSTALL, SUPPORTED_VERSION, not_installed
from secure_computation.crypten_bridge.products import beaver_protocol
from secure_computation.crypten_bridge.session import RingStream, current_session

_REGISTRATION = "torch.onnx._internal.registration"
_lock = threading.Lock()


def load_crypten() -> Any:
    """Return the `crypten` package, patched. The first call takes seconds; later ones nothing."""
    with _lock:
        module = sys.modules.get("crypten")
        if module is not None and getattr(module, "bridged", False):
            return module
        if module is not None:
            raise ConfigurationError("crypten was imported before its bridge; import it only through crypten_bridge")
        crypten = _import()
        _install(crypten)
        crypten.bridged = True
        return crypten


def _import() -> Any:
    if _REGISTRATION not in sys.modules:
        placeholder = types.ModuleType(_REGISTRATION)
        placeholder.registry = None  # type: ignore[attr-defined]
        sys.modules[_REGISTRATION] = placeholder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sleeping project: its syntax and deprecation warnings help nobody here
        try:
            import crypten
        except ImportError as error:
            raise not_installed() from error

    if crypten.__version__ != SUPPORTED_VERSION:
        raise ConfigurationError(
            f"crypten {crypten.__version__} is installed, but the bridge was written for {SUPPORTED_VERSION}; "
            f"run {HOW_TO_INSTALL}"
        )
    return crypten


class _SessionGenerators:
    """Stands in for CrypTen's `generators`: `generators["prev"][device]` is a stream of the current session."""

    def __getitem__(self, name: str) -> "_ByDevice":
        return _ByDevice(name)


class _ByDevice:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, device: object) -> RingStream:
        if torch.device(str(device)).type not in {"cpu", "meta"}:
            raise ConfigurationError(f"CrypTen sessions run on the CPU, not on {device}")
        return current_session().streams[self._name]


def _random_ring_element(
    size: torch.Size | tuple[int, ...], ring_size: int = 2**64, generator: RingStream | None = None, **_: object
) -> torch.Tensor:
    if ring_size != 2**64:
        raise ConfigurationError(f"only the ring mod 2^64 is supported, not {ring_size}")
    stream = generator if generator is not None else current_session().streams["local"]
    return torch.as_tensor(stream.int64(tuple(size)))


def _random_bits(
    size: torch.Size | tuple[int, ...],
    bitlength: int | None = None,
    generator: RingStream | None = None,
    **_: object,
) -> torch.Tensor:
    ring = _random_ring_element(size, generator=generator)
    if bitlength is None or bitlength == 64:
        return ring
    return ring & ((1 << bitlength) - 1)


def _install(crypten: Any) -> None:
    crypten.communicator.get = lambda: current_session().communicator
    crypten.generators = _SessionGenerators()
    crypten.mpc.get_default_provider = lambda: current_session().provider
    crypten.CrypTensor.AUTOGRAD_ENABLED = False
    for operation in ("mul", "matmul", "conv2d"):
        setattr(crypten.mpc.primitives.beaver, operation, beaver_protocol(operation))
    replacements: dict[str, Any] = {
        "generate_random_ring_element": _random_ring_element,
        "generate_kbit_random_tensor": _random_bits,
    }
    # CrypTen's modules import these by name: replace them wherever they stand.
    for name, module in list(sys.modules.items()):
        if name == "crypten" or name.startswith("crypten."):
            _replace(module, replacements)


def _replace(module: ModuleType, replacements: dict[str, Any]) -> None:
    for name, replacement in replacements.items():
        if hasattr(module, name):
            setattr(module, name, replacement)
