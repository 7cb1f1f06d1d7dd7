"""Real processes killed or stopped between two messages: nothing hangs, nothing wrong is shown, nothing is used twice.

A run is cut at a share of the messages that an undisturbed run takes, so that every part of a session is met. All are
slow: by default test_stock_killed.py and tests/faults do the same to parties within this process.
"""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from contract.identity import Role
from contract.model_card import Arithmetic
from data_owner.diagnosis import Diagnosis
from demonstration.commands import make_command
from demonstration.deployment import LABORATORY, TRUST_CENTRE, Deployment, deploy
from imaging.reading import read_model_input
from model_owner.imported_models import ImportedModels
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import round_weights
from secure_computation.engines.masked.session.stock import stockable
from tests.end_to_end.federation import SEALING
from tests.end_to_end.models import radiograph, write_tiny_model
from tests.end_to_end.watched_links import WatchedLink, watched_link

P0, P1, DEALER, FRONT_END = Role.DATA_OWNER, Role.MODEL_OWNER, Role.CRYPTO_PROVIDER, Role.INFERENCE_SERVICE
PATIENCE = 120.0
"""Seconds for one command; the parties' own deadlines are much shorter."""
WAITING = {"connect": 20.0, "step": 10.0, "material": 20.0}


@dataclass
class Processes:
    """Servers behind watched links, and what the data owner's command said."""

    deployment: Deployment
    links: dict[tuple[Role, Role], WatchedLink]
    image: Path
    expected: tuple[float, ...]
    """Logits of the integer reference."""
    passed: int = 0
    """Messages since `diagnose` began."""
    sessions: list[str] = field(default_factory=list)

    def call(
        self, *arguments: str, kill: tuple[Role, int] | None = None, by: signal.Signals = signal.SIGKILL
    ) -> tuple[int, str, str]:
        """Run `data-owner`; where asked, end or stop a process when so many messages have passed."""
        self.passed, counting = 0, threading.Lock()
        words = [*arguments, "--config", str(self.deployment.data_owner_settings)]
        environment = self.deployment.environment
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            make_command("data-owner", words),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

        def count() -> None:
            with counting:
                self.passed += 1
                if kill is not None and self.passed == kill[1] + 1:
                    victim = process.pid if kill[0] is P0 else self.deployment.servers[kill[0]].process.pid
                    os.kill(victim, by)

        for link in self.links.values():
            link.on_message = count
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
        return process.returncode, stdout, stderr

    def require_right(self) -> Diagnosis:
        status, stdout, stderr = self.call("diagnose", str(self.image), "--json")
        assert status == 0, stderr
        diagnosis = Diagnosis.model_validate_json(stdout)
        np.testing.assert_array_equal(diagnosis.logits or (), self.expected)
        return diagnosis

    def consumed(self, role: Role) -> set[str]:
        return {path.name for path in (self.deployment.folder / f"{role.value}-data" / "consumed").rglob("*")}

    def stocked(self, role: Role) -> set[str]:
        folder = self.deployment.folder / f"{role.value}-data" / "stock"
        return {path.name for path in folder.rglob("*") if re.fullmatch(r"[0-9a-f]{64}", path.name)}

    def start_again(self, role: Role) -> None:
        self.deployment.servers[role].process.kill()  # if it was only stopped
        self.deployment.servers[role].process.wait(timeout=PATIENCE)
        self.deployment.start_again(role)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder = tmp_path_factory.mktemp("killed")
    model_folder = write_tiny_model(folder / "model", arithmetic=Arithmetic.EXACT)
    image = radiograph(folder / "chest.dcm")
    with ExitStack() as stack:
        links = {pair: stack.enter_context(watched_link()) for pair in ((P0, P1), (P0, DEALER), (P1, DEALER))}

        def peer(pair: tuple[Role, Role], organisation: str, path: str) -> dict[str, str]:
            return {"organisation": organisation, "url": f"ws://127.0.0.1:{links[pair].port}{path}"}

        overrides: dict[str, dict[str, object]] = {
            "data-owner": {
                "model_owners": [peer((P0, P1), LABORATORY, "/v2/inference")],
                "crypto_providers": [peer((P0, DEALER), TRUST_CENTRE, "/v2/dealing")],
                "waiting": WAITING,
            },
            "model-owner": {"crypto_provider": peer((P1, DEALER), TRUST_CENTRE, "/v2/dealing"), "waiting": WAITING},
            "crypto-provider": {"waiting": WAITING},
        }
        (folder / "deployment").mkdir()
        running = stack.enter_context(deploy(folder / "deployment", [model_folder], overrides=overrides))
        for (_, server), link in links.items():
            link.target_port = running.ports.model_owner if server is P1 else running.ports.crypto_provider
        yield Processes(running, links, image, expected_logits(folder, model_folder, image))


def expected_logits(folder: Path, model_folder: Path, image: Path) -> tuple[float, ...]:
    model = ImportedModels(folder / "registry", SEALING).add(model_folder / "model.onnx", model_folder / "card.json")
    lowering = stockable(model.plan)
    integers = reference.quantise_image(lowering, read_model_input(image, model.card.input).tensor)
    weights = round_weights(lowering, model.weights)
    return tuple(reference.read_logits(lowering, reference.evaluate(lowering, weights, integers)).tolist())


@pytest.fixture(scope="module")
def undisturbed(processes: Processes) -> dict[bool, int]:
    """Messages of a whole diagnosis: without and with a stocked item."""
    processes.require_right()  # which also brings the masked weights, once
    counts = {}
    for stocked in (False, True):
        if stocked:
            assert processes.call("prepare", "--count", "1")[0] == 0
        assert processes.require_right().stocked is stocked
        counts[stocked] = processes.passed
    return counts


STEPS = 12
POINTS = [
    (victim, stocked, step)
    for victim in (P0, P1, DEALER, FRONT_END)
    for stocked in (False, True)
    for step in range(STEPS)
    if not (stocked and victim is DEALER)  # who takes no part
]
STOPPED = [point for point in POINTS if point[0] is not P0 and point[2] % 4 == 1]
"""A data owner that stops is the same to the others as a link that stalls: tests/faults has it at every message."""


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "stocked", "step"), POINTS)
def test_a_process_that_is_killed(
    processes: Processes, undisturbed: dict[bool, int], victim: Role, step: int, *, stocked: bool
) -> None:
    disturb(processes, undisturbed, victim, step, stocked=stocked, by=signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "stocked", "step"), STOPPED)
def test_a_process_that_stops(
    processes: Processes, undisturbed: dict[bool, int], victim: Role, step: int, *, stocked: bool
) -> None:
    """It holds its connections and answers nobody, as a machine out of memory does."""
    disturb(processes, undisturbed, victim, step, stocked=stocked, by=signal.SIGSTOP)


def disturb(
    processes: Processes, undisturbed: dict[bool, int], victim: Role, step: int, *, stocked: bool, by: signal.Signals
) -> None:
    if stocked and not processes.stocked(P0):
        assert processes.call("prepare", "--count", "1")[0] == 0
    before = {role: (processes.consumed(role), processes.stocked(role)) for role in (P0, P1)}
    at = undisturbed[stocked] * step // STEPS
    status, stdout, stderr = processes.call("diagnose", str(processes.image), "--json", kill=(victim, at), by=by)
    assert processes.passed > at
    if victim is P0:
        assert (status, stdout) == (-signal.SIGKILL, "")
    else:
        processes.start_again(victim)
        if status == 0:  # killed when the answer was on its way already, or by then no longer needed
            diagnosis = Diagnosis.model_validate_json(stdout)
            np.testing.assert_array_equal(diagnosis.logits or (), processes.expected)
        else:
            assert (status in {3, 4}, stdout) == (True, ""), stderr
            assert len(stderr.splitlines()) == 1
            assert "Traceback" not in stderr
    for role, (consumed, _) in before.items():
        assert processes.consumed(role) >= consumed, "the ledger lost an item"
    processes.require_right()
    # Killed between noting an item as used and deleting its file, a party deletes it when it next looks at its stock.
    assert not processes.consumed(P0) & processes.stocked(P0), "a consumed item is still in stock"
    for role, (consumed, items) in before.items():
        assert items - processes.stocked(role) <= processes.consumed(role) - consumed, "an item went unrecorded"
