"""A session at the front end: opened, its ticket checked, and what became of it told.

A ticket can only restrict who speaks: the parties that it names must be pinned in this data owner's own settings.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NewType
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from authority.certificates import read_own_party
from contract.api import Failure, ModelEntry, PhaseSeconds, SentBytes, SessionEventName, SessionReport, SessionView
from contract.errors import EncryptedInferenceError, ItemsSeen, SessionCancelled, TicketInvalid, TransportError
from contract.identity import Party, Role
from contract.ticket import STOCKED_ENGINES, Engine, Purpose, TicketClaims, load_public_key, verify_ticket
from data_owner.catalog import not_vouched_for
from data_owner.diagnosis import Bytes, Seconds, Warned
from data_owner.settings import DataOwnerSettings
from data_owner.stock import DataOwnerStock
from inference_service.client import InferenceServiceClient
from plumbing.command_line import one_line
from plumbing.settings import Peer
from plumbing.words_for_others import words_for_others
from secure_computation.admission import FIRST_WORD_SECONDS
from secure_computation.channel.channel import Channel
from secure_computation.stock_folder import Binding, Wanted

Ticket = NewType("Ticket", str)


@dataclass(frozen=True, kw_only=True)
class OpenSession:
    """A session that the front end opened and this party has checked."""

    view: SessionView
    ticket: Ticket
    claims: TicketClaims
    model_owner: Party
    model_owner_url: str
    crypto_provider: Party
    crypto_provider_url: str


class SessionDesk:
    """Opens sessions at the front end and tells it how they go on."""

    def __init__(self, settings: DataOwnerSettings, front_end: InferenceServiceClient) -> None:
        """Read this party's certificate and pinned keys. Raises ConfigurationError for files that are wrong."""
        self._settings = settings
        self._front_end = front_end
        self._own = read_own_party(settings.credentials.certificate, role=Role.DATA_OWNER)
        self._public_keys: Sequence[Ed25519PublicKey] = [load_public_key(path) for path in settings.ticket_keys]

    def open(
        self, entry: ModelEntry, engine: Engine, purpose: Purpose, *, images: int = 1, items: Sequence[str] = ()
    ) -> OpenSession:
        """Open a session, which may spend the stocked `items`.

        Raises ItemsSeen if one of these was named before, TicketInvalid if the ticket says anything else than
        what was asked for.
        """
        view = self._front_end.open_session(
            model=entry.card.name, engine=engine, version=entry.version, purpose=purpose, images=images, items=items
        )
        asked = {
            "session": view.id,
            "model": entry.card.name,
            "version": entry.version,
            "plan_hash": entry.plan_hash,
            "engine": engine,
            "purpose": purpose,
            "output_policy": entry.card.output_policy,
            "images": images,
            "items": tuple(items),
            "model_owner": entry.model_owner.organisation,
            "crypto_provider": entry.crypto_provider.organisation,
        }
        try:
            return self._check(view, entry, asked)
        except EncryptedInferenceError as error:
            self._report_failure(view.id, error)
            raise

    def _check(self, view: SessionView, entry: ModelEntry, asked: Mapping[str, object]) -> OpenSession:
        claims = verify_ticket(
            view.ticket or "",
            public_keys=self._public_keys,
            now=datetime.now(tz=UTC),
            party=self._own,
            leeway=self._settings.credentials.clock_skew,
            longest=self._settings.ticket_seconds,
        )
        if claims.card_hash != entry.card.card_hash():
            raise not_vouched_for(
                entry,
                f"the ticket is for another card of {entry.card.name} {entry.version} than the one that its owner, "
                f"{entry.model_owner.organisation}, signed",
            )
        if any(getattr(claims, name) != value for name, value in asked.items()):
            raise TicketInvalid(
                "the ticket is for another session than the one asked for; tell the front end's operator"
            )
        model_owner = _find_pinned(self._settings.model_owners, claims.model_owner, what="model owner")
        crypto_provider = _find_pinned(self._settings.crypto_providers, claims.crypto_provider, what="crypto provider")
        return OpenSession(
            view=view,
            ticket=Ticket(view.ticket or ""),
            claims=claims,
            model_owner=Party(role=Role.MODEL_OWNER, organisation=claims.model_owner),
            model_owner_url=model_owner.url or entry.model_owner.address,
            crypto_provider=Party(role=Role.CRYPTO_PROVIDER, organisation=claims.crypto_provider),
            crypto_provider_url=crypto_provider.url or entry.crypto_provider.address,
        )

    def find_model_owner(self, entry: ModelEntry) -> tuple[str, Party]:
        """Where the owner of a model listens, and who that is. Raises TicketInvalid if it is not pinned."""
        organisation = entry.model_owner.organisation
        pinned = _find_pinned(self._settings.model_owners, organisation, what="model owner", by="catalog")
        return pinned.url or entry.model_owner.address, Party(role=Role.MODEL_OWNER, organisation=organisation)

    def describe(self, entry: ModelEntry) -> Wanted:
        """What a session for this model will be: stocked items must be for one like it."""
        return Wanted(
            model=entry.card.name,
            version=entry.version,
            plan_hash=entry.plan_hash,
            data_owner=self._own.organisation,
            model_owner=entry.model_owner.organisation,
            crypto_provider=entry.crypto_provider.organisation,
            output_policy=entry.card.output_policy,
        )

    @contextmanager
    def ending(self, session: OpenSession) -> Iterator[ExitStack]:
        """Whatever ends the session early is reported, and its channels are closed."""
        with ExitStack() as channels:
            # The front end hears of the end before the peers do: they would report that this party has gone.
            try:
                yield channels
            except (KeyboardInterrupt, SessionCancelled):
                self._cancel(session)
                raise
            except EncryptedInferenceError as error:
                self._report_failure(session.view.id, error)
                raise

    def report(self, session: OpenSession, event: SessionEventName) -> None:
        """Tell that a phase begins."""
        self._front_end.report(session.view.id, event)

    def report_completed(self, session: OpenSession, seconds: Seconds, sent: Bytes) -> tuple[Warned, ...]:
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
            # What it answered are its own words, and this stands beside a result.
            why = one_line(error) if isinstance(error, TransportError) else "it refused"
            text = f"the front end did not record this result ({why}): keep your own note of it"
            return (Warned(code="not-recorded", text=text),)
        return ()

    def _report_failure(self, session: UUID, error: EncryptedInferenceError) -> None:
        report = SessionReport(failure=Failure(code=error.code, message=words_for_others(error, own=str(self._own))))
        try:
            self._front_end.report(session, SessionEventName.FAIL, report)
        except EncryptedInferenceError:
            # The model owner may have reported first, or the front end may be the one that is down. The error that
            # ended the session is what the user must see, and an unreported session expires.
            return

    def _cancel(self, session: OpenSession) -> None:
        try:
            self._front_end.cancel(session.view.id)
        except EncryptedInferenceError:
            return  # it expires


def _find_pinned(peers: Sequence[Peer], organisation: str, *, what: str, by: str = "ticket") -> Peer:
    for peer in peers:
        if peer.organisation == organisation:
            return peer
    raise TicketInvalid(
        f"the {by} names {organisation} as {what}, which this data owner does not pin; nothing was sent. "
        "Add it to the settings only if you trust it"
    )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A session, and what was got ready for it."""

    session: OpenSession
    items: tuple[Binding, ...]
    """Which its ticket names: one for each image, or none."""
    model_owner: Channel | None
    """A channel on which nothing was said yet; None if no item is named."""
    dialled: float
    """When, by the monotonic clock."""

    def get_fresh_channel(self) -> Channel | None:
        """The channel, unless opening the session took so long that the model owner may have ended its wait."""
        waited = time.monotonic() - self.dialled
        return self.model_owner if waited < FIRST_WORD_SECONDS / 2 else None


def open_with_stock(
    desk: SessionDesk,
    stock: DataOwnerStock,
    entry: ModelEntry,
    engine: Engine,
    images: int,
    *,
    dial: Callable[[str, Party], Channel],
    kept_from_others: ExitStack,
) -> Opened:
    """Open a session that spends stocked items if there is one for each image.

    `dial` reaches the model owner at an address. `kept_from_others`: until it is closed, no other session of this data
    owner names these items. Items that the front end has seen before are dropped, with a warning of the stock, and
    others are named. Raises as `dial` and `SessionDesk.open`.
    """
    model_owner, dialled = None, time.monotonic()
    while True:
        items: tuple[Binding, ...] = ()
        if engine in STOCKED_ENGINES:
            items = kept_from_others.enter_context(stock.reserve(desk.describe(entry), images))
        if items and model_owner is None:
            model_owner, dialled = dial(*desk.find_model_owner(entry)), time.monotonic()
        try:
            names = [binding.item for binding in items]
            session = desk.open(entry, engine, Purpose.DIAGNOSE, images=images, items=names)
            return Opened(session=session, items=items, model_owner=model_owner, dialled=dialled)
        except ItemsSeen:
            if not items:
                raise
            stock.drop(items, why="the front end has seen it, or one that was named with it, before")
            kept_from_others.close()
