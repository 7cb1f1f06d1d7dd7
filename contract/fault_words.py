"""What a validator says of a value, for somebody who writes settings, cards and tables, and no programs.

No value is repeated: it may be a secret, or name a patient.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic_core import ErrorDetails

_TABLES: Final = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
_LISTS: Final = ("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type")
_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "is missing",
        "extra_forbidden": "there is no such field",
        "json_invalid": "the file is not JSON",
        **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
        **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
        "finite_number": "must be a finite number",
        **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
        **dict.fromkeys(("string_type", "string_unicode"), "must be text"),
        "path_type": "must be the path of a file or folder",
        **dict.fromkeys((*_TABLES, "is_instance_of"), "must be a table of fields"),
        **dict.fromkeys(_LISTS, "must be a list"),
        "greater_than": "must be more than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "too_short": "needs at least {min_length}",
        "too_long": "has more than {max_length}",
        "string_too_short": "is too short: the least is {min_length}",
        "string_too_long": "is longer than {max_length} characters",
        "string_pattern_mismatch": "is not of the form that it must have",
        **dict.fromkeys(("enum", "literal_error"), "must be {expected}"),
    }
)


def describe_fault(fault: ErrorDetails) -> str:
    """What is wrong, to stand behind the field's name and a colon. `fault`: with its context."""
    words = _WORDS.get(fault["type"])
    if words is None:  # ours, and what is rare
        return fault["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return words.format_map(fault.get("ctx", {}))
