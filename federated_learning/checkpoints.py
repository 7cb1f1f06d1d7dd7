"""Arrays by name in a file: what is needed to go on after a crash. Nothing in such a file is ever run."""

import json
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


def write_facts(facts: Mapping[str, Any]) -> NDArray[Any]:
    """What JSON can hold, as an array of a checkpoint."""
    return np.array(json.dumps(facts))


def read_facts(state: Mapping[str, NDArray[Any]], name: str = "facts") -> dict[str, Any]:
    """What `write_facts` made the array of that name of."""
    facts: dict[str, Any] = json.loads(str(state[name]))
    return facts


def add_prefix(prefix: str, arrays: Mapping[str, NDArray[Any] | Tensor]) -> Arrays:
    """Copies of arrays or tensors, under prefix/name."""
    plain = {name: value.detach().numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()}
    return {f"{prefix}/{name}": np.array(value) for name, value in plain.items()}


def select_prefix(state: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """The arrays that `add_prefix` put there."""
    begin = f"{prefix}/"
    return {name.removeprefix(begin): state[name] for name in state if name.startswith(begin)}


def select_tensors(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Tensor]:
    """The tensors that `add_prefix` put there, as copies."""
    return {name: torch.tensor(array) for name, array in select_prefix(state, prefix).items()}
