"""Checks a script's arguments before anything is installed: a typing error is said in a second, not after a minute.

The options are read from the syntax tree of the very functions that declare them to typer, which is not there yet; so
there is one list of them. Standard library only, for any Python from 3.11:

    python -m demonstration.arguments demo --port 80 chest.dcm

Exit status 0: nothing wrong was found; `HELP_SHOWN`: help was asked for and printed; else that of the error.
"""

import argparse
import ast
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.errors import CallerError, EncryptedInferenceError
from demonstration.checks import check_demo
from federated_learning.loopback.arguments import images_to_train_on
from plumbing import argument_words as words
from plumbing.argument_words import refuse_empty

ROOT: Final = Path(__file__).resolve().parent.parent
COMMANDS_OF_BENCH: Final = ROOT / "benchmarks" / "commands.py"
HELP_SHOWN: Final = 100
SCRIPTS: Final = {
    "demo": (ROOT / "demonstration" / "__main__.py", "demo"),
    "federate": (ROOT / "federated_learning" / "federated_commands.py", "federate"),
}
"""Where the function of each script stands. Those of `scripts/bench` stand in one module together."""
_KINDS: Final[Mapping[str, type]] = {"int": int, "float": float, "str": str, "Path": Path}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a command, as typer is told of it."""

    name: str
    kind: type
    options: tuple[str, ...]
    """Such as `--json`; none for what has no option."""
    off: tuple[str, ...] = ()
    """For a flag: what turns it off, such as `--no-browser`."""
    required: bool
    repeated: bool
    choices: tuple[str, ...] = ()
    limits: Mapping[str, Any]
    """Other keywords of its declaration: min, max, exists, file_okay, dir_okay, metavar, help."""

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value."""
        return self.kind is bool

    def read(self, text: str) -> Any:
        """Its value. Raises argparse.ArgumentTypeError in the reader's terms."""
        if self.choices and text not in self.choices:
            raise argparse.ArgumentTypeError(words.wrong_choice(self.shown, self.choices))
        if self.kind in {int, float}:
            return self._read_number(text)
        value = self.kind(text)
        if isinstance(value, Path):
            self._check_path(value)
        return value

    @property
    def shown(self) -> str:
        """Its name for people: the option, or what stands for the word."""
        return max(self.options, key=len, default="") or str(self.limits.get("metavar") or self.name.upper())

    def _read_number(self, text: str) -> float:
        least, most = self.limits.get("min"), self.limits.get("max")
        try:
            value: float = self.kind(text)
            fits = words.is_within(value, least, most)
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            fault = words.wrong_number(self.shown, whole=self.kind is int, least=least, most=most)
            raise argparse.ArgumentTypeError(fault)
        return value

    def _check_path(self, path: Path) -> None:
        fault = None
        if self.limits.get("exists") and not path.exists():
            fault = "does not exist"
        elif path.exists() and path.is_dir() and self.limits.get("dir_okay") is False:
            fault = "is a folder"
        elif path.exists() and not path.is_dir() and self.limits.get("file_okay") is False:
            fault = "is a file"
        if fault is not None:
            raise argparse.ArgumentTypeError(words.wrong_path(self.shown, path, fault))


def read_parameters(path: Path, function: str) -> list[Parameter]:
    """The parameters of a command, from the source of the module that defines it."""
    arguments = _list_functions(path)[function].args
    positional: list[tuple[ast.arg, ast.expr | None]] = list(
        zip(
            arguments.args,
            [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults),
            strict=True,
        )
    )
    pairs = positional + list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    return [_read_parameter(argument, default, path) for argument, default in pairs]


def _read_parameter(argument: ast.arg, default: ast.expr | None, path: Path) -> Parameter:
    annotation, home = _resolve(argument.annotation, path)
    if not (isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple)):
        raise TypeError(f"{path}: {argument.arg} is not declared as Annotated[TYPE, typer.Option(...)]")
    written, declaration = annotation.slice.elts
    if not isinstance(declaration, ast.Call):
        raise TypeError(f"{path}: {argument.arg} has no declaration for typer")
    text = ast.unparse(written).removesuffix(" | None")
    repeated = text.startswith("list[")
    word = text.removeprefix("list[").removesuffix("]")
    kind, choices = _find_kind(word, home)
    names = [_read_constant(one) for one in declaration.args]
    on = tuple(name for one in names for name in str(one).split("/")[0].split() if name.startswith("-"))
    off = tuple(name for one in names for name in str(one).split("/")[1:])
    if not on and ast.unparse(declaration.func).endswith("Option"):
        option = argument.arg.replace("_", "-")
        on, off = (f"--{option}",), (f"--no-{option}",) if kind is bool else ()
    limits = {one.arg: _read_constant(one.value) for one in declaration.keywords if one.arg is not None}
    return Parameter(
        name=argument.arg,
        kind=kind,
        options=on,
        off=off,
        required=default is None,
        repeated=repeated,
        choices=choices,
        limits=limits,
    )


def _read_constant(node: ast.expr) -> Any:
    """What a literal stands for; None for anything that would have to be computed."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _find_kind(word: str, path: Path) -> tuple[type, tuple[str, ...]]:
    """A type by the name it has in a module, and what it allows if it is an enumeration of words."""
    if word == "bool":
        return bool, ()
    if word in _KINDS:
        return _KINDS[word], ()
    found = _find(word, path)
    node = found[0] if found else None
    if not isinstance(node, ast.ClassDef):
        raise TypeError(f"{path}: no type {word} that a command line could have")
    values = [_read_constant(one.value) for one in node.body if isinstance(one, ast.Assign)]
    return str, tuple(str(value) for value in values if value is not None)


def _resolve(node: ast.expr | None, path: Path) -> tuple[ast.expr | None, Path]:
    """An annotation with names of aliases followed, and the module in which it stands."""
    while isinstance(node, ast.Name):
        found = _find(node.id, path)
        if found is None or not isinstance(found[0], ast.expr):
            break
        node, path = found[0], found[1]
    return node, path


def _find(name: str, path: Path) -> tuple[ast.AST, Path] | None:
    """What a name of a module stands for: a class, or the value assigned, there or where it is imported from."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, path
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets):
            return node.value, path
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value is not None:
            return node.value, path
        if isinstance(node, ast.ImportFrom) and any(one.name == name for one in node.names):
            module = ROOT / str(node.module).replace(".", "/")
            file = module.with_suffix(".py") if module.with_suffix(".py").exists() else module / "__init__.py"
            return _find(name, file) if file.exists() else None
    return None


class _Parser(argparse.ArgumentParser):
    def __init__(self, program: str, options: Sequence[str]) -> None:
        super().__init__(prog=program, allow_abbrev=False)
        self._options = options

    def error(self, message: str) -> Any:
        raise CallerError(words.with_help(_explain(message, self._options), self.prog))


def _explain(message: str, options: Sequence[str]) -> str:
    """What argparse says of a wrong argument, in the words that are used once everything is installed."""
    if found := re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL):
        option = found[1].partition(" ")[0].partition("=")[0]
        similar = difflib.get_close_matches(option, options)
        return words.no_option(option, similar) if option.startswith("-") else words.unexpected(found[1])
    if found := re.fullmatch(r"the following arguments are required: (.*?)(, .*)?", message):
        return words.missing(found[1])
    if found := re.fullmatch(r"argument (.*?): (.*)", message, re.DOTALL):
        name, fault = found.groups()
        if fault.startswith("ignored explicit argument"):
            return words.takes_no_value(name)
        return words.no_value(name) if fault == "expected one argument" else fault
    return message


def make_parser(program: str, parameters: Sequence[Parameter]) -> argparse.ArgumentParser:
    """A parser that takes what typer would take."""
    parser = _Parser(program, [option for one in parameters for option in one.options])
    for one in parameters:
        text = str(one.limits.get("help") or "").replace("%", "%%")
        if one.is_flag:
            parser.add_argument(*one.options, dest=one.name, action="store_true", help=text)
            if one.off:
                parser.add_argument(*one.off, dest=one.name, action="store_false", help=argparse.SUPPRESS)
            continue
        shape: dict[str, Any] = {"type": one.read, "metavar": one.limits.get("metavar"), "help": text}
        if one.choices:
            shape["metavar"] = f"{{{','.join(one.choices)}}}"
        if one.options:
            if one.repeated:
                shape |= {"action": "append", "default": []}
            parser.add_argument(*one.options, dest=one.name, required=one.required, **shape)
        else:
            shape["metavar"] = str(shape["metavar"] or one.name).removesuffix(" ...")
            parser.add_argument(one.name, nargs=("+" if one.required else "*") if one.repeated else None, **shape)
    return parser


def check(script: str, arguments: Sequence[str]) -> bool:
    """Check the arguments of `scripts/SCRIPT`; False if they ask for help, which was printed. Raises CallerError."""
    refuse_empty(arguments)
    typed, program = list(arguments), f"scripts/{script}"
    if script in SCRIPTS:
        path, function = SCRIPTS[script]
    else:
        known = sorted(name for name in _list_functions(COMMANDS_OF_BENCH) if not name.startswith("_"))
        if not typed or typed[0] in {"-h", "--help"}:
            print(f"usage: {program} COMMAND [OPTION ...]\ncommands: {', '.join(known)}")  # noqa: T201 - asked for
            return False
        if typed[0] not in known:
            fault = words.no_command(typed[0], difflib.get_close_matches(typed[0], known))
            raise CallerError(words.with_help(fault, program))
        function = typed.pop(0)
        path, program = COMMANDS_OF_BENCH, f"{program} {function}"
    parser = make_parser(program, read_parameters(path, function))
    if {"-h", "--help"} & set(typed):
        parser.print_help()
        return False
    given = parser.parse_intermixed_args(typed)
    _check_together(script, given)
    return True


def _check_together(script: str, given: argparse.Namespace) -> None:
    """What the script itself asks first of all."""
    if script == "demo":
        check_demo(
            given.files,
            model=given.model,
            as_is=given.as_is,
            invert=given.invert,
            heat_map=given.heat_map,
            as_json=given.as_json,
            ui=given.ui,
            port=given.port or 0,
        )
    elif script == "federate":
        described = given.config is not None or given.description is not None
        images_to_train_on(given.data, given.manifest, output=given.output, smoke=given.smoke, described=described)


def _list_functions(path: Path) -> dict[str, ast.FunctionDef]:
    """The functions of a module, by name."""
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def main() -> None:
    """Entry point: the script's name, then its arguments."""
    script, *arguments = sys.argv[1:]
    try:
        goes_on = check(script, arguments)
    except EncryptedInferenceError as error:
        print(f"{script}: {error}", file=sys.stderr)  # noqa: T201 - nothing that prints better is installed
        sys.exit(error.exit_status)
    sys.exit(0 if goes_on else HELP_SHOWN)


if __name__ == "__main__":
    main()
