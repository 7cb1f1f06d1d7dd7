"""What click says of a wrong argument, in our words: one line, and where to read more."""

import re
from typing import Final

import click
from click.exceptions import NoSuchCommand

from plumbing import argument_words as words

_PATH_FAULT: Final = re.compile(r"\w+ '(?P<path>.*)' (?P<what>.*?)\.?")
_IS_FLAG: Final = "does not take a value."
_NO_COMMAND: Final = "Missing command."
_TOO_MANY: Final = re.compile(r"Got unexpected extra arguments? \((?P<words>.*)\)", re.DOTALL)


def explain_usage(error: click.ClickException, *, program: str) -> str:
    """The line for an error that click raised. `program`: what was typed, if no command of it was found."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = program if context is None else context.command_path
    return words.with_help(_explain(error, context), command)


def _explain(error: click.ClickException, context: click.Context | None) -> str:
    match error:
        case click.MissingParameter(param=click.Parameter() as parameter):
            return words.missing(_name(parameter, context))
        case click.BadParameter(param=click.Parameter() as parameter):
            return _explain_value(error.message, parameter, context)
        case click.NoSuchOption():
            return words.no_option(error.option_name, error.possibilities or ())
        case NoSuchCommand():
            return words.no_command(error.command_name, error.possibilities or ())
        case click.BadOptionUsage():
            is_flag = error.message.endswith(_IS_FLAG)
            return words.takes_no_value(error.option_name) if is_flag else words.no_value(error.option_name)
    return _explain_rest(error.message)


def _explain_rest(message: str) -> str:
    """What has no class of its own."""
    if message == _NO_COMMAND:
        return words.MISSING_COMMAND
    too_many = _TOO_MANY.fullmatch(message)
    return words.unexpected(too_many["words"]) if too_many else _plain(message)


def _explain_value(message: str, parameter: click.Parameter, context: click.Context | None) -> str:
    name = _name(parameter, context)
    match parameter.type:
        case click.IntRange() | click.FloatRange() as kind:
            whole = isinstance(kind, click.IntRange)
            return words.wrong_number(name, whole=whole, least=kind.min, most=kind.max)
        case kind if kind is click.INT or kind is click.FLOAT:
            return words.wrong_number(name, whole=kind is click.INT, least=None, most=None)
        case click.Choice() as kind:
            return words.wrong_choice(name, map(str, kind.choices))
        case click.Path():
            fault = _PATH_FAULT.fullmatch(message)
            if fault:
                return words.wrong_path(name, fault["path"], fault["what"].replace("directory", "folder"))
    return f"{name}: {_plain(message)}"


def _name(parameter: click.Parameter, context: click.Context | None) -> str:
    if isinstance(parameter, click.Option) or context is None:
        return max(parameter.opts, key=len)
    return parameter.make_metavar(context).strip("[]")


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".")
