"""Secrets are planted, or noted as they are drawn; nothing that a full run leaves behind or says may hold one.

All processes run: servers, command lines, good runs and bad ones. Searched are all files, what was printed, and the
metrics. Each secret is looked for as it is, in hexadecimal, in base64 and in decimal numbers.
"""

import base64
import json
import os
import signal
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from contract.errors import ConfigurationError
from contract.identity import Role
from contract.model_card import OutputPolicy
from data_owner.delivery import UNPRINTED
from demonstration.commands import call
from demonstration.commands import make_command as command_line
from demonstration.deployment import HOST, Deployment, deploy
from imaging.reading import read_model_input
from tests.end_to_end.canaries import (
    RECORDER,
    Secret,
    found,
    of_bytes,
    of_private_key,
    of_tensor,
    of_text,
)
from tests.end_to_end.models import INPUT, PATIENT, radiograph, tiny_weights, write_tiny_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "canary-Pa55word-of-the-proxy"


@dataclass
class Run:
    """A federation, and what its commands printed."""

    deployment: Deployment
    images: Path
    recorded: Path
    printed: dict[Path, bytes]

    def data_owner(self, *arguments: str | Path, status: int = 0) -> str:
        words = [*map(str, arguments), "--config", str(self.deployment.data_owner_settings)]
        done = subprocess.run(
            command_line("data-owner", words),
            env=self.deployment.environment,
            capture_output=True,
            timeout=180,
            check=False,
        )
        self.printed[Path(f"printed by command {len(self.printed)}")] = done.stdout + done.stderr
        assert done.returncode == status, done.stderr.decode()
        return done.stdout.decode()

    def unprinted(self, *arguments: str | Path) -> None:
        """A command whose answer has nowhere to go: the disk under its output is full."""
        words = [*map(str, arguments), "--config", str(self.deployment.data_owner_settings)]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command_line("data-owner", words),
                env=self.deployment.environment,
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=180,
                check=False,
            )
        self.printed[Path("printed without an output")] = done.stderr
        assert done.returncode == ConfigurationError.exit_status, done.stderr.decode()

    def operator_key(self) -> str:
        words = ["account", "add", "--role", "operator", "--organisation", "federation"]
        config = ["--config", str(self.deployment.folder / "inference-service.toml")]
        return call("inference-service", *words, *config, environment=self.deployment.environment).strip()

    def metrics(self) -> None:
        authority = str(self.deployment.folder / "certificates" / "authority.pem")
        trusted = ssl.create_default_context(cafile=authority)
        ports = self.deployment.ports
        with httpx.Client(verify=trusted, trust_env=False, timeout=20) as client:
            operator = {"Authorization": f"Bearer {self.operator_key()}"}
            for path in ("/metrics", "/openapi.json", "/v2/models"):
                answer = client.get(f"https://{HOST}:{ports.inference_service}{path}", headers=operator)
                assert answer.is_success
                self.printed[Path(f"front end {path}")] = answer.content
            for port in (ports.crypto_provider, ports.model_owner):
                answer = client.post(f"http://{HOST}:{port}/v2/health/live", content=b"unexpected")
                self.printed[Path(f"server at {port}")] = answer.content

    def left(self) -> dict[Path, bytes]:
        files = {path: path.read_bytes() for path in self.deployment.folder.rglob("*") if path.is_file()}
        names = {Path("names of files"): "\n".join(map(str, files)).encode()}
        return files | names | self.printed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    recorded, hook, images = (tmp_path_factory.mktemp(name) for name in ("recorded", "hook", "images"))
    (hook / "sitecustomize.py").write_text(RECORDER)
    model = write_tiny_model(tmp_path_factory.mktemp("tiny"), output_policy=OutputPolicy.LOGITS_AND_HEAT_MAP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{hook}{os.pathsep}{ROOT}")
        patch.setenv("CANARY_RECORD", str(recorded))
        patch.setenv("HTTPS_PROXY", f"http://radiology:{PASSWORD}@proxy.example:3128")
        patch.setenv("NO_PROXY", HOST)
        with deploy(tmp_path_factory.mktemp("deployment"), [model]) as deployment:
            yield full_run(Run(deployment, images, recorded, {}))


def full_run(run: Run) -> Run:
    """Stock, good answers of both engines, refusals, a damaged item, a server that dies in the middle of it all."""
    good = radiograph(run.images / "good.dcm", seed=1)
    bad = run.images / "bad.dcm"
    bad.write_bytes(good.read_bytes()[:-1000])
    run.data_owner("doctor")
    run.data_owner("prepare", "--count", "4")
    run.data_owner("diagnose", good, "--json")
    run.unprinted("diagnose", good)
    run.data_owner("diagnose", good, "--engine", "crypten", "--json")
    run.data_owner("diagnose", bad, status=2)
    stock = run.deployment.folder / "data-owner-data" / "stock"
    damaged = min(stock.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run.data_owner("stock")
    run.metrics()
    run.deployment.servers[Role.MODEL_OWNER].process.send_signal(signal.SIGKILL)
    run.deployment.servers[Role.MODEL_OWNER].process.wait()
    run.data_owner("diagnose", good, status=4)
    assert list(stock.iterdir()), "an item is left on the disk, to be looked into"
    return run


def seeds(run: Run) -> list[Secret]:
    drawn = {line for file in run.recorded.iterdir() for line in file.read_text().split()}
    return [of_bytes(f"seed or stream key {number}", bytes.fromhex(one)) for number, one in enumerate(sorted(drawn))]


def keys(run: Run) -> list[Secret]:
    folder = run.deployment.folder
    private = [path for path in folder.rglob("*.key") if path.read_bytes().startswith(b"-----")]
    known = [of_private_key(path) for path in (*private, folder / "inference-service-data" / "ticket-key.pem")]
    for path in folder.glob("*.at-rest.key"):
        known += [
            of_bytes(path.name, bytes.fromhex(path.read_text()), path),
            of_text(path.name, path.read_text(), path),
        ]
    for path in folder.glob("*.toml"):
        front_end = tomllib.loads(path.read_text()).get("inference_service")
        if front_end is not None:
            api_key = front_end["api_key"]
            known += [of_text(f"API key in {path.name}", text, path) for text in (api_key, api_key.split("-", 2)[2])]
    return known


def test_the_run_did_what_it_should_and_drew_secrets(run: Run) -> None:
    assert len(seeds(run)) > 50
    assert len({path.name for path in run.recorded.iterdir()}) >= 5  # processes
    assert len(keys(run)) == 6 + 2 * 3 + 2 * 3
    stocked, live = (json.loads(text) for text in run.printed.values() if text.startswith(b'{"file"'))
    assert (stocked["stocked"], live["stocked"]) == (True, False)
    for path in ("inference-service.log", "crypto-provider.log", "model-owner.log"):
        assert (run.deployment.folder / path).stat().st_size > 0
    assert len(list((run.deployment.folder / "data-owner-data" / UNPRINTED).iterdir())) == 1
    assert any(b"http_requests" in text or b"# HELP" in text for text in run.printed.values())


def test_no_seed_and_no_key_of_a_stream_is_left(run: Run) -> None:
    assert found(seeds(run), run.left()) == []


def test_keys_tokens_and_passwords_lie_in_their_own_files_alone(run: Run) -> None:
    known = [*keys(run), of_text("password of the proxy", PASSWORD)]
    assert found(known, run.left()) == []


def test_no_pixel_and_no_name_of_the_patient_is_left(run: Run) -> None:
    stored = np.random.default_rng(1).integers(0, 4096, (48, 40), dtype=np.uint16)
    tensor = read_model_input(run.images / "good.dcm", INPUT).tensor
    secrets = [*of_tensor("pixels", stored), *of_tensor("tensor", tensor), of_text("patient", PATIENT)]
    assert found(secrets, run.left()) == []


def test_no_weight_is_left(run: Run) -> None:
    secrets = [one for name, tensor in tiny_weights().items() if tensor.size >= 6 for one in of_tensor(name, tensor)]
    assert found(secrets, run.left()) == []


def test_no_ticket_is_left(run: Run) -> None:
    from tests.end_to_end.test_command_line import TICKET

    assert [path for path, content in run.left().items() if TICKET.search(content)] == []


def test_the_search_would_find_them(run: Run) -> None:
    """Each form of each kind of secret, planted where it may not be."""
    stored = np.random.default_rng(1).integers(0, 4096, (48, 40), dtype=np.uint16)
    kinds = [
        seeds(run)[0],
        keys(run)[0],
        of_tensor("pixels", stored)[0],
        of_tensor("c2", tiny_weights()["c2.weight"])[0],
    ]
    for secret in kinds:
        assert len(secret.forms) >= 10
        for form in secret.forms:
            assert len(form) >= 8
            assert found([secret], {Path("some.log"): b"a line\n" + form + b"\nmore"}) == [f"{secret.name} in some.log"]
    value = bytes.fromhex("00ff10" + "5a3c" * 15)
    for begin in range(3):
        text = base64.b64encode(b"x" * begin + value + b"tail")
        assert found([of_bytes("seed", value)], {Path("log"): text}) == ["seed in log"]
