"""The model owner's server: P1 of every session.

data owner P0                 model owner P1                       crypto provider D
--------------------------    ---------------------------------    ------------------
ticket                 -->    checks ticket, peer, plan, card
                              notes the ticket as used, and counts its images
                              against the data owner's budget
                              ticket                        -->    checks ticket
                              seed, corrections             <--    deals
material ready         <--
openings              <-->    openings, layer by layer
signature              -->    checks that it is for what crossed (masked engine)
logits                 <--    its share of the output
result received        -->

With an engine whose material can be stocked, the data owner names stocked items after its ticket, or none:

ticket to diagnose     -->    checks ticket, peer, plan, card
names and deal tags    -->    checks that the ticket names them, consumes its halves
names and deal tags    <--    compares the tags with its own
openings              <-->    and so on, without the crypto provider

ticket to prepare      -->    checks ticket, peer, plan, card, room in the stock
                              (the offline phase, as above)
                              stocks its half
material ready         <--
material stocked       -->    (or drops its half)
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NoReturn

from starlette.applications import Starlette

from authority.certificates import read_own_party
from authority.vouching import Signer
from bookkeeping.audit_log import AuditLog
from bookkeeping.spending import Counted, SpendingBook
from contract.api import Failure, SessionEventName, SessionReport, Unready
from contract.deviation import DeviationError
from contract.errors import (
    Busy,
    EncryptedInferenceError,
    MaterialSpent,
    PeerReported,
    PeerViolation,
    Refused,
    TicketInvalid,
)
from contract.identity import Party, Role
from contract.model_card import OutputPolicy
from contract.ticket import STOCKED_ENGINES, Engine, Purpose, TicketClaims
from inference_service.client import InferenceServiceClient
from model_owner.accusing import Accuser
from model_owner.allowances import choose_allowances, choose_audit_share
from model_owner.imported_models import ImportedModel, ImportedModels, require_in_service
from model_owner.oversight import BOOK_FILE, Oversight
from model_owner.settings import ModelOwnerSettings
from model_owner.stocked_items import ModelOwnerStock
from model_owner.stopped_accounts import StoppedAccounts
from plumbing.readiness import PATIENCE_SECONDS, Look, Readiness, require_writable
from plumbing.words_for_others import words_for_others
from secure_computation.admission import STOCKED_ITEM_STEP, Reception, items_of, present_ticket
from secure_computation.at_rest import StorageKey
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.serving import Service, party_app, trust_looks
from secure_computation.channel.tls import TlsContext, tls_context
from secure_computation.channel.traffic import ChannelTraffic
from secure_computation.channel.websocket import connect_channel, look_at_party
from secure_computation.deal_tag import name_tags, require_same_deals
from secure_computation.engines.choosing import model_owner_side, require_room, servable_engines
from secure_computation.engines.interface import ModelOwnerSide
from secure_computation.engines.masked.session.sides import PreparedModelOwner
from secure_computation.engines.masked.session.stock import stockable
from secure_computation.material import ConsumptionLedger, ItemName
from secure_computation.places import Places
from secure_computation.session_statements import SessionWitness
from secure_computation.wire import Phase

INFERENCE_PATH: Final = "/v2/inference"
HostedModels = Mapping[tuple[str, str], ImportedModel]
"""By name and version."""
_LAST_LOOK_SECONDS: Final = 1.0
"""For what the dealer has said already, once a session is lost."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DealerLink:
    """How this model owner reaches the crypto provider."""

    party: Party
    url: str
    context: TlsContext
    deadlines: Deadlines


@dataclass(frozen=True, kw_only=True)
class _Admitted:
    """A session that may begin."""

    ticket: str
    claims: TicketClaims
    model: ImportedModel
    counted: Counted
    """What it uses of its data owner's budget."""


@dataclass(repr=False, eq=False)
class InferenceHandler:
    """Serves one data owner's channel: one session, from the ticket to the result."""

    own: Party
    reception: Reception
    """Whom it admits is served."""
    models: HostedModels
    stock: ModelOwnerStock
    dealer: DealerLink
    front_end: InferenceServiceClient
    oversight: Oversight
    accuser: Accuser
    images_per_session: int
    audit_share: Callable[[OutputPolicy], float]
    """Share of the items for a model that are decoys."""
    threads: int = 1
    """Of one operation."""
    _sides: dict[tuple[str, Engine], ModelOwnerSide[Any]] = field(default_factory=dict, init=False)
    _making: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(self, channel: Channel) -> None:
        """Run one session. Raises for the caller (`serve_channel`) to tell the peer."""
        with ExitStack() as place:
            try:
                admitted = self._admit(channel, place)
            except (TicketInvalid, MaterialSpent, Refused) as error:
                self.oversight.refused(channel.peer, error)
                raise
            self._serve(channel, admitted, place)
        done = "stocked" if admitted.claims.purpose is Purpose.PREPARE else "served"
        _LOG.info("session %s: %s for the %s", admitted.claims.session, done, channel.peer)

    def _serve(self, channel: Channel, admitted: _Admitted, place: ExitStack) -> None:
        """Run a session; its place is free as soon as it ends. Reporting it afterwards may take long."""
        ticket, claims, model = admitted.ticket, admitted.claims, admitted.model
        try:
            with self.oversight.session(claims), place:
                if claims.purpose is Purpose.PREPARE:
                    self._stock_item(channel, model, ticket, claims)
                else:
                    self._run(channel, model, admitted)
        except Busy as error:  # the crypto provider's: the data owner got nothing that its budget is for
            self.oversight.give_back(admitted.counted)
            self._report(claims, SessionEventName.TURN_AWAY, error)
            raise
        except EncryptedInferenceError as error:
            accused = isinstance(error, DeviationError)
            self._report(claims, SessionEventName.ACCUSE if accused else SessionEventName.FAIL, error)
            raise

    def _admit(self, channel: Channel, place: ExitStack) -> _Admitted:
        """Check the ticket of whoever dialled, find its model and count its images; its place is left with the stack.

        Nothing is written for a ticket that is refused, whatever it is refused for: it can be presented without end.
        Nothing is reported to the front end either: a ticket that was used before must not end the session that it was
        made for. Only if no place is free is the ticket used up: the front end can then give back what it stood for.
        """
        ticket, claims = self.reception.admit(channel)
        self.oversight.require_served(claims)
        model = self._hosted(claims)
        try:
            place.enter_context(self.reception.place(claims, channel.peer.role))
        except Busy as error:
            self.oversight.use_up(claims)
            self.stock.drop(claims)  # no other ticket will name these items
            self._report(claims, SessionEventName.TURN_AWAY, error)
            raise
        return _Admitted(ticket=ticket, claims=claims, model=model, counted=self.oversight.spend(claims))

    def _run(self, channel: Channel, model: ImportedModel, admitted: _Admitted) -> None:
        ticket, claims = admitted.ticket, admitted.claims
        side = self._side(model, claims.engine)
        channel.set_phase(Phase.OFFLINE)
        material = self._spend(channel, model, claims) if claims.engine in STOCKED_ENGINES else None
        if material is None:
            material, traffic = self._prepare(side, channel, ticket, claims)
            _tell_ready(channel, traffic)
        served = partial(self.oversight.require_served, claims)  # no longer, if another session was found meanwhile
        witness = SessionWitness(claims=claims, trust=self.accuser.trust(), still_served=served)
        on_audits = partial(self.oversight.audited, claims, admitted.counted)
        try:
            side.run(material, data_owner=channel, on_audits=on_audits, witness=witness)
        except DeviationError as error:
            self._accuse(claims, error, material, witness)
        channel.receive_end(step="result received")

    def _accuse(
        self,
        claims: TicketClaims,
        error: DeviationError,
        material: Sequence[PreparedModelOwner],
        witness: SessionWitness,
    ) -> NoReturn:
        """Keep a record of what a decoy found, and stop the data owner. Raises DeviationError, in words for it."""
        found = error.deviation
        deal_tag = next(one.deal_tag for one in material if one.item == found.item)
        self.accuser.accuse(claims, found, deal_tag=deal_tag, signed=witness.taken.get(found.item))
        own = self.own.organisation
        words = f"{error}; {own} serves {claims.data_owner} no more: ask its operator, who keeps the record"
        raise DeviationError(words, deviation=found) from error

    def _stock_item(self, channel: Channel, model: ImportedModel, ticket: str, claims: TicketClaims) -> None:
        """Prepare an item for a later session and keep this party's half, if the data owner keeps its own."""
        side, lowering = self._side(model, claims.engine), stockable(model.plan)
        channel.set_phase(Phase.OFFLINE)
        with self.stock.room(claims):
            (material,), traffic = self._prepare(side, channel, ticket, claims)
            with self.stock.kept(claims, lowering, material, weights_version=model.weights_version):
                _tell_ready(channel, traffic)
                channel.receive_end(step="material stocked")

    def _spend(self, channel: Channel, model: ImportedModel, claims: TicketClaims) -> list[PreparedModelOwner] | None:
        """The stocked items that the data owner names, consumed; None if it names none or one is not there."""
        named, tags = _receive_items(channel, claims)
        if not named:
            self.stock.drop(claims)  # no other ticket will name them
            return None
        lowering, found = stockable(model.plan), []
        for item in named:
            material = self.stock.take(claims, lowering, item, weights_version=model.weights_version)
            if material is None:
                # The data owner has consumed the others with it: they are consumed here as well.
                _LOG.info("session %s: item %s is not in stock", claims.session, item[:12])
            else:
                found.append(material)
        complete = len(found) == len(named)
        own = [one.deal_tag for one in found] if complete else []
        channel.send_hello({"items": named if complete else [], "tags": name_tags(own)}, step=STOCKED_ITEM_STEP)
        if not complete:
            return None
        require_same_deals(own, tags, channel)  # after the answer: each party says by itself what is wrong
        return found

    def _side(self, model: ImportedModel, engine: Engine) -> ModelOwnerSide[Any]:
        """The engine of a model's plan; kept, because it lays out weights."""
        key = (model.plan_hash, engine)
        with self._making:
            if key not in self._sides:
                self._sides[key] = model_owner_side(
                    model.plan,
                    engine,
                    weights=model.weights,
                    weights_version=model.weights_version,
                    threads=self.threads,
                    audit_share=self.audit_share(model.card.output_policy),
                )
            return self._sides[key]

    def _hosted(self, claims: TicketClaims) -> ImportedModel:
        model = self.models.get((claims.model, claims.version))
        if model is None:
            raise Refused(f"{claims.model} {claims.version} is not served here; ask the front end for the catalog")
        require_in_service(model)
        if claims.plan_hash != model.plan_hash:
            raise TicketInvalid(
                f"the ticket is for another plan of {claims.model} {claims.version} than the one served here; "
                "the model owner must register this version again"
            )
        if claims.card_hash != model.card_hash:
            raise TicketInvalid(
                f"the ticket is for another card of {claims.model} {claims.version} than the one served here: what the "
                "front end shows of this model is not what its owner registered; tell both"
            )
        if claims.output_policy is not model.card.output_policy:
            raise TicketInvalid(
                f"the ticket allows another output of {claims.model} {claims.version} than its card; "
                "the model owner must register this version again"
            )
        if claims.engine not in servable_engines(model.plan):
            offered = " or ".join(engine.value for engine in servable_engines(model.plan))
            raise Refused(f"the engine '{claims.engine.value}' is not offered for this model; choose {offered}")
        if claims.images > self.images_per_session:
            most = self.images_per_session
            raise Refused(f"at most {most} images are evaluated in one session here; use --batch {most} or less")
        require_room(model.plan, claims.engine, claims.images)
        return model

    def _prepare(
        self, side: ModelOwnerSide[Any], channel: Channel, ticket: str, claims: TicketClaims
    ) -> tuple[list[Any], ChannelTraffic]:
        """Fetch and make the material of each image of a session; what crossed the link to the dealer for it."""
        link = self.dealer
        dealer = connect_channel(link.url, context=link.context, expect=link.party, deadlines=link.deadlines)
        try:
            present_ticket(dealer, ticket)
            dealer.set_phase(Phase.OFFLINE)
            material = [side.prepare(item=item, dealer=dealer, data_owner=channel) for item in items_of(claims)]
            dealer.send_end(step="material received")
            return material, dealer.traffic()
        except EncryptedInferenceError as error:
            refusal = _find_refusal(dealer, error)  # the data owner may have met it first, and have gone
            if refusal is not None:
                raise Busy(words_for_others(refusal, own=str(self.own))) from error
            raise
        finally:
            dealer.close()

    def _report(self, claims: TicketClaims, event: SessionEventName, error: EncryptedInferenceError) -> None:
        """Tell the front end how a session ended here: its data owner may have vanished, or be owed it."""
        report = SessionReport(failure=Failure(code=error.code, message=words_for_others(error, own=str(self.own))))
        try:
            self.front_end.report(claims.session, event, report)
        except EncryptedInferenceError as refusal:
            # The data owner may have reported first, or the front end may be down; the session expires there anyway.
            _LOG.info("session %s: its end not recorded: %s", claims.session, refusal)


def _receive_items(channel: Channel, claims: TicketClaims) -> tuple[list[ItemName], object]:
    """The stocked items that a data owner wants to spend: none, or those that its ticket names, one for each image.

    With them, unchecked, their deal tags. The front end names an item in one ticket, so an item that it has seen is not
    spent again, whatever else was lost.
    """
    fields = channel.receive_hello(step=STOCKED_ITEM_STEP)
    named = fields.get("items")
    if named not in ([], list(claims.items)):
        raise PeerViolation(
            f"{channel.peer} named stocked items that its ticket does not; name them when the session is opened"
        )
    return [ItemName(item) for item in claims.items] if named else [], fields.get("tags")


def _find_refusal(dealer: Channel, error: EncryptedInferenceError) -> PeerReported | None:
    """What the dealer said if it turned this session away for want of a place, whatever else ended the session."""
    if not (isinstance(error, PeerReported) and error.peer_uri == dealer.peer.uri):
        try:
            dealer.receive_end(step="material received", wait_seconds=_LAST_LOOK_SECONDS)
        except EncryptedInferenceError as last:
            error = last
    if isinstance(error, PeerReported) and error.peer_uri == dealer.peer.uri and error.reported == Busy.code:
        return error
    return None


def _tell_ready(channel: Channel, traffic: ChannelTraffic) -> None:
    """Public figures for the data owner's account of the session: sizes follow from the plan."""
    channel.send_hello(
        {"received_bytes": traffic.bytes_received, "sent_bytes": traffic.bytes_sent}, step="material ready"
    )


def load_models(imported: ImportedModels) -> dict[tuple[str, str], ImportedModel]:
    """Load every version that is in service; hashes are checked. Raises ModelFileError if one was changed."""
    return {(name, version): imported.load(name, version) for name, version in imported.in_service()}


def build_inference_app(
    settings: ModelOwnerSettings, models: HostedModels, front_end: InferenceServiceClient
) -> Starlette:
    """Build the model owner's server. Raises ConfigurationError for files that are wrong."""
    own = read_own_party(settings.credentials.certificate, role=Role.MODEL_OWNER)
    book = SpendingBook(settings.data_folder / BOOK_FILE)
    audit = AuditLog(settings.audit_folder, keep_days=settings.audit_days)
    stopped = StoppedAccounts(data_folder=settings.data_folder, audit=audit)
    context = tls_context(settings.credentials, server_side=True)
    dealer = _link_dealer(settings)
    handler = InferenceHandler(
        own=own,
        reception=Reception.of(
            own, settings, Places(in_all=settings.sessions_at_once, each=settings.sessions_per_data_owner)
        ),
        models=models,
        stock=_open_stock(settings),
        dealer=dealer,
        front_end=front_end,
        oversight=Oversight(
            own=own,
            book=book,
            allowances={
                key: choose_allowances(settings, model.card, model.plan.network) for key, model in models.items()
            },
            audit=audit,
            stopped=stopped,
            front_end=front_end,
        ),
        accuser=Accuser(stopped=stopped, signer=partial(Signer.of, settings.credentials), trust=context.trust),
        images_per_session=settings.images_per_session,
        audit_share=partial(choose_audit_share, settings),
        threads=settings.threads,
    )
    looks: dict[Unready, Look] = {
        Unready.DISK: partial(require_writable, settings.data_folder),
        Unready.AUDIT_LOG: audit.check,
        Unready.BUDGETS: book.check,
        **trust_looks(context),
        Unready.CRYPTO_PROVIDER: partial(_greet, dealer),
    }
    served = tuple(Party(role=Role.DATA_OWNER, organisation=name) for name in settings.data_owners)
    return party_app(
        Service(
            path=INFERENCE_PATH,
            handler=handler,
            expect=served or Role.DATA_OWNER,
            context=context,
            deadlines=dealer.deadlines,
            readiness=Readiness(looks, tell=_LOG.warning),
        )
    )


def _open_stock(settings: ModelOwnerSettings) -> ModelOwnerStock:
    return ModelOwnerStock(
        settings.data_folder / "stock",
        key=StorageKey.of(settings.at_rest),
        days=settings.stock_days,
        most_items=settings.stock_per_data_owner,
        ledger=ConsumptionLedger(settings.data_folder / "consumed"),
        warn=_LOG.warning,
        clock=time.time,
    )


def _link_dealer(settings: ModelOwnerSettings) -> DealerLink:
    return DealerLink(
        party=Party(role=Role.CRYPTO_PROVIDER, organisation=settings.crypto_provider.organisation),
        url=settings.crypto_provider.url,
        context=tls_context(settings.credentials, server_side=False),
        deadlines=Deadlines.of(settings.waiting),
    )


def _greet(dealer: DealerLink) -> None:
    """Shake hands as a session would, and leave. Raises what a session would meet."""
    seconds = min(PATIENCE_SECONDS, dealer.deadlines.connect_seconds)
    patience = replace(dealer.deadlines, connect_seconds=seconds, step_seconds=seconds)
    look_at_party(dealer.url, context=dealer.context, expect=dealer.party, deadlines=patience)
