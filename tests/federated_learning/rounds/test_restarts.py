"""The commands of several machines, as separate processes; SIGKILL to each kind of them in the middle of a round."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w

from federated_learning.loopback.run import Loopback, smoke_settings
from federated_learning.run_records import read_rounds
from federated_learning.training_settings import Stage
from tests.federated_learning.loopback.test_smoke import processes_about, wait_until_gone

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 300


class Machines:
    """Three hospitals and a coordinator, each started by its own command."""

    def __init__(self, folder: Path) -> None:
        smoke = smoke_settings()
        training = smoke.training.model_copy(update={"stages": (Stage(size=32, epochs=2, batch=4),), "sync_every": 2})
        settings = smoke.model_copy(update={"one_falls_out": False, "training": training})
        self.folder, self.loopback = folder, Loopback(settings, folder, hospitals=3, images=None)
        self.names = self.loopback.participants.names
        own = self.loopback.coordinator_settings
        content = own.model_dump(mode="json", exclude_none=True)
        content["waiting"] = {"start": 200.0, "work": 200.0, "step": 100.0, "offline": 2.0, "together": 200.0}
        (folder / "coordinator.toml").write_text(tomli_w.dumps(json.loads(json.dumps(content))))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        config = self.folder / ("coordinator.toml" if name == "coordinator" else f"{name}/hospital.toml")
        command = "coordinator" if name == "coordinator" else "hospital"
        with (self.folder / f"{name}.out").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "federated_learning.command", command, "--config", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.out"
        return path.read_text() if path.exists() else ""

    def wait_for(self, text: str, *, after: int = 0) -> None:
        end = time.monotonic() + LIMIT_SECONDS
        while text not in self.said("coordinator")[after:]:
            assert time.monotonic() < end, self.said("coordinator")
            assert self.running["coordinator"].poll() is None, self.said("coordinator")
            time.sleep(0.05)


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    made = Machines(folder)
    try:
        for name in (*made.names, "coordinator"):
            made.start(name)
        yield made
    finally:
        for process in made.running.values():
            process.terminate()
        for process in made.running.values():
            process.wait(60)


def test_each_kind_of_process_may_be_killed_in_the_middle_of_a_round(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    with machines(folder) as made:
        made.wait_for("round 2: training")
        made.kill("coordinator")
        after = len(made.said("coordinator"))
        made.start("coordinator")
        made.wait_for("round 3: training", after=after)
        assert "round 1: training" not in made.said("coordinator")[after:]

        made.kill("hospital-b")
        made.wait_for("hospital hospital-b: went away", after=after)
        made.start("hospital-b")
        made.wait_for("round 4: training", after=after)

        port = str(made.loopback.coordinator_settings.listen.port)
        superlink = next(
            entry
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and (words := (entry / "cmdline").read_bytes()).startswith(sys.executable.encode())
            and b"flower.superlink" in words
            and port.encode() in words
        )
        os.kill(int(superlink.name), signal.SIGKILL)
        assert made.running["coordinator"].wait(LIMIT_SECONDS) != 0
        assert "the SuperLink ended" in made.said("coordinator")
        made.start("coordinator")
        assert made.running["coordinator"].wait(LIMIT_SECONDS) == 0
        for name in made.names:
            assert made.running[name].wait(LIMIT_SECONDS) == 0
        assert "goes on after round" in made.said("hospital-b")
    assert [line.survivors for line in read_rounds(folder / "run")] == [made.names] * 4
    assert wait_until_gone(folder) == processes_about(folder) == []
