"""What is wrong with a file, for somebody who writes settings and no programs."""

from pydantic import ValidationError

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
