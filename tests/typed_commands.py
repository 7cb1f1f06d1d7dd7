"""Command lines as documents and messages have them, and whether the real commands take them."""

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer.main
from click import ClickException, Command, Context, Group

ROOT = Path(__file__).resolve().parent.parent
ENTRY_POINTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SCRIPTS = {
    "scripts/demo": ("demonstration.__main__", ()),
    "scripts/bench": ("benchmarks.__main__", ()),
    "scripts/federate": ("federated_learning.loopback.__main__", ()),
}
_ENDS = re.compile(r"[|>&;]")
_PROGRAMS = "|".join(sorted(map(re.escape, (*ENTRY_POINTS, *SCRIPTS)), key=len, reverse=True))
_BEGINS = re.compile(rf"^(?:\$ |sudo |export \w+=\S+ |\w+=\S+ )*(?:\.venv/bin/)?(?P<program>{_PROGRAMS})(?= |$)")
_INLINE = re.compile(rf"`((?:{_PROGRAMS}) [^`]+)`")


@dataclass(frozen=True)
class Typed:
    """One command line. `whole`: it stands in a block, to be typed as it is; else it is named in a sentence."""

    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return " ".join(self.words)


def commands_in_blocks(text: str) -> Iterator[Typed]:
    """Lines of fenced or indented code that begin with one of our programs, continued lines joined."""
    fenced = False
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield from _typed(line.strip(), whole=True)


def commands_in_sentences(text: str) -> Iterator[Typed]:
    """What stands in backticks: with options it must be complete, without it names a command."""
    for match in _INLINE.finditer(re.sub(r"\s*\n\s*", " ", text)):
        yield from _typed(match.group(1), whole=" --" in match.group(1))


_MENTION = re.compile(rf"(?<![\w/-])(?:{_PROGRAMS}) [a-z][a-z-]*(?: (?:--[a-z][a-z-]*|[\w{{}}./\[\]-]*[\w{{}}\]]))*")


def commands_in_source(source: str) -> Iterator[Typed]:
    """Commands with options in what a module says, not in its docstrings. What an f-string fills in is one word."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else "VALUE" for one in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | told:
            text = node.value
        for match in _MENTION.finditer(text):
            if " --" in match.group():
                yield Typed(words=tuple(match.group().split()), whole=True)


def _typed(line: str, *, whole: bool) -> Iterator[Typed]:
    found = _BEGINS.match(line)
    if found is None:
        return
    rest = _ENDS.split(line[found.start("program") :])[0]
    words = shlex.split(rest, comments=True)
    yield Typed(words=tuple(word for word in words if word != "..."), whole=whole)


@cache
def _command(program: str) -> tuple[Command, tuple[str, ...]]:
    """A program's click command, and words that come before those that are typed."""
    if program in SCRIPTS:
        module, before = SCRIPTS[program]
    else:
        module, before = ENTRY_POINTS[program].split(":")[0], ()
    return typer.main.get_command(importlib.import_module(module).app), before


def fault(typed: Typed) -> str | None:
    """What the command would say to the options of this line; None where it takes them. Values are not looked at."""
    program, *words = typed.words
    command, before = _command(program)
    words = [*before, *words]
    while isinstance(command, Group):
        if not words or words[0] in {"--help", "-h", *(name for one in command.params for name in one.opts)}:
            return None
        if words[0] not in command.commands:
            return f"there is no {words[0]}"
        command = command.commands[words.pop(0)]
    if {"--help", "-h"} & set(words):
        return None
    try:
        given, rest, _ = command.make_parser(Context(command)).parse_args(list(words))
    except ClickException as error:
        return error.format_message()
    if not typed.whole:
        return None
    if rest:
        return f"{rest[0]} is too much"
    # What was not given is None, empty or, in newer versions of click, a sentinel of its own.
    present = {name for name, value in given.items() if isinstance(value, str | bool | list | tuple) and value}
    missing = [one for one in command.params if one.required and one.name not in present]
    return f"{missing[0].opts[0]} is missing" if missing else None
