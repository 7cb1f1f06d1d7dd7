"""One diagnosis, from a file to a result: the data owner's P0 and its dealings with the front end.

Without an item in stock:

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

(With an engine whose material can be stocked, "no item" follows the ticket to the model owner.)

With an item in stock that was prepared for exactly these parties, this model version and plan:

session, ticket     -->    checks ticket, pins both peers
                           ticket                             -->
                           consumes an item of its stock
                           name of the item                   -->    consumes its half
                           name of the item                   <--    (none: both prepare now, as above)
                    <--    running
                           and so on, without the crypto provider

Stocking an item, ahead and without an image:

session, ticket     -->    checks ticket, pins both peers
                    <--    preparing
                           the offline phase, as above
                           material ready                     <--    has stocked its half
                           stocks its half
                           material stocked                   -->
                    <--    completed, seconds and bytes
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.api import ModelEntry, SessionEventName
from contract.errors import (
    CallerError,
    ConfigurationError,
    NeedsConfirmation,
    PeerViolation,
)
from contract.identity import Party
from contract.model_card import ModelCard
from contract.ticket import STOCKED_ENGINES, Engine, Purpose, TicketClaims
from data_owner.diagnosis import Bytes, Diagnosis, Finding, HeatMapGrid, ModelName, Seconds, Warned
from data_owner.heat_map import require_heat_map, write_heat_map
from data_owner.masked_weights import MaskedWeightsFolder
from data_owner.offline import Offline
from data_owner.session_desk import OpenSession, SessionDesk, Ticket
from data_owner.settings import DataOwnerSettings
from data_owner.stock import open_ledger, open_stock
from imaging import ModelInput, read_model_input
from inference_service.client import InferenceServiceClient
from secure_computation.admission import STOCKED_ITEM_STEP, item_of, present_ticket
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.tls import tls_context
from secure_computation.channel.websocket import connect_channel
from secure_computation.engines.choosing import data_owner_side, output_of, warm_up, warm_up_for, warm_up_online
from secure_computation.engines.interface import Answer, DataOwnerSide, Label, OnLayer
from secure_computation.engines.masked.engine import DataOwnerItem
from secure_computation.engines.masked.stock import stockable
from secure_computation.plan import Plan, parse_plan
from secure_computation.wire import Phase

OnStage = Callable[[str], None]
"""Progress in words: which stage begins."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Whom to tell how far a diagnosis is."""

    stage: OnStage
    layer: OnLayer


@dataclass(frozen=True, kw_only=True)
class Stocked:
    """What stocking one item took."""

    seconds: float
    bytes: Bytes
    warnings: tuple[Warned, ...]


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    answer: Answer
    heat_map: NDArray[np.float64] | None = field(repr=False)
    """(classes, rows, columns)."""
    seconds: Seconds
    bytes: Bytes
    one_way_trips: int
    stocked: bool
    warnings: tuple[Warned, ...]


class Diagnoser:
    """Runs diagnoses, one after the other, under one configuration."""

    def __init__(self, settings: DataOwnerSettings, front_end: InferenceServiceClient) -> None:
        """Read this party's keys. Raises ConfigurationError for files that are wrong."""
        self._settings = settings
        self._front_end = front_end
        self._desk = SessionDesk(settings, front_end)
        self._context: SSLContext = tls_context(settings.credentials, server_side=False)
        self._ledger = open_ledger(settings)
        self._stock = open_stock(settings, self._ledger)
        self._masked_weights = MaskedWeightsFolder(settings.data_folder / "masked-weights")
        self._lost: list[str] = []
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

    def warm_up(self, engine: Engine, *, stocked_for: ModelEntry | None = None) -> None:
        """Load what sessions of an engine need: seconds that would else be spent in the first one.

        With material in stock for `stocked_for`, only what the online phase needs, which does without torch.
        """
        if stocked_for is not None and engine in STOCKED_ENGINES and self._stock.keeps(stocked_for):
            warm_up_online()
            return
        import torch

        torch.set_num_threads(self._settings.threads)
        warm_up(engine)

    def _warm_up_for(self, plan: Plan, engine: Engine) -> None:
        if plan.engines.masked is not None and not plan.engines.masked.is_exact:
            self.warm_up(engine)  # CrypTen computes in the online phase, so that needs torch after all
        warm_up_for(plan, engine)

    def diagnose(
        self,
        path: Path,
        entry: ModelEntry,
        *,
        engine: Engine,
        force: bool,
        progress: Progress,
        heat_map: Path | None = None,
    ) -> Diagnosis:
        """Submit one file. Raises an error of the tree; the session then ends as failed at the front end.

        `force` submits a file with warnings that ask for confirmation. `heat_map`: a new PNG file for the picture with
        the heat map over it; refused before anything is sent where the model's owner does not allow one.
        """
        if heat_map is not None:
            require_heat_map(entry.card, engine)
        progress.stage("reading the image")
        image = read_model_input(path, entry.card.input)
        _confirm(image, force=force)
        progress.stage("opening a session")
        plan = parse_plan(self._front_end.plan(entry.plan_hash))
        if (
            plan.network.input_shape != image.tensor.shape
            or plan.network.classes != len(entry.card.classes)
            or output_of(plan) is not entry.card.output_policy
        ):
            raise PeerViolation(
                f"the plan of {entry.card.name} has another input, classes or output than its card; tell its owner"
            )
        self._warm_up_for(plan, engine)  # before the session, whose deadlines others keep
        session = self._desk.open(entry, engine, Purpose.DIAGNOSE)
        with self._desk.ending(session) as channels:
            outcome = self._run(session, plan, image, progress, channels)
        diagnosis = _diagnosis(path, entry, engine, image, outcome)
        return diagnosis if heat_map is None else _with_heat_map_file(diagnosis, image, heat_map)

    def stock(self, entry: ModelEntry, *, engine: Engine, progress: Progress) -> Stocked:
        """Prepare one item ahead, and keep it for a later diagnosis; the model owner keeps its half.

        Raises an error of the tree; the session then ends as failed at the front end, and neither party keeps a half.
        """
        if engine not in STOCKED_ENGINES:
            raise CallerError(f"material of the engine '{engine.value}' cannot be prepared ahead; use --engine masked")
        progress.stage("opening a session")
        plan = parse_plan(self._front_end.plan(entry.plan_hash))
        lowering = stockable(plan)
        self._warm_up_for(plan, engine)
        session = self._desk.open(entry, engine, Purpose.PREPARE)
        claims, item = session.claims, item_of(session.claims)
        with self._desk.ending(session) as channels:
            started = time.perf_counter()
            self._report_preparing(session, progress)
            self._ledger.consume_preparation(item)
            model_owner = self._connect(channels, session.model_owner_url, session.model_owner, session.ticket)
            offline = self._prepare(session, plan, model_owner, channels)
            self._stock.put(claims, lowering, offline.material, name=item)
            model_owner.send_end(step="material stocked")
            seconds = Seconds(offline=time.perf_counter() - started, online=0.0)
            sent = offline.bytes()
            unrecorded = self._desk.report_completed(session, seconds, sent)
        return Stocked(seconds=seconds.offline, bytes=sent, warnings=(*self._dropped(), *unrecorded))

    def _run(
        self, session: OpenSession, plan: Plan, image: ModelInput, progress: Progress, channels: ExitStack
    ) -> _Outcome:
        started = time.perf_counter()
        offline = self._offline(session, plan, progress, channels)
        model_owner = offline.model_owner
        self._desk.report(session, SessionEventName.RUN)
        prepared = time.perf_counter()
        side = self._side(session.claims, plan)
        progress.stage("computing on shares")
        heat_maps: list[NDArray[np.float64]] = []
        (answer,) = side.run(
            [image.tensor],
            [offline.material],
            model_owner=model_owner,
            on_layer=progress.layer,
            on_heat_map=heat_maps.append,
        )
        model_owner.send_end(step="result received")
        finished = time.perf_counter()
        seconds = Seconds(offline=prepared - started, online=finished - prepared)
        sent = offline.bytes()
        unrecorded = self._desk.report_completed(session, seconds, sent)
        trips = model_owner.traffic(Phase.ONLINE).one_way_trips + model_owner.traffic(Phase.OUTPUT).one_way_trips
        return _Outcome(
            answer=answer,
            heat_map=heat_maps[0] if heat_maps else None,
            seconds=seconds,
            bytes=sent,
            one_way_trips=trips,
            stocked=offline.dealer is None,
            warnings=(*self._dropped(), *unrecorded),
        )

    def _offline(self, session: OpenSession, plan: Plan, progress: Progress, channels: ExitStack) -> Offline:
        """Material for one image: from the stock where both parties have an item, else prepared now."""
        claims = session.claims
        held = self._stock.holds(claims)
        if held:
            progress.stage("taking material from stock")
        else:
            self._report_preparing(session, progress)
        # Durable before the first message that depends on it.
        self._ledger.consume(item_of(claims))
        model_owner = self._connect(channels, session.model_owner_url, session.model_owner, session.ticket)
        if claims.engine in STOCKED_ENGINES:
            material = self._spend(claims, plan, model_owner)
            if material is not None:
                return Offline.from_stock(material, model_owner)
        if held:
            self._report_preparing(session, progress)
        return self._prepare(session, plan, model_owner, channels)

    def _spend(self, claims: TicketClaims, plan: Plan, model_owner: Channel) -> DataOwnerItem | None:
        """Agree with the model owner on a stocked item, which is consumed on both sides; None for none."""
        # Consumed here before its name leaves, so that no other session can name it.
        taken = self._stock.take(claims, stockable(plan))
        name = None if taken is None else taken.binding.item
        model_owner.send_hello({"item": name}, step=STOCKED_ITEM_STEP)
        if taken is None:
            return None
        material = taken.restore()
        self._side(claims, plan).draw_ahead(material)  # while the model owner reads its half
        patience = self._settings.waiting.material
        answered = model_owner.receive_hello(step=STOCKED_ITEM_STEP, wait_seconds=patience).get("item")
        if answered == name:
            return material
        if answered is not None:
            raise PeerViolation(f"{model_owner.peer} answered with another stocked item; start a new session")
        self._lost.append(
            f"{model_owner.peer} no longer has the stocked item {taken.binding.item[:12]}: it is dropped, and material "
            "was prepared now"
        )
        return None

    def _prepare(self, session: OpenSession, plan: Plan, model_owner: Channel, channels: ExitStack) -> Offline:
        """The offline phase, with the dealer and the model owner."""
        self.warm_up(session.claims.engine)  # where stock was expected and lost; else long done
        side, patience = self._side(session.claims, plan), self._settings.waiting.material
        dealer = self._connect(channels, session.crypto_provider_url, session.crypto_provider, session.ticket)
        item = item_of(session.claims)
        material = side.prepare(item=item, dealer=dealer, model_owner=model_owner, patience_seconds=patience)
        dealer.send_end(step="material received")
        if session.claims.purpose is Purpose.DIAGNOSE:
            side.draw_ahead(material)  # while the model owner's half arrives
        ready = model_owner.receive_hello(step="material ready", wait_seconds=patience)
        return Offline(material=material, model_owner=model_owner, dealer=dealer, ready=ready)

    def _report_preparing(self, session: OpenSession, progress: Progress) -> None:
        progress.stage("preparing offline material")
        self._desk.report(session, SessionEventName.PREPARE)

    def _dropped(self) -> tuple[Warned, ...]:
        """What happened to the stock in this session."""
        words = (*self._stock.warnings(), *self._lost)
        self._lost.clear()
        return tuple(Warned(code="stock-dropped", text=text) for text in words)

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


def _confirm(image: ModelInput, *, force: bool) -> None:
    doubts = [warning.text for warning in image.warnings if warning.needs_confirmation]
    if doubts and not force:
        raise NeedsConfirmation(f"{'; '.join(doubts)}; submit it anyway with --force")


def _diagnosis(path: Path, entry: ModelEntry, engine: Engine, image: ModelInput, outcome: _Outcome) -> Diagnosis:
    answer = outcome.answer
    if not isinstance(answer, Label):
        logits = tuple(float(value) for value in answer)
        finding = Finding.from_logits(entry.card, logits)
    elif answer.index is None:
        # Only now, when the session has ended for everybody: see `Label`.
        raise PeerViolation(
            f"what was opened is no label: {entry.model_owner.organisation} or the crypto provider did not follow the "
            "protocol. There is no result; ask them before you submit the image again"
        )
    else:
        finding, logits = Finding.from_label(entry.card, answer.index), None
    return Diagnosis(
        file=str(path),
        model=ModelName(name=entry.card.name, version=entry.card.version),
        engine=engine,
        diagnosis=finding,
        logits=logits,
        warnings=(*(Warned.from_image(warning) for warning in image.warnings), *outcome.warnings),
        seconds=outcome.seconds,
        bytes=outcome.bytes,
        one_way_trips=outcome.one_way_trips,
        stocked=outcome.stocked,
        heat_map=None if outcome.heat_map is None else _grids(entry.card, outcome.heat_map),
    )


def _grids(card: ModelCard, heat_map: NDArray[np.float64]) -> dict[str, HeatMapGrid]:
    return {
        name: tuple(tuple(float(value) for value in row) for row in grid)
        for name, grid in zip(card.classes, heat_map, strict=True)
    }


def _with_heat_map_file(diagnosis: Diagnosis, image: ModelInput, path: Path) -> Diagnosis:
    """Draw the map of the decided class. Where that fails, the result is still the clinician's, with a warning."""
    if diagnosis.heat_map is None:
        raise PeerViolation("the model's plan opened no heat map, against its card; tell its owner")
    try:
        write_heat_map(path, image.picture, np.array(diagnosis.heat_map[diagnosis.diagnosis.label]))
    except OSError as error:
        text = f"the heat map was not written to {path} ({error.strerror}); the numbers are in the output of --json"
        return diagnosis.model_copy(update={"warnings": (*diagnosis.warnings, Warned(code="no-heat-map", text=text))})
    return diagnosis.model_copy(update={"heat_map_file": str(path)})
