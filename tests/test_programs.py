"""What all programs of the project have in common on the command line."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_group
from typer.testing import CliRunner

PROGRAMS = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]["scripts"]


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
