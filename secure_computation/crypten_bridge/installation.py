"""Imports CrypTen 0.4.1 on current torch and replaces its globals by look-ups of the current session. Done once.

What is replaced, and why:

- `torch.onnx._internal.registration` is gone from torch; CrypTen's import needs the name (its converter is not used).
- `communicator.get`: one communicator for a process -> the session's.
- `generators`, `generate_random_ring_element`, `generate_kbit_random_tensor`: Mersenne Twisters that keep 32 bits of
  their seed -> AES-CTR streams of the session.
- `mpc.get_default_provider`: the insecure first-party provider -> the session's dealt tuples.
- `beaver.mul`, `matmul` and the convolutions: the same protocol with fewer passes over memory (`products`).
- `CrypTensor.AUTOGRAD_ENABLED`, the default tensor type and `cfg`: for the process -> for the session (`settings`). An
  engine's session has no autograd, and a script's has what CrypTen has.
- dropout: its public mask is drawn from the session's stream, which is no torch generator.
- `save`, `load`, `save_from_party`, `load_from_party`: pickles -> plain data (`storage`).
- `__repr__` of shared tensors: shows shares -> shows a shape.
- encoding, shares and devices: anything -> numbers that fit the ring, on the processor (`encoding`).
- what cannot be had safely is refused by name (`refusals`).
"""

import functools
import logging
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

import torch

from contract.errors import ConfigurationError
from secure_computation.crypten_bridge import HOW_TO_INSTALL, SUPPORTED_VERSION, not_installed
from secure_computation.crypten_bridge.encoding import CPU, check_inputs, require_cpu
from secure_computation.crypten_bridge.products import OPERATIONS, beaver_protocol
from secure_computation.crypten_bridge.refusals import FUNCTIONS, GENERATORS, make_refusal, refuse, refuse_call
from secure_computation.crypten_bridge.session import RingStream, current_script, current_session, find_script
from secure_computation.crypten_bridge.settings import SessionSettings, flatten
from secure_computation.crypten_bridge.storage import REPLACED, Storage

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

    def keys(self) -> Iterable[str]:
        """The streams of the current session."""
        return current_session().streams.keys()


class _ByDevice:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, device: object) -> "_Generator":
        require_cpu(device)
        return _Generator(current_session().streams[self._name])

    def keys(self) -> tuple[torch.device, ...]:
        """The CPU alone."""
        return (CPU,)


class _Generator:
    """A stream with the rest of a torch generator's interface, which is refused by name."""

    device: Final = CPU

    def __init__(self, stream: RingStream) -> None:
        self.int64 = stream.int64

    def __getattr__(self, name: str) -> Any:
        refuse(f"generators.{name}", GENERATORS.get(name, "a session's streams give ring elements only"))


def _random_ring_element(
    size: torch.Size | tuple[int, ...],
    ring_size: int = 2**64,
    generator: RingStream | None = None,
    device: object = None,
    **_: object,
) -> torch.Tensor:
    require_cpu(device)
    if ring_size != 2**64:
        refuse_call("a ring that is not of 64 bits")
    stream = generator if generator is not None else current_session().streams["local"]
    return torch.as_tensor(stream.int64(tuple(size)))


def _random_bits(
    size: torch.Size | tuple[int, ...],
    bitlength: int | None = None,
    generator: RingStream | None = None,
    device: object = None,
    **_: object,
) -> torch.Tensor:
    ring = _random_ring_element(size, generator=generator, device=device)
    if bitlength is None or bitlength == 64:
        return ring
    return ring & ((1 << bitlength) - 1)


def _uniform(size: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Public numbers in [0, 1) that both parties draw alike, with the 24 bits that float32 can hold."""
    bits = _random_ring_element(size, generator=current_session().streams["global"]) & ((1 << 24) - 1)
    return bits.to(torch.float32) / (1 << 24)


def _make_dropout(name: str, mask_size: Callable[[torch.Size], torch.Size]) -> Callable[..., Any]:
    """Dropout's forward pass, with its arguments in CrypTen's order: the same except for the source of its mask."""

    def forward(ctx: Any, tensor: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: FBT001, FBT002
        if not training:
            return tensor if inplace else tensor.clone()
        if inplace:
            logging.getLogger().warning("CrypTen %s does not support inplace computation during training.", name)
        size = tensor.size()
        kept = mask_size(size)
        mask = (_uniform(kept) > p).to(torch.float32).reshape(*kept, *[1] * (len(size) - len(kept))).expand(size)
        factor = mask.div(1.0 - p)
        ctx.save_multiple_for_backward([mask, p])
        return tensor.mul_(factor) if inplace else tensor.mul(factor)

    return forward


def _init(config_file: object = None, party_name: str | None = None, device: object = None) -> None:
    """In place of `crypten.init`: the session is there already."""
    communicator: Any = current_session().communicator
    if config_file is not None:
        refuse_call("crypten.init(config_file=...)")
    require_cpu(device)
    if party_name is not None:
        communicator.set_name(party_name)


def _uninit() -> None:
    """In place of `crypten.uninit`: the session ends with its block."""


def _is_initialized() -> bool:
    return find_script() is not None


def _hide_shares(tensor: Any) -> str:
    return f"{type(tensor).__name__}(size={tuple(tensor.size())}, shares withheld)"


def _install(crypten: Any) -> None:
    communicator = crypten.communicator
    communicator.get = lambda: current_session().communicator
    communicator.is_initialized = crypten.is_initialized = _is_initialized
    crypten.init, crypten.uninit, communicator.uninit = _init, _uninit, _uninit
    crypten.generators = _SessionGenerators()
    crypten.mpc.get_default_provider = lambda: current_session().provider
    _install_script_state(crypten)
    for operation in OPERATIONS:
        setattr(crypten.mpc.primitives.beaver, operation, beaver_protocol(operation))
    crypten.gradients.AutogradDropout.forward = staticmethod(_make_dropout("dropout", lambda size: size))
    crypten.gradients.AutogradFeatureDropout.forward = staticmethod(
        _make_dropout("_feature_dropout", lambda size: size[:2])
    )
    for kind in (
        crypten.mpc.MPCTensor,
        crypten.mpc.primitives.ArithmeticSharedTensor,
        crypten.mpc.primitives.BinarySharedTensor,
    ):
        kind.__repr__ = _hide_shares
    check_inputs(crypten)
    storage = Storage(crypten)
    for name in REPLACED:
        setattr(crypten, name, getattr(storage, name))
    for path, reason in FUNCTIONS.items():
        owner, _, name = path.rpartition(".")
        setattr(functools.reduce(getattr, owner.split(".")[1:], crypten), name, make_refusal(path, reason))
    replacements: dict[str, Any] = {
        "generate_random_ring_element": _random_ring_element,
        "generate_kbit_random_tensor": _random_bits,
        "cfg": SessionSettings(flatten(dict(crypten.cfg.config))),
    }
    # CrypTen's modules import these by name: replace them wherever they stand.
    for name, module in list(sys.modules.items()):
        if name == "crypten" or name.startswith("crypten."):
            _replace(module, replacements)


def _install_script_state(crypten: Any) -> None:
    """Make two values that CrypTen keeps for the process the session's: autograd's flag, and the tensor type."""

    def is_enabled(_: object) -> bool:
        script = find_script()
        return script is not None and script.autograd

    def enable(_: object, mode: object) -> None:
        current_script().autograd = bool(mode)

    def get_default_cryptensor_type() -> str:
        script = find_script()
        return "mpc" if script is None else script.tensor_type

    def set_default_cryptensor_type(cryptensor_type: str) -> None:
        if cryptensor_type not in kind.__CRYPTENSOR_TYPES__:
            raise ValueError(f"CrypTensor type {cryptensor_type} does not exist.")  # as CrypTen does
        current_script().tensor_type = cryptensor_type

    kind = crypten.CrypTensor
    type(kind).AUTOGRAD_ENABLED = property(is_enabled, enable)
    crypten.get_default_cryptensor_type = get_default_cryptensor_type
    crypten.set_default_cryptensor_type = set_default_cryptensor_type


def _replace(module: ModuleType, replacements: dict[str, Any]) -> None:
    for name, replacement in replacements.items():
        if hasattr(module, name):
            setattr(module, name, replacement)
