"""One session, from files to results: the data owner's P0 and its dealings with the front end.

A session evaluates one image or, with an engine that can, several together; each takes an item of material of its own.

Without an item in stock:

front end                  data owner P0                             model owner P1      crypto provider D
-----------------------    --------------------------------------    ----------------    -----------------
card, plan          -->    checks the owner's signature; file -> tensor
session, ticket     -->    checks ticket, pins both peers
                    <--    preparing
                           notes the ticket as used
                           ticket                             -->    (fetches its material from D)
                           ticket                             ------------------------>  checks, deals
                           seed                               <------------------------
                           material ready                     <--
                    <--    running
                           openings                          <-->    layer by layer
                           signature over what crossed        -->    (masked engine)
                           logits                             <--
                           result received                    -->
                    <--    completed, seconds and bytes

(With an engine whose material can be stocked, "no item" follows the ticket to the model owner.)

With an item in stock for each image, prepared for exactly these parties, this model version and plan:

                           connects                           -->
                    <--    names of the items
refuses any that it
has seen before;
session, ticket
with the names      -->    checks ticket, pins both peers
                           consumes these items
                           ticket                             -->
                           names and deal tags of the items   -->    checks that the ticket names them,
                                                                     consumes its halves, compares tags
                           names and deal tags of the items   <--    (none: both prepare now, as above)
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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from authority.vouching import Signer
from bookkeeping.used_tickets import TICKETS_FILE, TicketUse, UsedTickets
from contract.api import ModelEntry, SessionEventName
from contract.errors import CallerError, EncryptedInferenceError, PeerViolation
from contract.identity import Party, Role
from contract.ticket import STOCKED_ENGINES, Engine, Purpose, TicketClaims
from data_owner.catalog import ModelCatalog
from data_owner.diagnosis import Bytes, Diagnosis, Seconds, Warned
from data_owner.masked_weights import MaskedWeightsFolder
from data_owner.mismatches import Mismatches
from data_owner.offline import Offline
from data_owner.progress import Cancellation, Progress, Stage
from data_owner.repeating import SessionOutcome, evaluate_all
from data_owner.results import Outcome, read_result
from data_owner.seen_versions import SeenVersions
from data_owner.session_desk import Opened, OpenSession, SessionDesk, Ticket, open_with_stock
from data_owner.settings import DataOwnerSettings
from data_owner.stock import TakenItem, open_stock
from data_owner.submission import Submission, require_confirmed, require_heat_map
from imaging.formats import Polarity
from imaging.reading import read_model_input
from inference_service.client import InferenceServiceClient
from secure_computation.admission import STOCKED_ITEM_STEP, item_of, items_of, present_ticket
from secure_computation.at_rest import StorageKey
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.tls import TlsContext, tls_context
from secure_computation.channel.websocket import connect_channel
from secure_computation.deal_tag import name_tags, require_same_deals
from secure_computation.engines.choosing import data_owner_side, require_room, warm_up, warm_up_for, warm_up_online
from secure_computation.engines.interface import DataOwnerSide
from secure_computation.engines.masked.session.sides import DataOwnerItem
from secure_computation.engines.masked.session.stock import stockable
from secure_computation.plan import Plan
from secure_computation.session_statements import SessionSigning
from secure_computation.wire import Phase

DRAWN_AHEAD: Final = 3
"""Images whose draws are made before the online phase: some 170 MB each for a ResNet-18 at 224 x 224."""


@dataclass(frozen=True, kw_only=True)
class Stocked:
    """What stocking one item took."""

    seconds: float
    bytes: Bytes
    warnings: tuple[Warned, ...]


class Diagnoser:
    """Runs diagnoses, one after the other, under one configuration."""

    def __init__(self, settings: DataOwnerSettings, front_end: InferenceServiceClient) -> None:
        """Read this party's keys. Raises ConfigurationError for files that are wrong."""
        self._settings = settings
        self._desk = SessionDesk(settings, front_end)
        self._context: TlsContext = tls_context(settings.credentials, server_side=False)
        self.catalog = ModelCatalog(settings, front_end, self._context)
        self._stock = open_stock(settings)
        self._used_tickets = UsedTickets(settings.data_folder / TICKETS_FILE)
        self._masked_weights = MaskedWeightsFolder(
            settings.data_folder / "masked-weights", key=StorageKey.of(settings.at_rest)
        )
        self._mismatches = Mismatches(settings.data_folder)
        self._seen_versions = SeenVersions(settings.data_folder)
        self._lost: list[str] = []
        self._loading: Future[None] | None = None
        self._getting_ready: Future[None] | None = None
        self._cancellation = Cancellation()
        self._sides: dict[tuple[str, Engine], DataOwnerSide[Any]] = {}
        self._deadlines = Deadlines.of(settings.waiting)

    def choose_model(self, name: str | None) -> ModelEntry:
        """A model of the catalog that its owner vouches for; see `ModelCatalog.choose`."""
        return self.catalog.choose(name)

    def warm_up(self, engine: Engine, *, stocked_for: ModelEntry | None = None) -> None:
        """Load what sessions of an engine need: seconds that would else be spent in the first one.

        With material in stock for `stocked_for`, only what the online phase needs, which does without torch; and that
        loads beside the session's first steps, which mostly wait for others.
        """
        if stocked_for is not None and engine in STOCKED_ENGINES and self._stock.holds(stocked_for):
            self._loading = _begin(warm_up_online)
            return
        warm_up(engine, threads=self._settings.threads)

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
        polarity: Polarity | None = None,
        heat_map: Path | None = None,
    ) -> Diagnosis:
        """Read and submit one file in a session of its own. Raises what `read` and `submit` raise and return."""
        progress.stage(Stage.READING)
        submission = self.read(path, entry, force=force, polarity=polarity, heat_map=heat_map)
        (result,) = self.submit([submission], entry, engine=engine, progress=progress)
        if isinstance(result, EncryptedInferenceError):
            raise result
        return result

    def read(
        self,
        path: Path,
        entry: ModelEntry,
        *,
        force: bool,
        polarity: Polarity | None = None,
        heat_map: Path | None = None,
    ) -> Submission:
        """Read one file as a model asks for it. Raises for a file that should not be submitted.

        `force` accepts a file with warnings that ask for confirmation, as it is. `polarity`: what a person says who has
        looked. `heat_map`: see Submission.
        """
        image = read_model_input(path, entry.card.input, polarity=polarity)
        require_confirmed(image, force=force)
        return Submission(path=path, image=image, heat_map=heat_map)

    def submit(
        self,
        submissions: Sequence[Submission],
        entry: ModelEntry,
        *,
        engine: Engine,
        progress: Progress,
        cancellation: Cancellation | None = None,
    ) -> tuple[Diagnosis | PeerViolation, ...]:
        """Have images evaluated together in one session; the result of each, in order.

        Raises an error of the tree if there is no result at all; a session that was opened then ends as failed at
        the front end. What the model's owner does not vouch for is refused before one is opened; heat maps too, where
        the owner does not allow them. A reference picture that is answered otherwise than signed is a ReferenceMismatch
        among the results. `cancellation` gives the session up: it then raises SessionCancelled, and ends as
        cancelled at the front end.
        """
        if any(submission.heat_map is not None for submission in submissions):
            require_heat_map(entry.card, engine)
        images = [submission.image.tensor for submission in submissions]
        checks = any(submission.reference is not None for submission in submissions)
        plan = self.catalog.fetch_plan(entry) if checks else None
        outcome = self.evaluate(images, entry, engine=engine, progress=progress, cancellation=cancellation)
        results = tuple(
            read_result(submission, entry, engine, outcome, index) for index, submission in enumerate(submissions)
        )
        return results if plan is None else self._mismatches.judge(submissions, results, entry, plan, outcome)

    def evaluate(
        self,
        images: Sequence[NDArray[np.float32]],
        entry: ModelEntry,
        *,
        engine: Engine,
        progress: Progress,
        cancellation: Cancellation | None = None,
    ) -> Outcome:
        """Have images, already as the model's card asks for them, evaluated together in one session. As `submit`.

        Images by which the model owner checked this party are evaluated again, in a further session.
        """
        progress = self._let_cancel(cancellation, progress)
        progress.stage(Stage.OPENING)
        plan = self.catalog.fetch_plan(entry)
        if any(plan.network.input_shape != image.shape for image in images):
            raise CallerError(f"a picture was read for another model than {entry.card.name}: read it again")
        require_room(plan, engine, len(images))
        self._warm_up_for(plan, engine)  # before the session, whose deadlines others keep

        def evaluate(some: Sequence[NDArray[np.float32]]) -> SessionOutcome:
            return self._evaluate_once(some, entry, plan, engine, progress)

        return evaluate_all(images, evaluate, entry.model_owner.organisation)

    def _evaluate_once(
        self, images: Sequence[NDArray[np.float32]], entry: ModelEntry, plan: Plan, engine: Engine, progress: Progress
    ) -> SessionOutcome:
        """Open a session for images, and run it."""
        if engine not in STOCKED_ENGINES or not self._stock.holds(entry):
            self._get_ready(entry, plan, engine)
        with ExitStack() as links, ExitStack() as kept_from_others:
            opened = open_with_stock(
                self._desk,
                self._stock,
                entry,
                engine,
                len(images),
                dial=partial(self._dial, links),
                kept_from_others=kept_from_others,
            )
            with self._desk.ending(opened.session) as channels:
                # Consumed here before the ticket that names them leaves.
                taken = self._stock.take(opened.items, stockable(plan)) if opened.items else ()
                kept_from_others.close()
                return self._run(opened, plan, images, taken=taken, progress=progress, channels=channels)

    def stock(
        self, entry: ModelEntry, *, engine: Engine, progress: Progress, cancellation: Cancellation | None = None
    ) -> Stocked:
        """Prepare one item ahead, and keep it for a later diagnosis; the model owner keeps its half.

        Raises an error of the tree; the session then ends as failed at the front end, and neither party keeps a half.
        `cancellation`: as in `submit`.
        """
        progress = self._let_cancel(cancellation, progress)
        if engine not in STOCKED_ENGINES:
            raise CallerError(f"material of the engine '{engine.value}' cannot be prepared ahead; use --engine masked")
        self._stock.require_room()
        progress.stage(Stage.OPENING)
        plan = self.catalog.fetch_plan(entry)
        lowering = stockable(plan)
        self._warm_up_for(plan, engine)
        self._get_ready(entry, plan, engine)
        session = self._desk.open(entry, engine, Purpose.PREPARE)
        claims, item = session.claims, item_of(session.claims)
        with self._desk.ending(session) as channels:
            started = time.perf_counter()
            self._report_preparing(session, progress)
            self._used_tickets.use(TicketUse.of(claims, by=Role.DATA_OWNER))
            model_owner = self._connect(channels, session.model_owner_url, session.model_owner, session.ticket)
            offline = self._prepare(session, plan, model_owner, channels)
            self._stock.put(claims, lowering, offline.material[0], name=item)
            model_owner.send_end(step="material stocked")
            seconds = Seconds(offline=time.perf_counter() - started, online=0.0)
            sent = offline.bytes()
            unrecorded = self._desk.report_completed(session, seconds, sent)
        return Stocked(seconds=seconds.offline, bytes=sent, warnings=(*self._take_warnings(), *unrecorded))

    def _let_cancel(self, cancellation: Cancellation | None, progress: Progress) -> Progress:
        """Let the session that begins now be given up."""
        self._cancellation = cancellation or Cancellation()
        return progress.until(self._cancellation)

    def _run(
        self,
        opened: Opened,
        plan: Plan,
        images: Sequence[NDArray[np.float32]],
        *,
        taken: Sequence[TakenItem],
        progress: Progress,
        channels: ExitStack,
    ) -> SessionOutcome:
        started = time.perf_counter()
        session = opened.session
        offline = self._get_material(opened, plan, taken, progress, channels)
        model_owner = offline.model_owner
        self._desk.report(session, SessionEventName.RUN)
        if self._loading is not None:
            self._loading.result()
        prepared = time.perf_counter()
        side = self._get_side(session.claims, plan)
        signing = SessionSigning(claims=session.claims, signer=Signer.of(self._settings.credentials))
        progress.stage(Stage.COMPUTING)
        heat_maps: list[NDArray[np.float64]] = []
        replies = side.run(
            images,
            offline.material,
            model_owner=model_owner,
            on_layer=progress.layer,
            on_heat_map=heat_maps.append,
            signing=signing,
        )
        model_owner.send_end(step="result received")
        finished = time.perf_counter()
        seconds = Seconds(offline=prepared - started, online=finished - prepared)
        sent = offline.bytes()
        unrecorded = self._desk.report_completed(session, seconds, sent)
        trips = model_owner.traffic(Phase.ONLINE).one_way_trips + model_owner.traffic(Phase.OUTPUT).one_way_trips
        claims = session.claims
        known = (*self._mismatches.warn(claims.model, claims.version), *self._seen_versions.note(claims))
        return SessionOutcome(
            session=session.view.id,
            replies=replies,
            heat_maps=tuple(heat_maps),
            seconds=seconds,
            bytes=sent,
            one_way_trips=trips,
            stocked=offline.dealer is None,
            warnings=(*known, *self._take_warnings(), *unrecorded),
        )

    def _get_material(
        self, opened: Opened, plan: Plan, taken: Sequence[TakenItem], progress: Progress, channels: ExitStack
    ) -> Offline:
        """Material for each image: from the stock if both parties have items for all, else prepared now."""
        session, claims = opened.session, opened.session.claims
        if taken:
            progress.stage(Stage.FROM_STOCK)
        else:
            self._report_preparing(session, progress)
        # Durable before the first message that depends on it.
        self._used_tickets.use(TicketUse.of(claims, by=Role.DATA_OWNER))
        model_owner = opened.get_fresh_channel()
        model_owner = model_owner or self._dial(channels, session.model_owner_url, session.model_owner)
        self._begin(model_owner, session.ticket)
        if claims.engine in STOCKED_ENGINES:
            material = self._spend(claims, plan, taken, model_owner)
            if material is not None:
                return Offline.from_stock(material, model_owner)
        if taken:
            self._report_preparing(session, progress)
        return self._prepare(session, plan, model_owner, channels)

    def _spend(
        self, claims: TicketClaims, plan: Plan, taken: Sequence[TakenItem], model_owner: Channel
    ) -> list[DataOwnerItem] | None:
        """Agree with the model owner on stocked items, which are consumed on both sides; None for none."""
        names, tags = [one.binding.item for one in taken], [one.deal_tag for one in taken]
        model_owner.send_hello({"items": names, "tags": name_tags(tags)}, step=STOCKED_ITEM_STEP)
        if not taken:
            return None
        material = [one.restore() for one in taken]
        self._draw_ahead(claims, plan, material)  # while the model owner reads its halves
        patience = self._settings.waiting.material
        answer = model_owner.receive_hello(step=STOCKED_ITEM_STEP, wait_seconds=patience)
        if answer.get("items") == names:
            require_same_deals(tags, answer.get("tags"), model_owner)
            return material
        if answer.get("items") != []:
            raise PeerViolation(f"{model_owner.peer} answered with other stocked items; start a new session")
        words = ", ".join(name[:12] for name in names)
        self._lost.append(
            f"{model_owner.peer} no longer has what was stocked ({words}): it is dropped, and material was prepared now"
        )
        return None

    def _prepare(self, session: OpenSession, plan: Plan, model_owner: Channel, channels: ExitStack) -> Offline:
        """The offline phase, with the dealer and the model owner."""
        self.warm_up(session.claims.engine)  # if stock was expected and lost; else long done
        side, patience = self._get_side(session.claims, plan), self._settings.waiting.material
        dealer = self._connect(channels, session.crypto_provider_url, session.crypto_provider, session.ticket)
        if self._getting_ready is not None:
            self._getting_ready.result()
        material = [
            side.prepare(item=item, dealer=dealer, model_owner=model_owner, patience_seconds=patience)
            for item in items_of(session.claims)
        ]
        dealer.send_end(step="material received")
        if session.claims.purpose is Purpose.DIAGNOSE:
            self._draw_ahead(session.claims, plan, material)  # while the model owner's half arrives
        ready = model_owner.receive_hello(step="material ready", wait_seconds=patience)
        return Offline(material=material, model_owner=model_owner, dealer=dealer, ready=ready)

    def _draw_ahead(self, claims: TicketClaims, plan: Plan, material: Sequence[Any]) -> None:
        """For the first images; those after them are drawn while the model owner computes."""
        for one in material[:DRAWN_AHEAD]:
            self._get_side(claims, plan).draw_ahead(one)

    def _report_preparing(self, session: OpenSession, progress: Progress) -> None:
        progress.stage(Stage.PREPARING)
        self._desk.report(session, SessionEventName.PREPARE)

    def _take_warnings(self) -> tuple[Warned, ...]:
        """What happened to the stock in this session."""
        words = (*self._stock.warnings(), *self._lost)
        self._lost.clear()
        return tuple(Warned(code="stock-dropped", text=text) for text in words)

    def _get_ready(self, entry: ModelEntry, plan: Plan, engine: Engine) -> None:
        """Begin what preparing needs no peer for, beside the session's first steps, which mostly wait for others."""
        if engine not in entry.engines:
            return  # the front end will refuse it, and say which there are
        side = self._make_side(entry.plan_hash, engine, plan)
        self._getting_ready = _begin(partial(side.get_ready, entry.model_owner.organisation))

    def _get_side(self, claims: TicketClaims, plan: Plan) -> DataOwnerSide[Any]:
        """The engine of a ticket for its plan."""
        return self._make_side(claims.plan_hash, claims.engine, plan)

    def _make_side(self, plan_hash: str, engine: Engine, plan: Plan) -> DataOwnerSide[Any]:
        """An engine for a plan; kept, because it keeps masked weights ready for the next image."""
        key = (plan_hash, engine)
        if key not in self._sides:
            self._sides[key] = data_owner_side(plan, engine, store=self._masked_weights, threads=self._settings.threads)
        return self._sides[key]

    def _connect(self, channels: ExitStack, url: str, party: Party, ticket: Ticket) -> Channel:
        channel = self._dial(channels, url, party)
        self._begin(channel, ticket)
        return channel

    def _dial(self, channels: ExitStack, url: str, party: Party) -> Channel:
        channel = connect_channel(url, context=self._context, expect=party, deadlines=self._deadlines)
        channels.callback(channel.close)
        self._cancellation.watch(channel)
        return channel

    def _begin(self, channel: Channel, ticket: Ticket) -> None:
        present_ticket(channel, ticket)
        channel.set_phase(Phase.OFFLINE)


def _begin(work: Callable[[], None]) -> Future[None]:
    """Do something in a thread of its own."""
    thread = ThreadPoolExecutor(1)
    begun = thread.submit(work)
    thread.shutdown(wait=False)
    return begun
