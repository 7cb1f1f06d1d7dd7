"""A federation inside the test's process: the real front end, dealer and model owner on loopback, real certificates.

Every party may be replaced by one that misbehaves: `fake` listens in its place, `dial` speaks in its place.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import uvicorn
from pydantic import SecretStr

from authority.enrolment import create_request, install_certificate, locate_credentials
from authority.signing import create_authority
from authority.vouching import sign_voucher
from contract.allowance import Allowance
from contract.api import ModelEntry, SessionState, SessionView
from contract.identity import Credentials, Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import (
    PUBLIC_KEY_FILE,
    SIGNING_KEY_FILE,
    Engine,
    Purpose,
    TicketClaims,
    issue_ticket,
    load_signing_key,
    new_signing_key,
)
from crypto_provider.server import DEALING_PATH, build_dealer_app
from crypto_provider.settings import CryptoProviderSettings
from data_owner.diagnosis import Diagnosis
from data_owner.progress import Progress
from data_owner.session import Diagnoser
from data_owner.settings import DataOwnerSettings
from inference_service.accounts import AccountRole
from inference_service.app import create_app
from inference_service.client import InferenceServiceClient
from inference_service.command import http_options
from inference_service.session_states import LIVE
from inference_service.settings import ServiceSettings
from inference_service.storage import Clock, utc_now
from model_owner.imported_models import ImportedModel, ImportedModels
from model_owner.registration import Registrar
from model_owner.server import INFERENCE_PATH, build_inference_app
from model_owner.settings import DealerPeer, ModelOwnerSettings
from plumbing.readiness import Readiness
from plumbing.settings import Address, AtRest, Peer, Waiting
from plumbing.settings import FrontEnd as FrontEndSettings
from secure_computation.at_rest import StorageKey
from secure_computation.channel.asgi import uvicorn_options
from secure_computation.channel.channel import Channel, Deadlines, Recorder
from secure_computation.channel.serving import Service, party_app
from secure_computation.channel.tls import tls_context
from secure_computation.channel.websocket import connect_channel
from secure_computation.crypten_bridge import is_installed
from secure_computation.crypten_bridge.installation import load_crypten
from tests.end_to_end.models import NAME, write_tiny_model
from tests.signed_requests import sign_request

HOSPITAL = Party(role=Role.DATA_OWNER, organisation="st-mary")
LABORATORY = Party(role=Role.MODEL_OWNER, organisation="north-lab")
TRUST_CENTRE = Party(role=Role.CRYPTO_PROVIDER, organisation="trust-centre")
PARTIES = (HOSPITAL, LABORATORY, TRUST_CENTRE)
STORAGE_KEY = "5a" * 32
"""Under which every party seals what it keeps, as settings give it."""
SEALING = StorageKey(bytes.fromhex(STORAGE_KEY))
WAITING = Waiting(connect=10, step=20, material=20)
SHORT = Waiting(connect=10, step=1.5, material=1.5)
ENDS_WITHIN_SECONDS = 10.0
PLENTY = Allowance(images=1_000_000, items=1_000_000, sessions_per_minute=1_000_000)
SILENT = Progress(stage=lambda _: None, layer=lambda _index, _total, _name: None)
ENDED = set(SessionState) - LIVE


class RecordingClient(InferenceServiceClient):
    """Remembers the sessions that it opened."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.opened: list[SessionView] = []

    def open_session(self, **named: Any) -> SessionView:
        view = super().open_session(**named)
        self.opened.append(view)
        return view


@contextmanager
def listening(app: Any, listener: socket.socket, **options: Any) -> Iterator[None]:
    """Run an app on uvicorn in a thread."""
    configuration = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(configuration)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    limit = time.monotonic() + 30
    while not server.started and time.monotonic() < limit:
        time.sleep(0.01)
    assert server.started
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()
        assert not thread.is_alive()


def loopback() -> tuple[socket.socket, int]:
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, int(listener.getsockname()[1])


def closed_port() -> int:
    """A port that nobody listens on."""
    listener, port = loopback()
    listener.close()
    return port


@dataclass
class Federation:
    """Everything that runs, and the keys to all of it."""

    folder: Path
    front_end_url: str
    front_end_keys: dict[Role, SecretStr]
    models: dict[tuple[str, str], ImportedModel]
    issued: dict[Party, Credentials] = field(default_factory=dict)
    model_owner_url: str = ""
    dealer_url: str = ""
    references: Path | None = None
    """The folder of pictures that the model's card vouches for."""
    entry: ModelEntry | None = None
    front_end: Any = None
    """The front end's parts, for tests that look behind its door."""

    # Who is who

    def credentials(self, party: Party) -> Credentials:
        if party not in self.issued:
            folder = self.folder / "certificates" / f"{party.role.value}-{party.organisation}"
            request = create_request(party, folder)
            authority = self.folder / "authority"
            signed = folder / "signed.pem"
            signed.write_bytes(sign_request(authority, request))
            install_certificate(
                party, folder, signed, authority=authority / "authority.pem", revocations=authority / "revoked.crl"
            )
            self.issued[party] = locate_credentials(party, folder)
        return self.issued[party]

    def client(self, role: Role = Role.DATA_OWNER, kind: type[RecordingClient] = RecordingClient) -> RecordingClient:
        return kind(self.front_end_url, self.front_end_keys[role], timeout_seconds=20)

    @property
    def model(self) -> ImportedModel:
        return self.models[NAME, "1.0.0"]

    def signed(self, party: Party, **changes: Any) -> ModelEntry:
        """The model's entry in the catalog with changes, signed by any party."""
        assert self.entry is not None
        entry = self.entry.model_copy(update=changes)
        return entry.model_copy(update={"voucher": sign_voucher(entry.statement(), self.credentials(party))})

    # Tickets

    def ticket(self, view: SessionView | None = None, *, key: Path | None = None, **changes: Any) -> str:
        """A ticket as the front end signs them, for a session that it need not know, with any changes."""
        now = datetime.now(UTC)
        claims = TicketClaims(
            jti=uuid4(),
            session=view.id if view is not None else uuid4(),
            purpose=Purpose.DIAGNOSE,
            account="test",
            model=NAME,
            version="1.0.0",
            plan_hash=self.model.plan.plan_hash(),
            card_hash=self.model.card.card_hash(),
            engine=Engine.CRYPTEN,
            data_owner=HOSPITAL.organisation,
            model_owner=LABORATORY.organisation,
            crypto_provider=TRUST_CENTRE.organisation,
            output_policy=OutputPolicy.LOGITS,
            iat=int(now.timestamp()),
            exp=int((now + timedelta(minutes=5)).timestamp()),
        ).model_copy(update=changes)
        return issue_ticket(claims, load_signing_key(key or self.folder / "front-end" / SIGNING_KEY_FILE))

    def expired_ticket(self) -> str:
        now = int(datetime.now(UTC).timestamp())
        return self.ticket(iat=now - 900, exp=now - 600)

    def forged_ticket(self, folder: Path) -> str:
        folder.mkdir()
        new_signing_key(folder)
        return self.ticket(key=folder / SIGNING_KEY_FILE)

    # Parties that behave

    def _common(self, party: Party) -> dict[str, Any]:
        return {
            "data_folder": self.folder / f"data-{uuid4().hex[:8]}",
            "credentials": self.credentials(party),
            "ticket_keys": (self.folder / "front-end" / PUBLIC_KEY_FILE,),
            "inference_service": FrontEndSettings(
                url=self.front_end_url, api_key=self.front_end_keys[party.role], authority=None
            ),
            "waiting": WAITING,
            "at_rest": AtRest(key=SecretStr(STORAGE_KEY)),
        }

    @contextmanager
    def dealer(self, **changes: Any) -> Iterator[str]:
        """A dealer with a ledger of its own (or `data_folder`); its URL."""
        settings = CryptoProviderSettings(**{"items_per_day": PLENTY.items} | self._common(TRUST_CENTRE) | changes)
        front_end = settings.inference_service
        listener, port = loopback()
        with (
            InferenceServiceClient(front_end.url, front_end.api_key, timeout_seconds=20) as plans,
            listening(build_dealer_app(settings, plans), listener, **uvicorn_options()),
        ):
            yield f"ws://127.0.0.1:{port}{DEALING_PATH}"

    def model_owner_settings(self, *, dealer_url: str | None = None, **changes: Any) -> ModelOwnerSettings:
        """Of a model owner that stands in for the one in the catalog. Whoever registers with them allows as much."""
        dealer = DealerPeer(organisation=TRUST_CENTRE.organisation, url=dealer_url or self.dealer_url)
        own = {"crypto_provider": dealer, "public_url": self.model_owner_url, "allowance": PLENTY}
        own["audit_share"] = 0  # each session of these tests has its answer; test_audits.py has those that do not
        return ModelOwnerSettings(**self._common(LABORATORY) | own | changes)

    @contextmanager
    def model_owner(self, *, dealer_url: str | None = None, **changes: Any) -> Iterator[str]:
        """A model owner's server with a ledger of its own, beside the one in the catalog; its URL."""
        listener, port = loopback()
        url = f"ws://127.0.0.1:{port}{INFERENCE_PATH}"
        settings = self.model_owner_settings(dealer_url=dealer_url, **{"public_url": url} | changes)
        with (
            self.client(Role.MODEL_OWNER) as client,
            listening(build_inference_app(settings, self.models, client), listener, **uvicorn_options()),
        ):
            if self.entry is None:
                Registrar(settings, self.models, client).register()
            yield url

    @contextmanager
    def diagnoser(
        self,
        *,
        model_owner_url: str | None = None,
        dealer_url: str | None = None,
        kind: type[RecordingClient] = RecordingClient,
        **changes: Any,
    ) -> Iterator[tuple[Diagnoser, RecordingClient]]:
        """A data owner, who may be sent to other addresses than the catalog's."""
        settings = self.data_owner_settings(model_owner_url=model_owner_url, dealer_url=dealer_url, **changes)
        with self.client(kind=kind) as client:
            yield Diagnoser(settings, client), client

    def data_owner_settings(
        self, *, model_owner_url: str | None = None, dealer_url: str | None = None, **changes: Any
    ) -> DataOwnerSettings:
        """Settings of a data owner with a data folder of its own; addresses are the catalog's where left out."""
        common = self._common(HOSPITAL) | {
            "model_owners": (Peer(organisation=LABORATORY.organisation, url=model_owner_url),),
            "crypto_providers": (Peer(organisation=TRUST_CENTRE.organisation, url=dealer_url),),
        }
        return DataOwnerSettings(**common | changes)

    def diagnose(self, path: Path, *, engine: Engine = Engine.CRYPTEN, **changes: Any) -> Diagnosis:
        with self.diagnoser(**changes) as (diagnoser, _):
            return diagnoser.diagnose(path, diagnoser.choose_model(None), engine=engine, force=False, progress=SILENT)

    def ended(self, view: SessionView) -> SessionView:
        """The session, once both parties have said what they had to say."""
        limit = time.monotonic() + ENDS_WITHIN_SECONDS
        with self.client() as client:
            while (seen := client.session(view.id)).state not in ENDED and time.monotonic() < limit:
                time.sleep(0.02)
        return seen

    # Parties that do not

    @contextmanager
    def fake(self, party: Party, handler: Callable[[Channel], None], *, expect: Any = None) -> Iterator[str]:
        """Somebody with this party's certificate who does what `handler` does; its URL."""
        service = Service(
            path="/fake",
            handler=handler,
            expect=expect or (Role.DATA_OWNER, Role.MODEL_OWNER),
            context=tls_context(self.credentials(party), server_side=True),
            deadlines=Deadlines(connect_seconds=10, step_seconds=10),
            readiness=Readiness({}, tell=logging.getLogger(__name__).warning),
        )
        listener, port = loopback()
        with listening(party_app(service), listener, **uvicorn_options()):
            yield f"ws://127.0.0.1:{port}/fake"

    @contextmanager
    def dial(self, url: str, own: Party, peer: Party, *, recorder: Recorder | None = None) -> Iterator[Channel]:
        """Somebody with `own`'s certificate at the other end of a real server."""
        context = tls_context(self.credentials(own), server_side=False)
        deadlines = Deadlines(connect_seconds=10, step_seconds=20)
        channel = connect_channel(url, context=context, expect=peer, deadlines=deadlines, recorder=recorder)
        try:
            yield channel
        finally:
            channel.close()


@contextmanager
def running_federation(
    folder: Path,
    *,
    output_policy: OutputPolicy = OutputPolicy.LOGITS,
    model: Mapping[str, Any] | None = None,
    references: Path | None = None,
    clock: Clock = utc_now,
    **front_end: Any,
) -> Iterator[Federation]:
    """Front end, dealer and model owner with the tiny model; stopped when the block ends.

    `model`: what `write_tiny_model` takes besides. `references`: a folder of pictures that its card vouches for.
    `front_end`: its settings.
    """
    torch.set_num_threads(1)
    if is_installed():
        load_crypten()
    create_authority(folder / "authority")
    (folder / "front-end").mkdir(mode=0o700)
    new_signing_key(folder / "front-end")
    model_folder = write_tiny_model(folder / "model", output_policy=output_policy, **model or {})
    registered = ImportedModels(folder / "registry", SEALING).add(
        model_folder / "model.onnx", model_folder / "card.json", references=references
    )
    listener, port = loopback()
    plenty: dict[str, Any] = {"clinician_allowance": PLENTY, "live_sessions_per_account": 100_000}
    settings = ServiceSettings(
        data_folder=folder / "front-end", listen=Address(host="127.0.0.1", port=port), **plenty | front_end
    )
    app = create_app(settings, clock=clock)
    service = app.state.service
    keys = {
        role: service.accounts.add(role=kind, organisation=organisation)[1]
        for role, kind, organisation in (
            (Role.DATA_OWNER, AccountRole.CLINICIAN, HOSPITAL.organisation),
            (Role.MODEL_OWNER, AccountRole.MODEL_OWNER, LABORATORY.organisation),
            (Role.CRYPTO_PROVIDER, AccountRole.CRYPTO_PROVIDER, TRUST_CENTRE.organisation),
        )
    }
    federation = Federation(
        front_end=service,
        folder=folder,
        front_end_url=f"http://127.0.0.1:{port}",
        front_end_keys=keys,
        models={(NAME, "1.0.0"): registered},
        references=references,
    )
    with ExitStack() as stack:
        stack.enter_context(listening(app, listener, lifespan="on", **http_options()))
        federation.dealer_url = stack.enter_context(federation.dealer())
        federation.model_owner_url = stack.enter_context(federation.model_owner())
        with federation.client() as client:
            federation.entry = client.model(NAME)
        yield federation
    service.database.close()
