"""One diagnosis, from a file to a result: the data owner's P0 and its dealings with the front end.

front end                  data owner P0                             model owner P1      crypto provider D
-----------------------    --------------------------------------    ----------------    -----------------
card, plan          -->    file -> tensor
session, ticket     -->    checks ticket, pins both peers
                    <--    preparing
                           consumes the session's item
                           ticket                             -->    (fetches its material from D)
                           ticket                             ------------------------>  checks, deals
                           seed                               <------------------------
                           material ready                     <--
                    <--    running
                           openings                          <-->    layer by layer
                           logits                             <--
                           result received                    -->
                    <--    completed, seconds and bytes
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from ssl import SSLContext
from typing import Any, NewType
from uuid import UUID

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from contract.api import Failure, ModelEntry, PhaseSeconds, SentBytes, SessionEventName, SessionReport, SessionView
from contract.command_line import one_line
from contract.errors import (
    ConfigurationError,
    EncryptedInferenceError,
    NeedsConfirmation,
    PeerViolation,
    TicketInvalid,
)
from contract.identity import Party, Role, party_of_certificate
from contract.settings import Peer
from contract.ticket import Engine, TicketClaims, load_public_key, verify_ticket
from data_owner.diagnosis import Bytes, Diagnosis, Finding, ModelName, Seconds, Warned
from data_owner.masked_weights import MaskedWeightsFolder
from data_owner.settings import DataOwnerSettings
from imaging import ModelInput, read_model_input
from inference_service.client import InferenceServiceClient
from secure_computation.admission import item_of, present_ticket
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.tls import tls_context
from secure_computation.channel.websocket import connect_channel
from secure_computation.engines.choosing import data_owner_side
from secure_computation.engines.interface import DataOwnerSide, OnLayer
from secure_computation.material import ConsumptionLedger
from secure_computation.plan import Plan, parse_plan
from secure_computation.wire import Phase

Ticket = NewType("Ticket", str)

OnStage = Callable[[str], None]
"""Progress in words: which stage begins."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Whom to tell how far a diagnosis is."""

    stage: OnStage
    layer: OnLayer


@dataclass(frozen=True, kw_only=True)
class _OpenSession:
    """A session that the front end opened and this party has checked."""

    view: SessionView
    ticket: Ticket
    claims: TicketClaims
    model_owner: Party
    model_owner_url: str
    crypto_provider: Party
    crypto_provider_url: str


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    logits: NDArray[np.float64]
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    warnings: tuple[Warned, ...]


class Diagnoser:
    """Runs diagnoses, one after the other, under one configuration."""

    def __init__(self, settings: DataOwnerSettings, front_end: InferenceServiceClient) -> None:
        """Read this party's keys. Raises ConfigurationError for files that are wrong."""
        self._settings = settings
        self._front_end = front_end
        self._own = party_of_certificate(settings.credentials.certificate, role=Role.DATA_OWNER)
        self._public_keys: Sequence[Ed25519PublicKey] = [load_public_key(path) for path in settings.ticket_keys]
        self._context: SSLContext = tls_context(settings.credentials, server_side=False)
        self._ledger = ConsumptionLedger(settings.data_folder / "consumed")
        self._masked_weights = MaskedWeightsFolder(settings.data_folder / "masked-weights")
        self._sides: dict[tuple[str, Engine], DataOwnerSide[Any]] = {}
        self._deadlines = Deadlines(connect_seconds=settings.waiting.connect, step_seconds=settings.waiting.step)

    def choose_model(self, name: str | None) -> ModelEntry:
        """Return a model of the catalog; without a name, the only one that pinned model owners offer."""
        if name is not None:
            return self._front_end.model(name)
        pinned = {peer.organisation for peer in self._settings.model_owners}
        offered = {entry.card.name for entry in self._front_end.models() if entry.model_owner.organisation in pinned}
        if len(offered) != 1:
            listing = ", ".join(sorted(offered)) or "none"
            raise ConfigurationError(f"choose a model with --model; offered by your model owners: {listing}")
        return self._front_end.model(offered.pop())

    def diagnose(self, path: Path, entry: ModelEntry, *, engine: Engine, force: bool, progress: Progress) -> Diagnosis:
        """Submit one file. Raises an error of the tree; the session then ends as failed at the front end.

        `force` submits a file with warnings that ask for confirmation.
        """
        progress.stage("reading the image")
        image = read_model_input(path, entry.card.input)
        _confirm(image, force=force)
        progress.stage("opening a session")
        plan = parse_plan(self._front_end.plan(entry.plan_hash))
        if plan.network.input_shape != image.tensor.shape or plan.network.classes != len(entry.card.classes):
            raise PeerViolation(
                f"the plan of {entry.card.name} has another input or other classes than its card; tell its owner"
            )
        session = self._open(entry, engine)
        with ExitStack() as channels:
            # The front end hears of the end before the peers do: they would report that this party has gone.
            try:
                outcome = self._run(session, plan, image, progress, channels)
            except EncryptedInferenceError as error:
                self._report_failure(session.view.id, error)
                raise
            except KeyboardInterrupt:
                self._cancel(session)
                raise
        return _diagnosis(path, entry, engine, image, outcome)

    def _open(self, entry: ModelEntry, engine: Engine) -> _OpenSession:
        view = self._front_end.open_session(model=entry.card.name, engine=engine, version=entry.version)
        try:
            return self._checked(view, entry, engine)
        except EncryptedInferenceError as error:
            self._report_failure(view.id, error)
            raise

    def _checked(self, view: SessionView, entry: ModelEntry, engine: Engine) -> _OpenSession:
        claims = verify_ticket(
            view.ticket or "", public_keys=self._public_keys, now=datetime.now(tz=UTC), party=self._own
        )
        if claims.session != view.id or claims.plan_hash != entry.plan_hash or claims.engine is not engine:
            raise TicketInvalid(
                "the ticket is for another session than the one asked for; tell the front end's operator"
            )
        model_owner = _pinned(self._settings.model_owners, claims.model_owner, what="model owner")
        crypto_provider = _pinned(self._settings.crypto_providers, claims.crypto_provider, what="crypto provider")
        return _OpenSession(
            view=view,
            ticket=Ticket(view.ticket or ""),
            claims=claims,
            model_owner=Party(role=Role.MODEL_OWNER, organisation=claims.model_owner),
            model_owner_url=model_owner.url or entry.model_owner.address,
            crypto_provider=Party(role=Role.CRYPTO_PROVIDER, organisation=claims.crypto_provider),
            crypto_provider_url=crypto_provider.url or entry.crypto_provider.address,
        )

    def _run(
        self, session: _OpenSession, plan: Plan, image: ModelInput, progress: Progress, channels: ExitStack
    ) -> _Outcome:
        started = time.perf_counter()
        item = item_of(session.claims)
        side = self._side(session.claims, plan)
        progress.stage("preparing offline material")
        self._front_end.report(session.view.id, SessionEventName.PREPARE)
        # Durable before the first message that depends on it.
        self._ledger.consume(item)
        model_owner = self._connect(channels, session.model_owner_url, session.model_owner, session.ticket)
        dealer = self._connect(channels, session.crypto_provider_url, session.crypto_provider, session.ticket)
        patience = self._settings.waiting.material
        material = side.prepare(item=item, dealer=dealer, model_owner=model_owner, patience_seconds=patience)
        dealer.send_end(step="material received")
        ready = model_owner.receive_hello(step="material ready", wait_seconds=patience)
        self._front_end.report(session.view.id, SessionEventName.RUN)
        prepared = time.perf_counter()
        progress.stage("computing on shares")
        logits = side.run(image.tensor, material, model_owner=model_owner, on_layer=progress.layer)
        model_owner.send_end(step="result received")
        finished = time.perf_counter()
        seconds = Seconds(offline=prepared - started, online=finished - prepared)
        sent = _bytes(model_owner, dealer, ready)
        unrecorded = self._report_completed(session, seconds, sent)
        trips = model_owner.traffic(Phase.ONLINE).one_way_trips + model_owner.traffic(Phase.OUTPUT).one_way_trips
        return _Outcome(logits=logits, seconds=seconds, bytes=sent, one_way_trips=trips, warnings=unrecorded)

    def _side(self, claims: TicketClaims, plan: Plan) -> DataOwnerSide[Any]:
        """The engine of a ticket for its plan; kept, because it keeps masked weights ready for the next image."""
        key = (claims.plan_hash, claims.engine)
        if key not in self._sides:
            self._sides[key] = data_owner_side(plan, claims.engine, store=self._masked_weights)
        return self._sides[key]

    def _connect(self, channels: ExitStack, url: str, party: Party, ticket: Ticket) -> Channel:
        channel = connect_channel(url, context=self._context, expect=party, deadlines=self._deadlines)
        channels.callback(channel.close)
        present_ticket(channel, ticket)
        channel.set_phase(Phase.OFFLINE)
        return channel

    def _report_completed(self, session: _OpenSession, seconds: Seconds, sent: Bytes) -> tuple[Warned, ...]:
        """Tell the front end. Where it cannot be told, the result is still the clinician's, with a warning."""
        report = SessionReport(
            seconds=PhaseSeconds(offline=seconds.offline, online=seconds.online),
            bytes_sent=SentBytes(
                data_owner=sent.data_owner_sent,
                model_owner=sent.model_owner_sent,
                crypto_provider=sent.crypto_provider_sent,
            ),
        )
        try:
            self._front_end.report(session.view.id, SessionEventName.COMPLETE, report)
        except EncryptedInferenceError as error:
            text = f"the front end did not record this result ({one_line(error)}): keep your own note of it"
            return (Warned(code="not-recorded", text=text),)
        return ()

    def _report_failure(self, session: UUID, error: EncryptedInferenceError) -> None:
        report = SessionReport(failure=Failure(code=error.code, message=one_line(error)[:500]))
        try:
            self._front_end.report(session, SessionEventName.FAIL, report)
        except EncryptedInferenceError:
            # The model owner may have reported first, or the front end may be the one that is down. The error that
            # ended the session is what the user must see, and an unreported session expires.
            return

    def _cancel(self, session: _OpenSession) -> None:
        try:
            self._front_end.cancel(session.view.id)
        except EncryptedInferenceError:
            return  # it expires


def _confirm(image: ModelInput, *, force: bool) -> None:
    doubts = [warning.text for warning in image.warnings if warning.needs_confirmation]
    if doubts and not force:
        raise NeedsConfirmation(f"{'; '.join(doubts)}; submit it anyway with --force")


def _pinned(peers: Sequence[Peer], organisation: str, *, what: str) -> Peer:
    for peer in peers:
        if peer.organisation == organisation:
            return peer
    raise TicketInvalid(
        f"the ticket names {organisation} as {what}, which this data owner does not pin; nothing was sent. "
        "Add it to the settings only if you trust it"
    )


def _bytes(model_owner: Channel, dealer: Channel, ready: dict[str, object]) -> Bytes:
    """Add up what crossed the channels. What the model owner exchanged with the dealer is its own account of it."""
    dealt = _count(ready.get("received_bytes"), model_owner)
    asked = _count(ready.get("sent_bytes"), model_owner)
    whole, with_dealer = model_owner.traffic(), dealer.traffic()
    online = sum(
        part.bytes_sent + part.bytes_received
        for part in (model_owner.traffic(Phase.ONLINE), model_owner.traffic(Phase.OUTPUT))
    )
    everything = (
        whole.bytes_sent + whole.bytes_received + with_dealer.bytes_sent + with_dealer.bytes_received + dealt + asked
    )
    return Bytes(
        online=online,
        offline=everything - online,
        data_owner_sent=whole.bytes_sent + with_dealer.bytes_sent,
        model_owner_sent=whole.bytes_received + asked,
        crypto_provider_sent=with_dealer.bytes_received + dealt,
    )


def _count(value: object, channel: Channel) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise PeerViolation(f"{channel.peer} counted its bytes wrongly in step 'material ready'; start a new session")
    return value


def _diagnosis(path: Path, entry: ModelEntry, engine: Engine, image: ModelInput, outcome: _Outcome) -> Diagnosis:
    logits = tuple(float(value) for value in outcome.logits)
    return Diagnosis(
        file=str(path),
        model=ModelName(name=entry.card.name, version=entry.card.version),
        engine=engine,
        diagnosis=Finding.from_logits(entry.card, logits),
        logits=logits,
        warnings=(*(Warned.from_image(warning) for warning in image.warnings), *outcome.warnings),
        seconds=outcome.seconds,
        bytes=outcome.bytes,
        one_way_trips=outcome.one_way_trips,
    )
