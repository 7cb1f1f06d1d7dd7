"""What is wrong with a file, for somebody who writes settings and no programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from contract.errors import ConfigurationError
from contract.files import read_bounded

T = TypeVar("T")

WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "json_invalid": "the file is not JSON",
    "string_pattern_mismatch": "is not of the form that it must have",
    "model_type": "must be a table of fields",
    "model_attributes_type": "must be a table of fields",
    "tuple_type": "must be a list",
}


def explain_fault(error: ValidationError) -> str:
    """The first thing that is wrong, as `field: words`. Says no value: a file may hold names."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    words = WORDS.get(first["type"], first["msg"].removeprefix("Value error, ").replace("Input should", "must"))
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {words}" if where else words


def read_json(
    path: Path, validate: Callable[[bytes], T], *, limit: int = 1 << 24, remedy: str = "correct the file"
) -> T:
    """What `validate` makes of a file. Raises ConfigurationError that names the field which is wrong, and `remedy`."""
    try:
        return validate(read_bounded(path, limit=limit))
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {explain_fault(error)}; {remedy}") from error
