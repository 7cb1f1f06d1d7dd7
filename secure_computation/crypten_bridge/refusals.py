"""What of CrypTen a session refuses, each by its name and with the reason. `docs/crypten.md` shows these tables."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from contract.errors import ConfigurationError

FUNCTIONS: Final[Mapping[str, str]] = {
    "crypten.manual_seed": "a seed that somebody chose can be guessed; each session draws its own",
    "crypten.init_thread": "a session holds for one thread; use run_in_process for both parties in one process",
    "crypten.trace": "tuples are dealt when they are asked for, so there is nothing to trace",
    "crypten.trace_once": "tuples are dealt when they are asked for, so there is nothing to trace",
    "crypten.fill_cache": "tuples are dealt when they are asked for and used once, so none are kept",
    "crypten.common.serial.register_safe_class": "no pickle is read, so no class is safe in one",
    "crypten.common.serial.restricted_loads": "reading a pickle can run code",
    "crypten.mpc.provider.TrustedFirstParty": "with it, rank 0 would know every mask and so every value",
    "crypten.mpc.provider.TrustedThirdParty": "its seeds have 64 bits; the dealer of the session takes its place",
    "crypten.mpc.provider.HomomorphicProvider": "CrypTen has only its name; the dealer of the session takes its place",
    "crypten.mpc.run_multiprocess": "it would start parties without sessions; use run_in_process or join_session",
    "crypten.nn.from_pytorch": "CrypTen's converter does not work with this torch; build the network of crypten.nn",
    "crypten.nn.from_onnx": "CrypTen's converter does not work with this torch; build the network of crypten.nn",
    "crypten.nn.from_tensorflow": "CrypTen's converter does not work with this torch; build the network of crypten.nn",
}
"""By the name that a script calls."""

COMMUNICATOR: Final[Mapping[str, str]] = {
    "isend": "frames are numbered and checked in order; use send",
    "irecv": "frames are numbered and checked in order; use recv",
    "get_distributed_backend": "parties speak over channels of this project, not over torch.distributed",
    "get_ttp_rank": "the dealer takes no part in the computation and has no rank",
    "main_group": "there is one group, of both parties",
}
"""By the attribute of `crypten.communicator.get()`."""

GENERATORS: Final[Mapping[str, str]] = {
    "initial_seed": "a seed of a session is never shown",
    "manual_seed": "a seed that somebody chose can be guessed; each session draws its own",
    "seed": "a seed of a session is never shown",
    "get_state": "whoever knows a stream's state knows what it gives next",
    "set_state": "a stream is read once, from its beginning",
}
"""By the method of `crypten.generators[name][device]`."""

CALLS: Final[Mapping[str, str]] = {
    "crypten.init(config_file=...)": "a file would set everything at once; set what differs in crypten.cfg",
    "crypten.cfg.load_config": "a file would set everything at once; set what differs in crypten.cfg",
    "crypten.load_from_party(encrypted=True)": "CrypTen has only its name; use crypten.load for shares",
    "crypten.load_from_party(model_class=...)": "a class would come as a pickle; load its tensors one by one",
    "a reduction that is neither SUM nor BXOR": "no sharing is opened by it",
    "a device that is not the CPU": "the protocols here compute on the CPU",
    "a ring that is not of 64 bits": "tuples are dealt in the ring of integers mod 2^64",
}
"""By what is asked for in a call that is otherwise offered."""

SETTINGS: Final[Mapping[str, str]] = {
    "mpc.provider": "the dealer of the session gives all tuples",
    "mpc.protocol": "two parties compute with Beaver's protocol; 'replicated' needs three",
    "mpc.active_security": "both parties trust the dealer to deal correctly; tuples are not checked again",
    "debug.debug_mode": "it would print what is encrypted",
    "debug.validation_mode": "it would open every value to compare it",
}
"""By the name of the setting: CrypTen's default is accepted, every other value is refused."""


def refuse(name: str, reason: str) -> NoReturn:
    """Raise ConfigurationError."""
    raise ConfigurationError(f"{name} is not offered in a session: {reason}")


def refuse_call(name: str) -> NoReturn:
    """Raise ConfigurationError for one of `CALLS`."""
    refuse(name, CALLS[name])


def make_refusal(name: str, reason: str) -> Callable[..., Any]:
    """What stands in for a function of CrypTen that is refused."""

    def refused(*_arguments: object, **_named: object) -> NoReturn:
        refuse(name, reason)

    return refused
