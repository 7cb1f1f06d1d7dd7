"""A typing error is said before anything is installed or started."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.main
from click import Command, Group, Option

import benchmarks.__main__
import federated_learning.command
from contract.errors import CallerError, ConfigurationError
from demonstration.__main__ import app as demo_app
from demonstration.arguments import COMMANDS_OF_BENCH, SCRIPTS, check, read_parameters

ROOT = Path(__file__).resolve().parents[2]


def commands() -> list[tuple[str, Command]]:
    """What each script runs, as typer knows it."""
    bench = typer.main.get_command(benchmarks.__main__.app)
    federated = typer.main.get_command(federated_learning.command.app)
    assert isinstance(bench, Group)
    assert isinstance(federated, Group)
    own = [("demo", typer.main.get_command(demo_app)), ("federate", federated.commands["federate"])]
    return own + [(f"bench {name}", command) for name, command in bench.commands.items()]


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_options_are_read_as_typer_reads_them(name: str, command: Command) -> None:
    script, _, sub = name.partition(" ")
    path, function = SCRIPTS.get(script, (COMMANDS_OF_BENCH, sub))
    ours = {one.name: one for one in read_parameters(path, function)}
    assert set(ours) == {parameter.name for parameter in command.params}
    for parameter in command.params:
        read = ours[str(parameter.name)]
        options = parameter.opts if isinstance(parameter, Option) else []
        assert list(read.options) == options, parameter.name
        assert list(read.off) == (parameter.secondary_opts if isinstance(parameter, Option) else [])
        assert (read.required, read.repeated) == (parameter.required, parameter.multiple or parameter.nargs == -1)
        assert read.is_flag == (isinstance(parameter, Option) and parameter.is_flag)
        assert sorted(read.choices) == sorted(getattr(parameter.type, "choices", ()))
        assert read.limits.get("min") == getattr(parameter.type, "min", None)
        assert read.limits.get("max") == getattr(parameter.type, "max", None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("demo missing.dcm", "missing.dcm: cannot be opened (No such file or directory): check the path"),
        ("demo .", ".: this is a folder; give the files in it, one by one"),
        ("demo --bogus", "there is no option --bogus; see scripts/demo --help"),
        ("demo --engine fast", "--engine takes crypten or masked; see scripts/demo --help"),
        ("demo --engine", "--engine needs a value; see scripts/demo --help"),
        ("demo --json=yes", "--json takes no value; see scripts/demo --help"),
        ("demo --port many", "--port takes a whole number from 0 to 65535; see scripts/demo --help"),
        ("demo --ui --port 70000", "--port takes a whole number from 0 to 65535"),
        ("demo --heat-map=", "--heat-map is empty: give it a value, or leave it out"),
        ("demo --ui chest.png", "with --ui images are dropped on the page: leave out FILE"),
        ("demo --ui --invert", "leave out FILE, --json, --heat-map, --as-is and --invert"),
        ("demo --ui --as-is", "leave out FILE, --json, --heat-map, --as-is and --invert"),
        ("demo --as-is --invert chest.png", "--as-is and --invert exclude each other: give one for all FILEs"),
        ("demo --port 8080", "--port is the page's: add --ui"),
        ("demo --model here", "model.onnx: cannot be opened (No such file or directory): --model takes a folder"),
        ("demo chest.png --heat-map map.jpg", "a heat map is written as PNG"),
        ("demo chest.png --heat-map chest.png", "exists already; name another place"),
        ("demo chest.png --heat-map no/such/map.png", "not a folder that can be written"),
        ("federate", "give images with --data and --manifest"),
        ("federate --data .", "--data and --manifest belong together"),
        ("federate --data . --manifest chest.png --output new", "say what the model is with --description"),
        ("federate --hospitals 2 --smoke", "--hospitals takes a whole number of at least 3"),
        ("federate --data nowhere", "--data: nowhere does not exist"),
        ("federate --config .", "--config: . is a folder"),
        ("federate --output chest.png --smoke", "--output: chest.png is a file"),
        ("bench fly", "there is no command fly; see scripts/bench --help"),
        ("bench latency --run 3", "there is no option --run (do you mean --runs?); see scripts/bench latency --help"),
        ("bench endurance --minutes -1", "--minutes takes a number of at least 0"),
        ("bench endurance --minutes nan", "--minutes takes a number of at least 0"),
        ("bench endurance --timeout inf", "--timeout takes a number of at least 1"),
        ("bench agreement", "FILE|FOLDER is missing"),
        ("bench figures now", "now: not expected here"),
    ],
)
def test_a_mistake_is_named(line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDICAL_DATA", raising=False)
    (tmp_path / "chest.png").write_bytes(b"")
    script, *arguments = line.split()
    with pytest.raises((CallerError, ConfigurationError)) as caught:
        check(script, arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "demo",
        "demo chest.png --json chest.png --engine=crypten",
        "demo --invert --heat-map map.png chest.png",
        "demo --as-is chest.png",
        "demo --ui --port 0",
        "federate --smoke",
        "federate --data . --manifest chest.png --output new --rounds 3 --description own.json",
        "bench latency --engines masked --runs 1 --json",
        "bench peers --no-install",
        "bench agreement . --role one --role two --manifest chest.png",
    ],
)
def test_what_is_right_passes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chest.png").write_bytes(b"")
    script, *arguments = line.split()
    assert check(script, arguments)


def test_a_busy_port_of_the_page_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1:{port}: another program.*--port"):
            check("demo", ["--ui", "--port", str(port)])


@pytest.mark.parametrize("line", ["demo --help", "federate -h", "bench", "bench --help", "bench growth --help"])
def test_help_needs_nothing_installed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    script, *arguments = line.split()
    assert not check(script, arguments)
    assert f"usage: scripts/{script}" in capsys.readouterr().out


def scripts_without_environment(folder: Path) -> Path:
    """What a fresh clone holds of what the scripts need before they install, and a pip that must not be asked."""
    for name in ("contract", "plumbing", "data_owner", "demonstration", "federated_learning", "benchmarks", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_scripts_say_so_before_they_install(tmp_path: Path) -> None:
    root = scripts_without_environment(tmp_path)
    environment = os.environ | {"PYTHON": sys.executable}

    def call(script: str, *arguments: str) -> tuple[int, str]:
        command = [str(root / "scripts" / script), *arguments]
        done = subprocess.run(command, cwd=root.parent, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert call("demo", "missing.dcm")[1].startswith("demo: missing.dcm: cannot be opened")
    assert call("demo", "--help")[0] == 0
    assert call("federate", "--hospital", "3") == (
        2,
        "federate: there is no option --hospital (do you mean --hospitals?); see scripts/federate --help",
    )
    assert call("demo", "") == (2, "demo: an argument is empty: give it a value, or leave it out")
    assert call("bench", "latency", "--run", "3")[0] == 2
    assert call("test", "tests/nothing.py")[1].startswith("scripts/test: there is no tests/nothing.py")
    assert call("test", "--bogus") == (2, "scripts/test: no option --bogus here; put it after -- if pytest knows it")
    assert call("test", "-k")[1] == "scripts/test: -k needs a value"
    assert call("lint", "all") == (2, "usage: scripts/lint [--fix]")
    assert call("fuzz", "codec", "many")[0] == 2
    assert not (root / ".venv").exists()


def test_the_check_needs_the_standard_library_only() -> None:
    command = [sys.executable, "-S", "-P", "-B", "-m", "demonstration.arguments", "demo", "missing.dcm"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("demo: missing.dcm: cannot be opened")
