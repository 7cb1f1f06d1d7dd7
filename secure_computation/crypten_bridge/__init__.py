"""The only place that touches CrypTen's process-wide state: its import, communicator, random streams and tuples."""

from importlib.util import find_spec
from typing import Final

from contract.errors import ConfigurationError

SUPPORTED_VERSION: Final = "0.4.1"
HOW_TO_INSTALL: Final = f"pip install --no-deps crypten=={SUPPORTED_VERSION} omegaconf pyyaml"
"""Without what its metadata asks for: that includes the dead `sklearn`, so pip cannot install it as a dependency."""


def is_installed() -> bool:
    """Whether CrypTen is on this machine. Loads nothing."""
    try:
        return find_spec("crypten") is not None
    except ImportError:
        return False


def not_installed(what: str = "the engine 'crypten'") -> ConfigurationError:
    """The error if it is missing. `what`: what needs it."""
    return ConfigurationError(f"{what} needs CrypTen, which is not installed on this machine: run {HOW_TO_INSTALL}")
