"""Our own programs as subprocesses."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from contract.errors import ConfigurationError
from demonstration.commands import Server, call, hold_termination, make_quiet_environment, start, stop


def test_the_environment_carries_no_partys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODEL_OWNER_DATA_FOLDER", "/elsewhere")
    monkeypatch.setenv("DATA_OWNER_INFERENCE_SERVICE__API_KEY", "canary")
    monkeypatch.setenv("KEPT", "1")
    environment = make_quiet_environment(temporary=tmp_path / "temporary")
    assert "canary" not in environment.values()
    assert "MODEL_OWNER_DATA_FOLDER" not in environment
    assert environment["KEPT"] == "1"
    assert environment["TMPDIR"] == str(tmp_path / "temporary")
    assert (tmp_path / "temporary").is_dir()


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    environment = make_quiet_environment()
    with pytest.raises(ConfigurationError, match=r"federation enroll failed: .*"):
        call("federation", "enroll", "--authority", str(tmp_path / "absent"), environment=environment)


def test_a_command_that_does_not_end_is_given_up() -> None:
    with pytest.raises(ConfigurationError, match=r"federation --help did not end within 0 s"):
        call("federation", "--help", environment=make_quiet_environment(), timeout_seconds=0.01)


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    server = start("inference-service", "serve", environment=make_quiet_environment(), log=tmp_path / "log")
    server.process.wait(timeout=60)
    with pytest.raises(ConfigurationError, match=r"inference-service ended with exit status 5: inference-service: "):
        server.require_running()


def test_stopping_ends_what_does_not_want_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demonstration.commands.STOP_SECONDS", 0.3)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=output)
    while b"ready" not in log.read_bytes():
        time.sleep(0.02)
    stop([Server(program="stubborn", process=process, log=log)])
    assert process.returncode == -9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_until_the_started_process_is_known(number: signal.Signals) -> None:
    def unwind(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    previous = {one: signal.signal(one, unwind) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    known: list[str] = []

    def start_and_keep() -> None:
        with hold_termination():
            signal.raise_signal(number)
            known.append("started")

    try:
        with pytest.raises(SystemExit) as caught:
            start_and_keep()
        assert all(signal.getsignal(one) is unwind for one in previous)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
    assert caught.value.code == 128 + number
    assert known == ["started"]


def test_an_ignored_signal_stays_ignored_and_other_threads_hold_nothing() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with hold_termination():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
        done: list[bool] = []

        def elsewhere() -> None:
            with hold_termination():
                done.append(True)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert done == [True]
    finally:
        signal.signal(signal.SIGHUP, previous)
