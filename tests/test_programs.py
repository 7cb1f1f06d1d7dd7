"""What all programs of the project have in common on the command line."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_group
from typer.testing import CliRunner

from plumbing.command_line import new_app, run

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
