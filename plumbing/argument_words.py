"""What is wrong with a typed argument, in the same words before anything is installed and after.

Standard library only. A name is what the reader types or sees in --help: `--batch`, `FILE ...`.
"""

import math
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Final

from contract.errors import CallerError

_ALIKE: Final = 0.7
MISSING_COMMAND: Final = "a command is missing"


def missing(name: str) -> str:
    return f"{name} is missing"


def no_option(name: str, similar: Sequence[str] = ()) -> str:
    return f"there is no option {name}{_suggest(name, similar)}"


def no_command(name: str, similar: Sequence[str] = ()) -> str:
    return f"there is no command {name}{_suggest(name, similar)}"


def _suggest(name: str, similar: Sequence[str]) -> str:
    """What may be meant: dashes in front, which all have in common, do not make words alike."""
    alike = [one for one in similar if SequenceMatcher(a=name.strip("-"), b=one.strip("-")).ratio() >= _ALIKE]
    return f" (do you mean {' or '.join(sorted(alike))}?)" if alike else ""


def unexpected(words: str) -> str:
    return f"{words}: not expected here"


def no_value(name: str) -> str:
    return f"{name} needs a value"


def takes_no_value(name: str) -> str:
    return f"{name} takes no value"


def wrong_choice(name: str, choices: Iterable[str]) -> str:
    return f"{name} takes {' or '.join(choices)}"


def wrong_number(name: str, *, whole: bool, least: float | None, most: float | None) -> str:
    noun = "a whole number" if whole else "a number"
    if least is not None and most is not None:
        return f"{name} takes {noun} from {_write(least)} to {_write(most)}"
    if least is not None:
        return f"{name} takes {noun} of at least {_write(least)}"
    return f"{name} takes {noun}" if most is None else f"{name} takes {noun} of at most {_write(most)}"


def _write(number: float) -> str:
    """Without exponent: 0.000001, 1000000."""
    return str(number) if isinstance(number, int) else f"{number:f}".rstrip("0").rstrip(".")


def is_within(value: float, least: float | None, most: float | None) -> bool:
    """Whether it is a finite number within its range, ends included: nan passes comparisons, and infinity some."""
    return math.isfinite(value) and (least is None or value >= least) and (most is None or value <= most)


def wrong_path(name: str, path: object, what: str) -> str:
    return f"{name}: {path} {what}"


def with_help(fault: str, command: str) -> str:
    """A fault and where to read more."""
    return f"{fault}; see {command} --help"


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raise CallerError for an empty argument: of a script's variable without a value; as a path, it is a folder."""
    for number, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if equals and not value and option.startswith("--"):
            raise CallerError(f"{option} is empty: give it a value, or leave it out")
        if not word:
            before = arguments[number - 1] if number else ""
            what = before if before.startswith("-") and before.strip("-") and "=" not in before else "an argument"
            raise CallerError(f"{what} is empty: give it a value, or leave it out")
