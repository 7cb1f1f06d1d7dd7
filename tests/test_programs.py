"""What all programs of the project have in common on the command line."""

import tomllib
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Annotated

import pytest
import typer
from click import Command, Group
from click.types import FloatParamType, IntParamType
from typer.main import get_command, get_group
from typer.testing import CliRunner

from contract.ticket import Engine
from plumbing.command_line import new_app, refuse_no_number, run

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
PROGRAMS: dict[str, str] = PROJECT["scripts"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_and_each_of_its_commands_knows_both_words_for_help(program: str) -> None:
    app = import_module(PROGRAMS[program].partition(":")[0]).app
    shown: dict[str, set[str]] = {"-h": set(), "--help": set()}
    for word, texts in shown.items():
        for command in ([], *([name] for name in get_group(app).commands)):
            done = CliRunner().invoke(app, [*command, word], prog_name=program)
            assert done.exit_code == 0, done.output
            texts.add(done.output)
    assert shown["-h"] == shown["--help"]
    assert all("Usage: " in text for text in shown["-h"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_which_version_it_is(program: str) -> None:
    app = import_module(PROGRAMS[program].partition(":")[0]).app
    done = CliRunner().invoke(app, ["--version"], prog_name=program)
    assert (done.exit_code, done.output) == (0, f"{program} {PROJECT['version']}\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_shell_can_complete_the_commands_of_every_program(program: str) -> None:
    app = import_module(PROGRAMS[program].partition(":")[0]).app
    asked = {
        f"_{program.replace('-', '_').upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": f"{program} ",
        "COMP_CWORD": "1",
    }
    done = CliRunner().invoke(app, [], prog_name=program, env=asked)
    assert done.output.split() == list(get_group(app).commands)


@pytest.mark.parametrize(("package", "status"), [("flwr.common", 5), ("matplotlib", 5), ("of_ours", None)])
def test_who_trains_without_the_packages_for_it_reads_what_to_install(
    package: str, status: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    app = new_app("A test.")

    @app.command()
    def work() -> None:
        raise ModuleNotFoundError(name=package)

    if status is None:
        with pytest.raises(ModuleNotFoundError):
            run(app, name="test", arguments=[])
        return
    with pytest.raises(SystemExit) as ended:
        run(app, name="test", arguments=[])
    assert ended.value.code == status
    assert capsys.readouterr().err == (
        "test: training needs more packages: run pip install '.[training]' in the project's folder\n"
    )


WRONG = [
    (["--batch", "0", "x.png"], "--batch takes a whole number from 1 to 16; see trial diagnose --help"),
    (["--batch", "many", "x.png"], "--batch takes a whole number from 1 to 16; see trial diagnose --help"),
    (["--share", "2", "x.png"], "--share takes a number from 0.000001 to 1; see trial diagnose --help"),
    (["--share", "nan", "x.png"], "--share takes a number from 0.000001 to 1; see trial diagnose --help"),
    (["--seconds", "inf", "x.png"], "--seconds takes a number of at least 0; see trial diagnose --help"),
    (["--count", "1.5", "x.png"], "--count takes a whole number; see trial diagnose --help"),
    (["--engine", "fast", "x.png"], "--engine takes crypten or masked; see trial diagnose --help"),
    (["--config", "missing.toml", "x.png"], "--config: missing.toml does not exist; see trial diagnose --help"),
    (["--config", ".", "x.png"], "--config: . is a folder; see trial diagnose --help"),
    (["--bacht", "2", "x.png"], "there is no option --bacht (do you mean --batch?); see trial diagnose --help"),
    (["--wrong", "x.png"], "there is no option --wrong; see trial diagnose --help"),
    ([], "FILE ... is missing; see trial diagnose --help"),
    (["--batch"], "--batch needs a value; see trial --help"),
    (["--json=1", "x.png"], "--json takes no value; see trial --help"),
    (["--config", "", "x.png"], "--config is empty: give it a value, or leave it out"),
    (["--config=", "x.png"], "--config is empty: give it a value, or leave it out"),
    (["x.png", ""], "an argument is empty: give it a value, or leave it out"),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG)
def test_a_wrong_argument_is_one_line_in_our_words(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = new_app("A test.")

    @app.command()
    def diagnose(
        files: Annotated[list[Path], typer.Argument(metavar="FILE ...")],
        config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
        batch: Annotated[int, typer.Option(min=1, max=16)] = 1,
        share: Annotated[float, typer.Option(min=1e-6, max=1.0, callback=refuse_no_number)] = 1.0,
        seconds: Annotated[float, typer.Option(min=0, callback=refuse_no_number)] = 1.0,
        count: Annotated[int, typer.Option()] = 1,
        engine: Annotated[Engine, typer.Option()] = Engine.MASKED,
        *,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        del files, config, batch, share, seconds, count, engine, as_json

    @app.command()
    def other(word: Annotated[str, typer.Argument()]) -> None:
        del word

    assert end(app, "diagnose", *arguments) == 2
    assert capsys.readouterr() == ("", f"trial: {line}\n")
    assert end(app, "diagnosis") == 2
    assert capsys.readouterr().err == "trial: there is no command diagnosis (do you mean diagnose?); see trial --help\n"
    assert end(app, "other", "one", "two") == 2
    assert capsys.readouterr().err == "trial: two: not expected here; see trial other --help\n"
    assert end(app, "diagnose", "x.png") == 0


def end(app: typer.Typer, *arguments: str) -> object:
    """The exit status of a call."""
    with pytest.raises(SystemExit) as ended:
        run(app, name="trial", arguments=arguments)
    return ended.value.code


def list_commands(command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[Command, tuple[str, ...]]]:
    """A command and all within it, each with the words that lead there."""
    yield command, path
    for name, inner in command.commands.items() if isinstance(command, Group) else ():
        yield from list_commands(inner, (*path, name))


MODULES = (*(entry.partition(":")[0] for entry in PROGRAMS.values()), "demonstration.__main__", "benchmarks.__main__")


@pytest.mark.parametrize("module", MODULES)
def test_every_option_that_takes_a_number_refuses_what_is_none(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = import_module(module).app
    for command, path in list_commands(get_command(app)):
        for option in command.params:
            whole = isinstance(option.type, IntParamType)
            if not whole and not isinstance(option.type, FloatParamType):
                continue
            for text in ("nan", "inf", "-inf", "1e400", "many"):
                assert end(app, *path, option.opts[0], text) == 2
                noun = "a whole number" if whole else "a number"
                assert capsys.readouterr().err.startswith(f"trial: {option.opts[0]} takes {noun}"), (path, text)


def test_a_question_that_is_not_answered_with_yes_stops_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app("A test.")

    @app.command()
    def sign() -> None:
        typer.confirm("Sign?", abort=True, err=True)

    monkeypatch.setattr("sys.stdin", StringIO("no\n"))
    assert end(app) == 1
    assert capsys.readouterr().err.endswith("trial: stopped; nothing was changed\n")
