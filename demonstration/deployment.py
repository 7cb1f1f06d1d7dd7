"""A whole federation on loopback: authority, certificates, accounts, settings, and four processes, in one folder.

It types the commands that four people on four machines would type (docs/deployment.md), so what runs here is what
runs there; only the addresses are loopback.
"""

import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from contract.errors import ConfigurationError
from contract.files import write_new
from contract.identity import Role
from demonstration.commands import Server, call, hold_termination, make_quiet_environment, start, stop

HOSPITAL, LABORATORY, TRUST_CENTRE, OPERATOR = "st-mary", "north-lab", "trust-centre", "registry"
HOST = "127.0.0.1"
START_SECONDS = 90.0
IMPORT_SECONDS = 600.0
"""Of one model: a VGG-16 takes 15 on two free cores, and more on busy ones."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Free loopback ports, one for each server."""

    inference_service: int
    crypto_provider: int
    model_owner: int

    def of(self, server: Role) -> int:
        """Port of one of the three."""
        return {
            Role.INFERENCE_SERVICE: self.inference_service,
            Role.CRYPTO_PROVIDER: self.crypto_provider,
            Role.MODEL_OWNER: self.model_owner,
        }[server]


_PLENTY: dict[str, object] = {"images": 1_000_000, "items": 1_000_000, "sessions_per_minute": 1_000_000}
"""Measurements on loopback are not to meet the end of a budget."""

Routes = Mapping[tuple[Role, Role], int]
"""The port at which the first dials the second, if that is not the second's own: something stands in between."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A running federation. The data owner is not a server: its command line dials out."""

    folder: Path
    ports: Ports
    servers: dict[Role, Server]
    environment: dict[str, str] = field(repr=False)

    @property
    def data_owner_settings(self) -> Path:
        """The --config of `data-owner`."""
        return self.folder / "data-owner.toml"

    def start_again(self, role: Role) -> float:
        """Start a server that has ended; seconds until it answers. Raises ConfigurationError if it does not."""
        started = time.monotonic()
        _serve(self.servers, self.folder, role, self.environment)
        wait_until_live(self.servers[role], self.ports.of(role), self.folder)
        return time.monotonic() - started

    def process_ids(self) -> dict[str, int]:
        """Process id of each server by role."""
        return {role.value.replace("-", "_"): server.process.pid for role, server in self.servers.items()}


@contextmanager
def deploy(
    folder: Path,
    model_folders: Sequence[Path],
    *,
    threads: int = 1,
    overrides: dict[str, dict[str, object]] | None = None,
    ports: Ports | None = None,
    routes: Routes | None = None,
    on_step: Callable[[str], None] = lambda _words: None,
) -> Iterator[Deployment]:
    """Set up and run a federation in `folder` that serves the models; stop it when the block ends, however it ends.

    Args:
        folder: empty, for this federation alone.
        model_folders: each with model.onnx and card.json.
        threads: of one tensor operation, in each party.
        overrides: more settings by program, say {"model-owner": {"waiting": {"step": 2.0}}}.
        ports: where the servers listen; free ones where left out.
        routes: detours between two parties, see `Routes`.
        on_step: told in words what takes the next seconds.
    """
    environment = make_quiet_environment(temporary=folder / "temporary")
    ports = ports or free_ports()
    _make_storage_keys(folder)
    on_step("making keys, certificates and accounts, and importing the model (up to a minute for a ResNet-18)")
    with ThreadPoolExecutor(max_workers=1) as pool:  # the import takes longest, and needs nothing of the rest
        imported = pool.submit(_import, folder, model_folders, environment)
        _enrol(folder, environment)
        settings = _Settings(folder, ports, threads, overrides or {}, routes or {})
        settings.write_front_end()
        call("inference-service", "init", "--config", str(folder / "inference-service.toml"), environment=environment)
        settings.write_parties({role: _add_account(folder, role, environment) for role in _ACCOUNTS})
        imported.result()
    servers: dict[Role, Server] = {}
    try:
        on_step("starting inference service and crypto provider")
        _serve(servers, folder, Role.INFERENCE_SERVICE, environment)
        _serve(servers, folder, Role.CRYPTO_PROVIDER, environment)
        # The model owner registers its models at the front end when it starts.
        wait_until_live(servers[Role.INFERENCE_SERVICE], ports.inference_service, folder)
        on_step("starting the model owner")
        _serve(servers, folder, Role.MODEL_OWNER, environment)
        wait_until_live(servers[Role.CRYPTO_PROVIDER], ports.crypto_provider, folder)
        wait_until_live(servers[Role.MODEL_OWNER], ports.model_owner, folder)
        yield Deployment(folder=folder, ports=ports, servers=servers, environment=environment)
    finally:
        stop(list(servers.values()))


def _make_storage_keys(folder: Path) -> None:
    """The key with which each party seals what it keeps."""
    for role in _ACCOUNTS:
        write_new(folder / _name_storage_key(role), secrets.token_hex(32).encode())


def _name_storage_key(role: Role) -> str:
    return f"{role.value}.at-rest.key"


def _import(folder: Path, model_folders: Sequence[Path], environment: dict[str, str]) -> None:
    for model_folder in model_folders:
        arguments = [str(model_folder / "model.onnx"), "--card", str(model_folder / "card.json")]
        data_folder = str(folder / "model-owner-data")
        more = ["--data-folder", data_folder, "--key-file", str(folder / _name_storage_key(Role.MODEL_OWNER))]
        call("model-owner", "import", *arguments, *more, environment=environment, timeout_seconds=IMPORT_SECONDS)


_ACCOUNTS = {
    Role.DATA_OWNER: ("clinician", HOSPITAL),
    Role.MODEL_OWNER: ("model-owner", LABORATORY),
    Role.CRYPTO_PROVIDER: ("crypto-provider", TRUST_CENTRE),
}
_ORGANISATIONS = {
    Role.DATA_OWNER: HOSPITAL,
    Role.MODEL_OWNER: LABORATORY,
    Role.CRYPTO_PROVIDER: TRUST_CENTRE,
    Role.INFERENCE_SERVICE: OPERATOR,
}


def _enrol(folder: Path, environment: dict[str, str]) -> None:
    authority = folder / "authority"
    call("federation", "init", "--folder", str(authority), environment=environment)
    for role, organisation in _ORGANISATIONS.items():
        hosts = ["--host", HOST] if role is Role.INFERENCE_SERVICE else []
        party = ["--role", role.value, "--organisation", organisation, "--folder", str(folder / "certificates")]
        call("federation", "enroll", "--authority", str(authority), *party, *hosts, environment=environment)


def _add_account(folder: Path, role: Role, environment: dict[str, str]) -> str:
    account_role, organisation = _ACCOUNTS[role]
    arguments = ["--role", account_role, "--organisation", organisation]
    config = ["--config", str(folder / "inference-service.toml")]
    return call("inference-service", "account", "add", *arguments, *config, environment=environment).strip()


def _serve(servers: dict[Role, Server], folder: Path, role: Role, environment: dict[str, str]) -> None:
    arguments = ("serve", "--config", str(folder / f"{role.value}.toml"))
    with hold_termination():
        servers[role] = start(role.value, *arguments, environment=environment, log=folder / f"{role.value}.log")


def free_ports() -> Ports:
    """Ports that nobody listens on now, below those that Linux gives to outgoing connections while servers start."""
    found: list[int] = []
    for port in secrets.SystemRandom().sample(range(10_000, 30_000), 1000):
        with suppress(OSError), socket.create_server((HOST, port)):
            found.append(port)
        if len(found) == 3:
            break
    return Ports(**dict(zip(("inference_service", "crypto_provider", "model_owner"), found, strict=True)))


def wait_until_live(server: Server, port: int, folder: Path, *, host: str = HOST) -> None:
    """Return when a server of the federation in `folder` answers. Raises ConfigurationError if it does not."""
    scheme = "https" if server.program == Role.INFERENCE_SERVICE.value else "http"
    authority = str(folder / "certificates" / "authority.pem")
    limit = time.monotonic() + START_SECONDS
    with httpx.Client(verify=ssl.create_default_context(cafile=authority), trust_env=False, timeout=2.0) as client:
        while time.monotonic() < limit:
            server.require_running()
            try:
                if client.get(f"{scheme}://{host}:{port}/v2/health/live").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    raise ConfigurationError(f"{server.program} did not answer within {START_SECONDS:.0f} s: {server.words()}")


class _Settings:
    """Writes the TOML files that the four operators would write."""

    def __init__(
        self, folder: Path, ports: Ports, threads: int, overrides: dict[str, dict[str, object]], routes: Routes
    ) -> None:
        self._folder = folder
        self._routes = routes
        self._ports = ports
        self._threads = threads
        self._overrides = overrides

    def write_front_end(self) -> None:
        certificates = "certificates/inference-service"
        self._write(
            "inference-service",
            {
                "data_folder": "inference-service-data",
                "listen": f"{HOST}:{self._ports.inference_service}",
                "key": f"{certificates}.key",
                "certificate": f"{certificates}.pem",
                "clinician_allowance": _PLENTY,
            },
        )

    def write_parties(self, keys: dict[Role, str]) -> None:
        self._write(
            "crypto-provider",
            {"listen": f"{HOST}:{self._ports.crypto_provider}", "items_per_day": _PLENTY["items"]}
            | self._common(Role.CRYPTO_PROVIDER, keys),
        )
        self._write(
            "model-owner",
            {
                "listen": f"{HOST}:{self._ports.model_owner}",
                "crypto_provider": {"organisation": TRUST_CENTRE, "url": self._dealer_url(Role.MODEL_OWNER)},
                "allowance": _PLENTY,
                "audit_share": 0,  # measurements and tests count sessions: no image is evaluated twice by chance
            }
            | self._common(Role.MODEL_OWNER, keys),
        )
        self._write(
            "data-owner",
            {
                "model_owners": [{"organisation": LABORATORY} | self._detour(Role.MODEL_OWNER, "inference")],
                "crypto_providers": [{"organisation": TRUST_CENTRE} | self._detour(Role.CRYPTO_PROVIDER, "dealing")],
            }
            | self._common(Role.DATA_OWNER, keys),
        )

    def _port(self, client: Role, server: Role) -> int:
        return self._routes.get((client, server), self._ports.of(server))

    def _dealer_url(self, client: Role) -> str:
        return f"ws://{HOST}:{self._port(client, Role.CRYPTO_PROVIDER)}/v2/dealing"

    def _detour(self, server: Role, path: str) -> dict[str, str]:
        """The data owner learns addresses from the catalog; a detour is pinned in its settings."""
        port = self._routes.get((Role.DATA_OWNER, server))
        return {} if port is None else {"url": f"ws://{HOST}:{port}/v2/{path}"}

    def _common(self, role: Role, keys: dict[Role, str]) -> dict[str, object]:
        return {
            "data_folder": f"{role.value}-data",
            "threads": self._threads,
            "at_rest": {"key_file": _name_storage_key(role)},
            "ticket_keys": ["inference-service-data/ticket-key.public.pem"],
            "credentials": {
                "key": f"certificates/{role.value}.key",
                "certificate": f"certificates/{role.value}.pem",
                "authority": "certificates/authority.pem",
                "revocations": "certificates/revoked.crl",
            },
            "inference_service": {
                "url": f"https://{HOST}:{self._port(role, Role.INFERENCE_SERVICE)}",
                "api_key": keys[role],
                "authority": "certificates/authority.pem",
                "revocations": "certificates/revoked.crl",
            },
        }

    def _write(self, program: str, settings: dict[str, object]) -> None:
        written = settings | self._overrides.get(program, {})
        content = "".join(f"{name} = {format_toml(value)}\n" for name, value in written.items())  # holds an API key
        write_new(self._folder / f"{program}.toml", content.encode())


def format_toml(value: object) -> str:
    """One value of a settings file, in one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name} = {format_toml(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # texts, numbers and truth values are written as in JSON
