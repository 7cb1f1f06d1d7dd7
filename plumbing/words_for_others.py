"""What one party tells another of an error: what it means for the other, and nothing of its own machine.

An error's own words are for the party at whose machine it happened: they name files, addresses, proxies. What crosses
to another party, or to the front end where other parties read it, goes through `words_for_others`.
"""

import re
from typing import Final

from contract.errors import (
    ConfigurationError,
    EncryptedInferenceError,
    MaterialSpent,
    PeerUnreachable,
    TransportError,
)
from plumbing.command_line import one_line

MAX_CHARACTERS: Final = 500
_MOST_LOOKED_AT: Final = 4 * MAX_CHARACTERS
_SOMEBODY: Final = "another party"
_PRIVATE: Final = (
    (re.compile(r"\b(?!party://)[a-z][a-z0-9+.-]*://[^\s'\"]+"), "an address"),
    (re.compile(r"[\w.+-]+@[\w.-]+"), "an address"),
    (re.compile(r"\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\](?::\d+)?"), "an address"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"), "an address"),
    (re.compile(r"\b(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+):\d{1,5}\b"), "an address"),
    (re.compile(r"(?<![\w.:/~-])~?/(?!v2/)[^\s'\",;:()]*[^\s'\",;:().]"), "a file"),
)
"""What looks like an address or a path, whoever wrote it: the second line, behind the choice of words."""


def words_for_others(error: EncryptedInferenceError, *, own: str) -> str:
    """An error in one line for another party. `own`: this party as messages name it.

    Of what is wrong with this party's machine only that something is. Of a link, which party is at its other end, not
    where. Anything else is about what the parties said to each other, and passes as it is.
    """
    match error:
        case MaterialSpent():
            words = one_line(error)
        case ConfigurationError():
            words = (
                f"something is wrong on the machine of the {own}, where more is in the log: tell its operator, and try "
                "again later"
            )
        case PeerUnreachable():
            words = (
                f"{_without_place(error.peer)} cannot be reached by the {own}: try again later, or tell its operator"
            )
        case TransportError():
            words = one_line(error)
            if error.peer:
                words = words.replace(error.peer, _without_place(error.peer))
        case _:
            words = one_line(error)
    return without_places(words)[:MAX_CHARACTERS]


def without_places(words: str) -> str:
    """Words without anything that looks like an address or a path."""
    words = words[:_MOST_LOOKED_AT]
    for pattern, instead in _PRIVATE:
        words = pattern.sub(instead, words)
    return words


def _without_place(peer: str) -> str:
    """`the dealer at host:port, through a proxy` without where it is."""
    return peer.partition(", through ")[0].partition(" at ")[0] or _SOMEBODY
