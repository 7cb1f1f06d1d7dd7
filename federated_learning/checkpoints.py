"""Arrays by name in a file: what is needed to go on after a crash. Nothing in such a file is ever run."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.errors import ConfigurationError
from contract.files import explaining_failure, replacing_file

Arrays = dict[str, NDArray[Any]]


def save(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write an .npz so that a crash leaves either the old file or the new one, and that one once this returns.

    It is for its owner only (0600): a hospital's holds its own update. Raises ConfigurationError if the disk will not.
    """
    with explaining_failure(path), replacing_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read(path: Path) -> Arrays:
    """Arrays written by `save`. Raises ConfigurationError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path}: is not a readable checkpoint; remove it to start over") from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Arrays:
    """Tensors as arrays under prefix/name."""
    return {f"{prefix}/{name}": value.detach().numpy() for name, value in tensors.items()}


def part(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Tensor]:
    """The tensors that `with_prefix` put there, as copies."""
    begin = f"{prefix}/"
    return {name.removeprefix(begin): torch.tensor(state[name]) for name in state if name.startswith(begin)}
