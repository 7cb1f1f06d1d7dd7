"""Many hospitals at once: who asks wrongly, who breaks, and one small run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.__main__ import app
from benchmarks.configuration import ROOT
from benchmarks.document.blocks import Table
from benchmarks.document.sections import show_scale
from benchmarks.load_client import Report, Request
from benchmarks.measuring import estimate_left
from benchmarks.processes import started
from benchmarks.results import Quantiles
from benchmarks.scale import Hospital, measure_scale, parse_sessions
from contract.errors import CallerError, ComputationFailed, DeadlineExceeded
from plumbing.command_line import run
from tests.end_to_end.models import write_tiny_model


def test_sessions_are_rising_numbers() -> None:
    assert parse_sessions("1, 2,8") == (1, 2, 8)


@pytest.mark.parametrize("text", ["", "0", "33", "two", "1,,2", "-1", "2,1", "1,1"])
def test_other_sessions_are_refused(text: str) -> None:
    with pytest.raises(CallerError, match="--sessions"):
        parse_sessions(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sessions", "8,4"], "rising order"),
        (["--model", "resnet9000"], "unknown model 'resnet9000'"),
        (["--model", "resnet18-maxpool"], "is not measured here"),
        (["--model", "FOLDER"], "unknown model"),
        (["--model", "FOLDER/model", "--save", "FOLDER"], "is not a file in a folder that exists"),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    write_tiny_model(tmp_path / "model")
    given = [part.replace("FOLDER", str(tmp_path)) for part in arguments]
    with pytest.raises(SystemExit) as caught:
        run(app, name="bench", arguments=["scale", *given])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err.replace("\n", " ")
    assert output.err.count("\n") == 1


def test_quantiles() -> None:
    found = Quantiles.over([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (found.smallest, found.median, found.largest) == (1.0, 3.0, 5.0)
    assert found.p95 == pytest.approx(4.8)


def test_time_left_follows_the_work_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measuring.time.monotonic", lambda: 160.0)
    assert estimate_left(150.0, 0, 8) is None
    assert estimate_left(150.0, 1, 8) == pytest.approx(70.0)  # one part of eight took ten seconds


class Actor:
    """Starts programs in a hospital's place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = ExitStack()

    def play(self, source: str) -> Hospital:
        errors = self._folder / "hospital.err"
        log = self._started.enter_context(errors.open("wb"))
        command = [sys.executable, "-c", source]
        process = started(command, os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        return Hospital(process=self._started.enter_context(process), errors=errors)

    def leave(self) -> None:
        self._started.close()


@pytest.fixture
def actor(tmp_path: Path) -> Iterator[Actor]:
    found = Actor(tmp_path)
    yield found
    found.leave()


def test_an_order_is_answered(actor: Actor) -> None:
    answer = Report(seconds=(1.0, 2.0), online_seconds=(0.5, 0.5), stocked=2)
    hospital = actor.play(f"import sys; sys.stdin.readline(); print({answer.model_dump_json()!r}, flush=True)")
    hospital.ask(Request(what="diagnose", count=2))
    assert hospital.report(time.monotonic() + 60) == answer


def test_a_hospital_that_ends_is_told_in_its_last_words(actor: Actor) -> None:
    hospital = actor.play("import sys; print('why it ended', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ComputationFailed, match="why it ended"):
        hospital.report(time.monotonic() + 60)
    hospital.process.wait(timeout=60)
    with pytest.raises(ComputationFailed, match="why it ended"):
        hospital.ask(Request(what="diagnose", count=1))


def test_a_hospital_that_hangs_is_not_waited_for(actor: Actor) -> None:
    hospital = actor.play("import time; time.sleep(600)")
    with pytest.raises(DeadlineExceeded, match="hospital"):
        hospital.report(time.monotonic() + 0.2)


@pytest.mark.slow
def test_two_hospitals_at_once(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    folder = tmp_path / "work"
    folder.mkdir()
    result = measure_scale(model, folder, lambda _step: None, sessions=(1, 2), images=2, timeout_seconds=300)
    assert [(level.sessions, level.stocked, level.images) for level in result.levels] == [
        *((1, False, 2), (1, True, 2)),
        *((2, False, 4), (2, True, 4)),
    ]
    assert [(one.sessions, one.items) for one in result.stocking] == [(1, 2), (2, 4)]
    for level in result.levels:
        assert level.images_per_minute == pytest.approx(60 * level.images / level.seconds)
        assert 0 < level.online_seconds.median < level.latency_seconds.largest <= level.seconds
        assert {"data_owner", "model_owner", "crypto_provider", "inference_service"} == set(level.peak_rss_bytes)
    table = show_scale(result).blocks[0]
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == ["dealt on demand", "from stock"] * 2


@pytest.mark.slow
def test_a_signal_leaves_no_process_behind(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "scale", "--model", str(model), "--sessions", "2", "--images", "100"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 300
    while not any("benchmarks.load_client" in line for line in processes_below(temporary)):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert output == ""
    assert processes_below(temporary) == []


def processes_below(folder: Path) -> list[str]:
    """Command lines that mention a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found
