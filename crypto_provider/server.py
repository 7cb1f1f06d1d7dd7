"""The dealer's server: checks the ticket of whoever dials, reads the public plan, and sends."""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from threading import Lock
from typing import Final

from starlette.applications import Starlette

from authority.certificates import read_own_party
from authority.vouching import Signer
from bookkeeping.spending import SpendingBook
from contract.api import Unready
from contract.errors import TicketInvalid
from contract.identity import Credentials, Party, Role
from contract.ticket import Engine, TicketClaims
from crypto_provider.dealer import BOOK_FILE, Dealer, load_or_make_key
from crypto_provider.settings import CryptoProviderSettings
from inference_service.client import InferenceServiceClient
from plumbing.readiness import PATIENCE_SECONDS, Readiness, require_writable
from plumbing.settings import FrontEnd, PlanLimits
from secure_computation.admission import Reception
from secure_computation.at_rest import StorageKey
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.identity import Expected
from secure_computation.channel.serving import Service, party_app, trust_looks
from secure_computation.channel.tls import tls_context
from secure_computation.deal_tag import derive_deal_tag
from secure_computation.engines.choosing import dealer_side, offered_engines, require_room
from secure_computation.engines.interface import DealerSide
from secure_computation.places import Places
from secure_computation.plan import Plan, parse_plan
from secure_computation.randomness import Seed
from secure_computation.session_statements import DecoySigning
from secure_computation.wire import Phase

DEALING_PATH: Final = "/v2/dealing"
KEPT_SIDES: Final = 8
"""Plans whose masks of weights stay laid out: 94 MB for a ResNet-18."""
KEPT_WEIGHTS: Final = 1 << 27
"""Weights of these plans, all together, unless one alone has more: 0.5 GiB as they are, at most 2 GiB laid out, since
a 3 x 3 layer may filter with 36 words for 9 weights (`kernels.winograd`)."""
_DEFAULT_LIMITS: Final = PlanLimits()
_LOG = logging.getLogger(__name__)


def remember_plans(
    fetch: Callable[[str], bytes], *, limits: PlanLimits = _DEFAULT_LIMITS, size: int = 8
) -> Callable[[str], Plan]:
    """What gives a plan by its hash, and keeps those used last. A plan is public and never changes.

    `fetch` is asked for those that are missing, and checks the hash; no plan waits for another. What costs more than
    `limits` is refused.
    """
    return lru_cache(size)(lambda plan_hash: parse_plan(fetch(plan_hash), limits))


@dataclass(repr=False, eq=False)
class DealingHandler:
    """Serves one party's channel: the ticket comes in, material goes out."""

    reception: Reception
    """Whom it admits is dealt to."""
    plans: Callable[[str], Plan]
    dealer: Dealer
    key: Seed
    """The dealer's, for masks of weights."""
    credentials: Credentials
    """By which it signs decoys; read for each session, as they change."""
    threads: int = 1
    """Of one operation."""
    _sides: OrderedDict[tuple[str, Engine], tuple[DealerSide, int]] = field(default_factory=OrderedDict, init=False)
    _keeping: Lock = field(default_factory=Lock, init=False)

    def __call__(self, channel: Channel) -> None:
        """Deal one half of one session. Raises for the caller (`serve_channel`) to tell the peer."""
        _, claims = self.reception.admit(channel)
        with self.reception.place(claims, channel.peer.role):
            self._deal(channel, claims)
        _LOG.info("session %s: dealt to the %s, %d bytes", claims.session, channel.peer, channel.traffic().bytes_sent)

    def _deal(self, channel: Channel, claims: TicketClaims) -> None:
        plan = self.plans(claims.plan_hash)
        if claims.engine not in offered_engines(plan):
            raise TicketInvalid(f"the ticket is for the engine '{claims.engine.value}', which its plan does not have")
        require_room(plan, claims.engine, claims.images)
        side = self._side(claims, plan)
        dealt = self.dealer.claim(claims, channel.peer)
        channel.set_phase(Phase.OFFLINE)
        signing = DecoySigning(claims=claims, signer=Signer.of(self.credentials))
        for item, seeds in dealt.items():
            sign = partial(signing.sign, item=item, deal_tag=derive_deal_tag(seeds, item))
            side.deal(channel, to=channel.peer.role, item=item, seeds=seeds, sign=sign)
        channel.receive_end(step="material received")

    def _side(self, claims: TicketClaims, plan: Plan) -> DealerSide:
        """The engine of a plan; kept, because it keeps masks of weights laid out."""
        key = (claims.plan_hash, claims.engine)
        with self._keeping:
            kept = self._sides.get(key)
        # Not under the lock: CrypTen's dry run takes seconds, minutes for a plan that is made for it.
        side = kept[0] if kept else dealer_side(plan, claims.engine, key=self.key, threads=self.threads)
        with self._keeping:
            side, _ = self._sides.setdefault(key, (side, _count_weights(plan, claims.engine)))
            self._sides.move_to_end(key)
            while len(self._sides) > KEPT_SIDES or (
                len(self._sides) > 1 and sum(weights for _, weights in self._sides.values()) > KEPT_WEIGHTS
            ):
                self._sides.popitem(last=False)
        return side


def _count_weights(plan: Plan, engine: Engine) -> int:
    """How many weights' masks a side keeps laid out."""
    shapes = plan.network.weight_shapes().values() if engine is Engine.MASKED else ()
    return sum(math.prod(shape) for shape in shapes)


def build_dealer_app(settings: CryptoProviderSettings, plans: InferenceServiceClient) -> Starlette:
    """Build the dealer's server. Raises ConfigurationError for files that are wrong."""
    own = read_own_party(settings.credentials.certificate, role=Role.CRYPTO_PROVIDER)
    book = SpendingBook(settings.data_folder / BOOK_FILE)
    context = tls_context(settings.credentials, server_side=True)
    handler = DealingHandler(
        reception=Reception.of(
            own, settings, Places(in_all=settings.channels_at_once, each=settings.channels_per_data_owner)
        ),
        plans=remember_plans(plans.plan, limits=settings.plan_limits),
        dealer=Dealer(book, own=own, items_per_day=settings.items_per_day),
        key=load_or_make_key(settings.data_folder, StorageKey.of(settings.at_rest)),
        credentials=settings.credentials,
        threads=settings.threads,
    )
    return party_app(
        Service(
            path=DEALING_PATH,
            handler=handler,
            expect=_list_served(settings),
            context=context,
            deadlines=Deadlines.of(settings.waiting),
            readiness=Readiness(
                {
                    Unready.DISK: partial(require_writable, settings.data_folder),
                    Unready.BUDGETS: book.check,
                    **trust_looks(context),
                    Unready.INFERENCE_SERVICE: partial(_ask_front_end, settings.inference_service),
                },
                tell=_LOG.warning,
            ),
        )
    )


def _ask_front_end(front_end: FrontEnd) -> None:
    """Plans come from it. A client of its own: that of the sessions waits longer."""
    with InferenceServiceClient.of(front_end, timeout_seconds=PATIENCE_SECONDS) as client:
        client.live()


def _list_served(settings: CryptoProviderSettings) -> Expected:
    """Who is dealt to: the pinned organisations, or everybody of a role if none is pinned."""
    pinned = ((Role.DATA_OWNER, settings.data_owners), (Role.MODEL_OWNER, settings.model_owners))
    expected: list[Party | Role] = []
    for role, organisations in pinned:
        expected += [Party(role=role, organisation=name) for name in organisations] or [role]
    return tuple(expected)
