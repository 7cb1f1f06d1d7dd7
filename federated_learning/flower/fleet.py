"""Starting Flower: the coordinator's SuperLink with its registered hospitals and its run, a hospital's SuperNode."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from contract.errors import ConfigurationError
from federated_learning.flower.processes import Child, flower_environment, free_port, hold_lock, wait_for_port
from federated_learning.flower.tasks import Runtime, new_secret
from federated_learning.rounds.participants import COORDINATOR_CERTIFICATE, COORDINATOR_KEY, NODE_KEY, Participants
from plumbing.listening import LISTEN, require_free_port
from plumbing.settings import Address

START_SECONDS = 90.0
SUPERLINK, SUPERNODE = "federated_learning.flower.superlink", "federated_learning.flower.supernode"

APPLICATION = {
    "pyproject.toml": (
        b'[project]\nname = "training"\nversion = "1.0.0"\ndescription = "Runs what is installed on each machine."\n'
        b'license = "Apache-2.0"\n\n[tool.flwr.app]\npublisher = "training"\n\n[tool.flwr.app.components]\n'
        b'serverapp = "application:server_app"\nclientapp = "application:client_app"\n\n[tool.flwr.app.config]\n'
    ),
    "application.py": (
        b'"""Names only: coordinator and hospitals execute their own installed code, and nothing from here."""\n\n'
        b"server_app = None\nclient_app = None\n"
    ),
}
"""What a run of Flower must bring along. Nobody executes it."""


@dataclass(frozen=True, kw_only=True)
class RunningSuperLink:
    """A running SuperLink with a run waiting to be taken."""

    child: Child
    runtime: Runtime
    secret: bytes
    nodes: Mapping[int, str]
    """Hospital by the identity that the SuperLink gave its key. Nobody else is ever written to."""


@contextmanager
def superlink(
    participants: Participants, *, listen: Address, keys: Path, folder: Path, max_body_bytes: int
) -> Iterator[RunningSuperLink]:
    """Run a SuperLink while the block lasts, with all hospitals' node keys registered and a run started.

    `keys`: the coordinator's folder with key and certificate; `folder`: logs and Flower's own files.
    """
    # Asked first: another program that answers there would be taken for the SuperLink.
    require_free_port(listen.host, listen.port, setting=LISTEN)
    folder.mkdir(parents=True, exist_ok=True)
    environment, secret = flower_environment(folder / "flower"), new_secret(folder)
    certificate = keys / COORDINATOR_CERTIFICATE
    if certificate.read_text(encoding="utf-8") != participants.certificate:
        raise ConfigurationError(f"{certificate}: is not the certificate in federation.json; give the folder of both")
    tls = ["--ssl-certfile", certificate, "--ssl-keyfile", keys / COORDINATOR_KEY, "--ssl-ca-certfile", certificate]
    options = ["--enable-supernode-auth", "--isolation", "process", "--disable-runtime-dependency-installation"]
    arguments = ["-m", SUPERLINK, max_body_bytes, "--host", listen.host, "--port", listen.port, *tls, *options]
    arguments += ["--superexec-auth-secret-file", secret]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104  (compared, not bound)
    address = Address(host=reachable, port=listen.port)
    with Child([str(one) for one in arguments], log=folder / "superlink.log", environment=environment) as child:
        wait_for_port(child, host=address.host, port=address.port, seconds=START_SECONDS, what="the SuperLink")
        runtime = Runtime(address=str(address), certificate=certificate.read_bytes())
        with _control(runtime) as control:
            nodes = _register(control, participants)
            _start_run(control)
        yield RunningSuperLink(child=child, runtime=runtime, secret=secret.read_bytes(), nodes=nodes)


def _register(control: ControlHttpClient, participants: Participants) -> dict[int, str]:
    """Tell the SuperLink every hospital's node key, as `flwr supernode register` does."""
    nodes = {}
    for hospital in participants.hospitals:
        request = RegisterNodeRequest(public_key=hospital.node_key.encode(), name=hospital.name)
        nodes[control.RegisterNode(request).node_id] = hospital.name
    return nodes


def _start_run(control: ControlHttpClient) -> None:
    """Start the run that hospitals and coordinator take part in, as `flwr run` does."""
    application, _ = build_fab_from_files(APPLICATION)
    fab = Fab(hashlib.sha256(application).hexdigest(), application, {})
    control.StartRun(StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({})))


@contextmanager
def _control(runtime: Runtime) -> Iterator[ControlHttpClient]:

    version = RuntimeVersionHttpInterceptor(component_name="flwr")
    client = ControlHttpClient.from_server_address(
        runtime.address, insecure=False, root_certificates=runtime.certificate, interceptors=[version]
    )
    try:
        yield client
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"the SuperLink at {runtime.address} refused a hospital's key or the run: read its log"
        ) from error
    finally:
        client.close()


@contextmanager
def supernode(
    participants: Participants, *, keys: Path, folder: Path, max_message_bytes: int
) -> Iterator[tuple[Child, Runtime, bytes]]:
    """Run a hospital's SuperNode while the block lasts: the process, where its tasks are, and the secret for them.

    The SuperNode keeps asking for the coordinator, and ends if that one refuses its key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    secret, port, certificate = new_secret(folder), free_port(), folder / COORDINATOR_CERTIFICATE
    certificate.write_text(participants.certificate, encoding="utf-8")
    connection = ["--superlink", participants.coordinator, "--root-certificates", certificate]
    own = ["--auth-supernode-private-key", keys / NODE_KEY, "--isolation", "process"]
    tasks = ["--host", "127.0.0.1", "--port", port, "--superexec-auth-secret-file", secret]
    arguments = [str(one) for one in ("-m", SUPERNODE, max_message_bytes, *connection, *own, *tasks)]
    environment = flower_environment(folder / "flower")
    # A SuperNode that outlives a crash of its parent by a second must not answer in the new one's place.
    with (
        hold_lock(folder / "supernode.lock", seconds=START_SECONDS, what="a SuperNode") as lock,
        Child(arguments, log=folder / "supernode.log", environment=environment, keep_open=[lock]) as child,
    ):
        wait_for_port(child, host="127.0.0.1", port=port, seconds=START_SECONDS, what="the SuperNode")
        yield child, Runtime(address=f"127.0.0.1:{port}"), secret.read_bytes()
