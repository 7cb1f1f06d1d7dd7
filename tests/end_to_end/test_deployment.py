"""docs/deployment.md, typed by a test: every command as it stands there, each machine with an address of its own.

What a test has not: other machines (each is a folder, and `scp` copies between them), root (`sudo` is noted), systemd
(units are read, and what they start is started as they say).
"""

import configparser
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.identity import Role
from demonstration.commands import Server, make_quiet_environment, stop
from demonstration.deployment import wait_until_live
from tests.end_to_end.models import NAME, radiograph, write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "deployment.md").read_text()
MACHINES = {
    "ca": "ca.example",
    "front": "front.example",
    "dealer": "dealer.trust-centre.example",
    "lab": "model.north-lab.example",
    "hospital": "workstation.st-mary.example",
}
ADDRESSES = {"front": "127.0.0.2", "dealer": "127.0.0.3", "lab": "127.0.0.4", "hospital": "127.0.0.5"}
PORTS = {"front": 8080, "lab": 8081, "dealer": 8082}
"""As the text and the samples have them; the test takes free ones."""
SERVERS = {
    "front": Role.INFERENCE_SERVICE,
    "dealer": Role.CRYPTO_PROVIDER,
    "lab": Role.MODEL_OWNER,
}
PROGRAMS = ("federation", "inference-service", "crypto-provider", "model-owner", "data-owner")
BLOCK = re.compile(r"^```sh (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 300


def blocks() -> list[tuple[str, str]]:
    """Machine and commands of each block, in order."""
    return [(match.group(1), match.group(2)) for match in BLOCK.finditer(TEXT)]


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class World:
    """Machines in folders of one folder."""

    folder: Path
    ports: dict[str, int]
    running: dict[str, Server] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def home(self, machine: str) -> Path:
        return self.folder / MACHINES[machine]

    def local(self, text: str) -> str:
        """The text with this world's addresses, ports and paths in place of the document's."""
        text = text.replace("/opt/inference", str(self.folder / "opt"))
        for machine, port in PORTS.items():
            text = text.replace(f"0.0.0.0:{port}", f"{ADDRESSES[machine]}:{self.ports[machine]}")
            text = text.replace(f"{MACHINES[machine]}:{port}", f"{ADDRESSES[machine]}:{self.ports[machine]}")
            text = text.replace(f"--host {MACHINES[machine]}", f"--host {ADDRESSES[machine]}")
        return text

    def environment(self) -> dict[str, str]:
        quiet = make_quiet_environment()
        return quiet | {"PATH": f"{self.folder / 'opt' / '.venv' / 'bin'}:{quiet['PATH']}", "PYTHONPATH": str(ROOT)}

    def type(self, machine: str, commands: str) -> str:
        """Have one machine's operator type a block; what it said. Fingerprints are confirmed."""
        with subprocess.Popen(["yes"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as confirming:
            try:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", self.local(commands)],
                    cwd=self.home(machine),
                    env=self.environment(),
                    stdin=confirming.stdout,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
            finally:
                confirming.kill()
        assert done.returncode == 0, f"{machine}: {commands}\n{done.stdout}\n{done.stderr}"
        self.said.append(done.stdout + done.stderr)
        for unit in re.findall(r"systemctl enable --now (\S+)", commands):
            self.start(machine, unit)
        return done.stdout

    def start(self, machine: str, unit: str) -> None:
        """Start what a unit says, as systemd would: its command, in its folder, with its file of variables."""
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        settings.optionxform = str  # type: ignore[assignment,method-assign]
        settings.read_string(self.local((ROOT / "docs" / "samples" / "systemd" / unit).read_text()))
        service = settings["Service"]
        assert service["WorkingDirectory"] == "/var/lib/inference"
        variables = self.home(machine) / service["EnvironmentFile"].removeprefix("-/var/lib/inference/")
        environment = self.environment()
        if variables.exists():
            assert stat.S_IMODE(variables.stat().st_mode) == 0o600
            environment |= dict(line.split("=", 1) for line in variables.read_text().splitlines())
        log = self.folder / f"{machine}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                service["ExecStart"].split(),
                cwd=self.home(machine),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                umask=0o077,
            )
        role = SERVERS[machine]
        self.running[machine] = Server(program=role.value, process=process, log=log)
        trusted = self.folder / "certificates"
        trusted.mkdir(exist_ok=True)
        (trusted / "authority.pem").write_bytes((self.home(machine) / "credentials" / "authority.pem").read_bytes())
        wait_until_live(self.running[machine], self.ports[machine], self.folder, host=ADDRESSES[machine])


def install(world: World) -> None:
    """/opt/inference: the samples, and commands that run this checkout; scp between folders; sudo that is noted."""
    opt, binaries = world.folder / "opt", world.folder / "opt" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for source in (ROOT / "docs" / "samples").rglob("*"):
        if source.is_file():
            target = opt / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(world.local(source.read_text()))
    modules = {program: program.replace("-", "_") + ".command" for program in PROGRAMS[1:]}
    modules["federation"] = "authority.command"
    for program, module in modules.items():
        line = f"import sys; from {module} import main; sys.argv[0] = {program!r}; main()"
        write_program(binaries / program, f'exec {sys.executable} -c "{line}" "$@"')
    cases = "\n".join(f"  {host}:*) to={world.folder / host}/${{last#*:}};;" for host in MACHINES.values())
    copy = f'last="${{@: -1}}"\ncase "$last" in\n{cases}\n  *) exit 1;;\nesac\ncp -- "${{@:1:$#-1}}" "$to"'
    write_program(binaries / "scp", copy)
    write_program(binaries / "sudo", "exit 0")


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {machine: free_port(ADDRESSES[machine]) for machine in PORTS})
    for machine in MACHINES:
        made.home(machine).mkdir(mode=0o700)
    install(made)
    model = write_tiny_model(tmp_path / "model")
    for name in ("model.onnx", "card.json"):
        (made.home("lab") / name).write_bytes((model / name).read_bytes())
    radiograph(made.home("lab") / "sample.dcm")
    radiograph(made.home("hospital") / "chest.dcm")
    yield made
    stop(list(made.running.values()))


@pytest.mark.slow
def test_from_nothing_to_a_diagnosis_with_the_commands_of_the_page(world: World) -> None:
    said = dict.fromkeys(MACHINES, "")
    for machine, commands in blocks():
        said[machine] += world.type(machine, commands)
    assert set(world.running) == set(SERVERS)
    diagnosed = said["hospital"].lower()
    assert NAME in diagnosed
    assert "bad " not in diagnosed  # of the doctor
    fingerprints = re.findall(r"Fingerprint: ([0-9a-f]{64})", "".join(world.said))
    assert len(fingerprints) == 8
    assert len(set(fingerprints)) == 4  # each was read out by its party and shown by the authority
    for machine in MACHINES:
        for path in world.home(machine).rglob("*"):
            secret = path.suffix == ".key" or path.name in {"secrets.env", "ticket-key.pem"}
            if secret and path.is_file():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert any(world.home(machine).rglob("authority.key")) is (machine == "ca")
    for machine in ("front", "dealer", "lab", "hospital"):
        assert len(list((world.home(machine) / "credentials").glob("*.key"))) == (1 if machine == "front" else 2)


def test_every_block_of_the_page_names_its_machine_and_every_machine_has_one() -> None:
    assert {machine for machine, _ in blocks()} == set(MACHINES)
    assert re.findall(r"^```sh$", TEXT, re.MULTILINE) == []
    for host in MACHINES.values():
        assert f"`{host}`" in TEXT


@pytest.mark.parametrize("role", SERVERS.values(), ids=str)
def test_units_start_what_there_is_and_keep_secrets_in(role: Role) -> None:
    unit = (ROOT / "docs" / "samples" / "systemd" / f"{role.value}.service").read_text()
    assert f"ExecStart=/opt/inference/.venv/bin/{role.value} serve --config {role.value}.toml" in unit
    for line in ("User=inference", "UMask=0077", "LimitCORE=0", "MemorySwapMax=0", "NoNewPrivileges=yes"):
        assert line in unit.splitlines()
    assert "API_KEY" not in unit


@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("role", SERVERS.values(), ids=str)
def test_systemd_takes_the_units(role: Role, tmp_path: Path) -> None:
    """With a command that exists, which is what it looks for first."""
    unit = tmp_path / f"{role.value}.service"
    text = (ROOT / "docs" / "samples" / "systemd" / unit.name).read_text()
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text).replace("User=inference", "User=root"))
    done = subprocess.run(
        ["/usr/bin/systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ),
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []
