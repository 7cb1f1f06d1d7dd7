"""The whole path in real processes: TLS, authenticated hospitals, secure aggregation, one that is killed in a round."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.model_card import read_card
from federated_learning.run_records import RunKind, read_history, read_rounds, read_run

ROOT = Path(__file__).resolve().parents[3]
LIMIT_SECONDS = 600
"""For a machine that is busy with other things; on two free cores a run takes less than one minute."""


def federate(output: Path, *more: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "MEDICAL_DATA"}
    command = [
        sys.executable,
        "-m",
        "federated_learning.loopback",
        "--smoke",
        "--rounds",
        "2",
        "--output",
        str(output),
    ]
    return subprocess.Popen(
        [*command, *more], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def processes_about(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in words and "pytest" not in words:
                found.append(words)
    return found


def wait_until_gone(folder: Path) -> list[str]:
    end = time.monotonic() + 60
    while (left := processes_about(folder)) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def test_four_hospitals_train_a_model_though_one_is_killed_in_a_round(tmp_path: Path) -> None:
    output, model = tmp_path / "federation", tmp_path / "model"
    with federate(output, "--model", str(model)) as process:
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, said
    assert "hospital-d is killed in the middle of round 1" in said
    first, second = read_rounds(output / "run")
    assert first.survivors == ("hospital-a", "hospital-b", "hospital-c")
    assert first.restarts == 0
    assert second.survivors == ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
    record = read_run(output / "run")
    assert record.kind is RunKind.FEDERATED_SECURE
    assert record.federation is not None
    assert record.federation.rounds == 2
    assert [line.bytes_in_the_clear is not None for line in read_history(output / "run")] == [True, True]
    card = read_card(model / "card.json")
    assert card.name == "smoke"
    assert (model / "model.onnx").exists()
    assert wait_until_gone(output) == []
    # Nobody else's key is known to the coordinator, and nothing was sent without TLS.
    log = (output / "run" / "flower" / "superlink.log").read_text()
    assert "SuperNode authentication is disabled" not in log
    assert "insecure" not in log


@pytest.mark.slow
def test_an_interrupted_federation_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "federation"
    with federate(output) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 2: training"):
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode != 0
    assert wait_until_gone(output) == []
    with federate(output) as again:
        said, _ = again.communicate(timeout=LIMIT_SECONDS)
    assert again.returncode == 0, said
    assert "round 1: training" not in said
    assert "round 2 of 2" in said
    assert [line.round for line in read_rounds(output / "run")] == [1, 2]


@pytest.mark.slow
def test_a_run_with_noise_charges_each_hospitals_ledger_though_one_is_killed_in_a_round(tmp_path: Path) -> None:
    output, model = tmp_path / "federation", tmp_path / "model"
    with federate(output, "--privacy", "epsilon=3,delta=1e-3", "--model", str(model)) as process:
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, said
    assert "hospital-d is killed in the middle of round 1" in said
    assert "epsilon of one patient, at delta 0.001: 3.00 to the coordinator and whoever has the model" in said
    assert [len(traffic.survivors) for traffic in read_rounds(output / "run")] == [3, 4]
    for name in ("hospital-a", "hospital-b", "hospital-c", "hospital-d"):
        config = output / name / "hospital.toml"
        command = [sys.executable, "-m", "federated_learning.command", "privacy", "--config", str(config)]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "whoever has a model: epsilon 3.00 of 3 is spent, 0.00 is left" in shown
        entries = (output / name / "ledger" / "smoke.jsonl").read_text().splitlines()
        assert len(entries) == 3  # the run, and one vector for each round
    federation = read_card(model / "card.json").federation
    assert federation is not None
    assert federation.class_counts is None
    assert (federation.secure_aggregation or {})["epsilon of one patient"] == "3.00"


@pytest.mark.slow
def test_a_hospital_with_a_key_that_is_not_in_the_federation_is_kept_out(tmp_path: Path) -> None:
    output = tmp_path / "federation"
    with federate(output, "--rounds", "1") as first:
        first.communicate(timeout=LIMIT_SECONDS)
    # Hospital D now comes with another node key, which no federation.json names.
    keys = output / "hospital-d" / "keys"
    (keys / "node.key").unlink()
    from federated_learning.rounds.participants import make_hospital_keys

    make_hospital_keys("hospital-d", tmp_path / "rogue")
    (tmp_path / "rogue" / "node.key").rename(keys / "node.key")
    with federate(output) as again:
        said, _ = again.communicate(timeout=LIMIT_SECONDS)
    assert again.returncode == 0, said
    assert read_rounds(output / "run")[1].survivors == ("hospital-a", "hospital-b", "hospital-c")
    assert "does not know this hospital's key" in (output / "hospital-d" / "hospital.log").read_text()
