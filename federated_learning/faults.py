"""What is wrong with a file, for somebody who writes settings and no programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from contract.errors import ConfigurationError
from contract.fault_words import describe_fault
from contract.files import read_bounded

T = TypeVar("T")
MOST_FAULTS = 20
"""That are told at once."""


def explain_fault(error: ValidationError) -> str:
    """What is wrong, each as `field: words`. Says no value: a file may hold names."""
    lines = []
    for fault in error.errors(include_url=False, include_input=False)[:MOST_FAULTS]:
        where = ".".join(str(part) for part in fault["loc"])
        lines.append(f"{where}: {describe_fault(fault)}" if where else describe_fault(fault))
    return "; also ".join(dict.fromkeys(lines))


def read_json(
    path: Path, validate: Callable[[bytes], T], *, limit: int = 1 << 24, remedy: str = "correct the file"
) -> T:
    """What `validate` makes of a file. Raises ConfigurationError that names the field which is wrong, and `remedy`."""
    try:
        return validate(read_bounded(path, limit=limit))
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {explain_fault(error)}; {remedy}") from error
