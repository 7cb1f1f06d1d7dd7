"""A small certificate authority, and connected channels over each transport."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from contract.identity import Credentials, Party, Role
from secure_computation.channel.asgi import serve_channel, uvicorn_options
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.memory import memory_pair
from secure_computation.channel.tls import tls_context
from secure_computation.channel.websocket import connect_channel

HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-mary")
LABORATORY = Party(role=Role.MODEL_OWNER, organisation="north-lab")
DEADLINES = Deadlines(connect_seconds=30, step_seconds=60)
"""Long, so that a busy machine meets them."""


class Authority:
    """Signs certificates of any shape, also wrong ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        certificate = self._builder(self.key, self.name, days=1).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.path = self._write("authority.pem", certificate)

    def issue(self, *uris: str, days: int = 1, hosts: tuple[str, ...] = ()) -> Credentials:
        name = f"party-{len(list(self.folder.iterdir()))}"
        key = ec.generate_private_key(ec.SECP256R1())
        key_path = self.folder / f"{name}.key"
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(key, subject, days=days)
        if uris or hosts:
            names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, hosts)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Credentials(key=key_path, certificate=self._write(f"{name}.pem", builder), authority=self.path)

    def _builder(self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, *, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=days))
        )

    def _write(self, name: str, builder: x509.CertificateBuilder) -> Path:
        path = self.folder / name
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


@dataclass
class Server:
    """A laboratory on loopback. Its end of each connection appears in `accepted` and lives until `release`."""

    url: str
    accepted: "queue.Queue[Channel]"
    release: threading.Event


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def hospital(authority: Authority) -> Credentials:
    return authority.issue(HOSPITAL.uri)


@pytest.fixture(scope="session")
def laboratory(authority: Authority) -> Credentials:
    return authority.issue(LABORATORY.uri)


@pytest.fixture(scope="session")
def serving(laboratory: Credentials) -> Iterator[Server]:
    context = tls_context(laboratory, server_side=True)
    accepted: queue.Queue[Channel] = queue.Queue()
    release = threading.Event()

    def handler(channel: Channel) -> None:
        accepted.put(channel)
        release.wait()

    async def endpoint(websocket: WebSocket) -> None:
        await serve_channel(websocket, handler, context=context, expect=Role.DATA_OWNER, deadlines=DEADLINES)

    app = Starlette(routes=[WebSocketRoute("/channel", endpoint)])
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", **uvicorn_options())
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Server(f"ws://127.0.0.1:{port}/channel", accepted, release)
    server.should_exit = True
    release.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def server(serving: Server) -> Iterator[Server]:
    serving.release.clear()
    yield serving
    serving.release.set()
    while not serving.accepted.empty():
        serving.accepted.get_nowait()


Pair = tuple[Channel, Channel]


@pytest.fixture(params=["memory", "websocket"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The hospital's end and the laboratory's end of one channel."""
    if request.param == "memory":
        ends = memory_pair(HOSPITAL, LABORATORY, DEADLINES)
    else:
        server: Server = request.getfixturevalue("server")
        context = tls_context(request.getfixturevalue("hospital"), server_side=False)
        own = connect_channel(server.url, context=context, expect=LABORATORY, deadlines=DEADLINES)
        ends = own, server.accepted.get(timeout=30)
    yield ends
    for end in ends:
        end.close()
