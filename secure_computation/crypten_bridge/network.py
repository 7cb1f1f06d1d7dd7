"""A script's session between machines: each party joins it, and a third machine deals.

    P0, rank 0                      P1, rank 1                      D
    -----------------------------   -----------------------------   ---------------------------------
                                    listens for P0                  listens for both
    dials P1
    draws the session's name   ->   learns it
    dials D, says name and peer     dials D, says name and peer     brings the two together
    the script                      the script                      deals until both end

All three show certificates of one authority: rank 0 a data owner's, rank 1 a model owner's, the dealer a crypto
provider's. D brings together only two that name each other.
"""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import uvicorn
from pydantic import Field, ValidationError
from starlette.applications import Starlette

from authority.certificates import read_own_party
from contract.base import Name, Strict
from contract.errors import Busy, ConfigurationError, DeadlineExceeded, PeerUnreachable, PeerViolation
from contract.identity import Credentials, Party, Role
from plumbing.listening import start_listening, take_port
from plumbing.readiness import Readiness
from secure_computation.channel.asgi import uvicorn_options
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.identity import Expected
from secure_computation.channel.serving import Service, party_app, serve, trust_looks
from secure_computation.channel.tls import TlsContext, tls_context
from secure_computation.channel.websocket import connect_channel
from secure_computation.crypten_bridge.asking import DealerEnds, deal_on_request
from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK
from secure_computation.crypten_bridge.scripts import PARTY_ROLES, PATIENCE, party_session

__all__ = ["Credentials", "Deadlines", "Listen", "Peer", "join_session", "make_dealer_app", "serve_dealer"]

PATH: Final = "/crypten/script"
MOST_SESSIONS: Final = 16
"""That a dealer serves at once."""
MOST_WAITING: Final = 64
"""Parties whose peer has not come to the dealer yet."""
_LISTEN: Final = "'listen'"
_AGAIN_SECONDS: Final = 0.2
_NAME_BYTES: Final = 16
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another party of a session."""

    organisation: str
    """As its certificate names it."""
    url: str | None = None
    """Say `ws://north-lab.example:7202`. None for rank 0 as rank 1 sees it: rank 0 dials."""


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where a party waits for others."""

    host: str
    port: int


class _Introduction(Strict):
    """What a party tells the dealer."""

    session: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * _NAME_BYTES}}}$")]
    peer: Name
    """Organisation of the other party."""


@contextmanager
def join_session(
    credentials: Credentials,
    *,
    peer: Peer,
    dealer: Peer,
    listen: Listen | None = None,
    autograd: bool = True,
    deadlines: Deadlines = PATIENCE,
) -> Iterator[Any]:
    """Be a party of a script's session in this block; gives the `crypten` package.

    Args:
        credentials: this party's files. A data owner's certificate makes it rank 0, a model owner's rank 1.
        peer: the other party; rank 0 gives its URL.
        dealer: the crypto provider, and its URL.
        listen: where rank 1 waits for rank 0.
        autograd: whether CrypTen records operations for `backward`.
        deadlines: how long to wait for the others; `step_seconds` also for them to start.

    Raises ConfigurationError if an argument is missing, PeerUnreachable or DeadlineExceeded if somebody does not
    come, and what the session raises.
    """
    context = tls_context(credentials, server_side=False)
    own = context.trust().own.party
    if own.role not in PARTY_ROLES:
        raise ConfigurationError(
            f"the {own} is no party of a script: use a data owner's or a model owner's certificate"
        )
    rank = PARTY_ROLES.index(own.role)
    other = Party(role=PARTY_ROLES[1 - rank], organisation=peer.organisation)
    if rank == DATA_OWNER_RANK:
        meeting: AbstractContextManager[Channel] = nullcontext(_dial(peer, other, context, deadlines))
    elif listen is not None:
        meeting = _accept(listen, other, credentials, deadlines)
    else:
        raise ConfigurationError("the model owner waits for the data owner: give 'listen', a host and a port")
    with meeting as channel:
        session = _agree_on_name(channel, rank)
        dealers = Party(role=Role.CRYPTO_PROVIDER, organisation=dealer.organisation)
        to_dealer = _dial(dealer, dealers, context, deadlines)
        to_dealer.send_hello(_Introduction(session=session, peer=peer.organisation).model_dump(), step="introduction")
        with party_session(rank=rank, peer=channel, dealer=to_dealer, autograd=autograd) as crypten:
            yield crypten


def _agree_on_name(channel: Channel, rank: int) -> str:
    if rank == DATA_OWNER_RANK:
        name = secrets.token_hex(_NAME_BYTES)
        channel.send_bytes(bytes.fromhex(name), step="name of the session")
        return name
    return channel.receive_bytes(_NAME_BYTES, step="name of the session").hex()


def _dial(peer: Peer, party: Party, context: TlsContext, deadlines: Deadlines) -> Channel:
    """Connect to a party that may not be there yet."""
    if peer.url is None:
        raise ConfigurationError(f"give the URL of the {party}")
    url = peer.url.rstrip("/") + PATH
    limit = time.monotonic() + deadlines.step_seconds
    while True:
        try:
            return connect_channel(url, context=context, expect=party, deadlines=deadlines)
        except PeerUnreachable:
            if time.monotonic() + _AGAIN_SECONDS > limit:
                raise
            time.sleep(_AGAIN_SECONDS)


@contextmanager
def _accept(listen: Listen, other: Party, credentials: Credentials, deadlines: Deadlines) -> Iterator[Channel]:
    """Wait for one party, and serve nobody else; nothing listens any longer after the block."""
    arrived: queue.SimpleQueue[Channel] = queue.SimpleQueue()
    is_taken, is_over = threading.Lock(), threading.Event()

    def hand_over(channel: Channel) -> None:
        if not is_taken.acquire(blocking=False):
            raise Busy("this session has its other party already: begin another one")
        arrived.put(channel)
        is_over.wait()

    with _listening(_make_app(hand_over, other, credentials, deadlines), listen):
        try:
            yield arrived.get(timeout=deadlines.step_seconds)
        except queue.Empty:
            raise DeadlineExceeded(
                peer=str(other), step="start of the script", waited_seconds=deadlines.step_seconds
            ) from None
        finally:
            is_over.set()


@contextmanager
def _listening(app: Starlette, listen: Listen) -> Iterator[None]:
    """Serve `app` in a thread for this block."""
    listener = take_port(listen.host, listen.port, setting=_LISTEN)
    start_listening(listener, setting=_LISTEN)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, **uvicorn_options()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="crypten-script", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _make_app(
    handler: Callable[[Channel], None], expect: Expected, credentials: Credentials, deadlines: Deadlines
) -> Starlette:
    context = tls_context(credentials, server_side=True)
    readiness = Readiness(trust_looks(context), tell=_LOG.warning)
    return party_app(
        Service(path=PATH, handler=handler, expect=expect, context=context, deadlines=deadlines, readiness=readiness)
    )


@dataclass(frozen=True)
class _Waiting:
    """A party at the dealer whose peer has not come yet."""

    channel: Channel
    is_over: threading.Event = field(default_factory=threading.Event)


class Introductions:
    """The dealer's desk: brings together the two parties of each session, and deals for them."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str, str], _Waiting] = {}
        self._places = threading.BoundedSemaphore(MOST_SESSIONS)

    def serve(self, channel: Channel) -> None:
        """One party, until its session ends. Raises Busy if too many wait or compute."""
        asked = channel.receive_hello(step="introduction")
        try:
            introduction = _Introduction.model_validate(asked)
        except ValidationError:
            raise PeerViolation(f"{channel.peer} did not say which session it means: run the same version") from None
        key = _name_session(introduction, channel.peer)
        with self._lock:
            first = self._waiting.get(key)
            if first is not None and first.channel.peer.role is not channel.peer.role:
                del self._waiting[key]
            elif first is not None:
                raise PeerViolation(f"{channel.peer} came twice to one session: begin a new one")
            elif len(self._waiting) == MOST_WAITING:
                raise Busy("too many parties wait for their peers at this dealer: try again in a minute")
            else:
                own = self._waiting[key] = _Waiting(channel)
        if first is None:
            self._wait_for_peer(key, own)
        else:
            self._deal(first, channel)

    def _wait_for_peer(self, key: tuple[str, str, str], own: _Waiting) -> None:
        if own.is_over.wait(self._deadlines.step_seconds):
            return
        with self._lock:
            has_left = self._waiting.pop(key, None) is own
        if not has_left:
            own.is_over.wait()  # the peer came at the last moment, and its thread deals
            return
        raise PeerViolation("the other party of the session has not come: start both sides")

    def _deal(self, first: _Waiting, channel: Channel) -> None:
        data_owner, model_owner = sorted((first.channel, channel), key=lambda one: PARTY_ROLES.index(one.peer.role))
        try:
            if not self._places.acquire(blocking=False):
                busy = Busy("every place of this dealer is taken: try again later")
                first.channel.send_error(busy.code, str(busy), step="end of session")
                raise busy
            try:
                deal_on_request(DealerEnds(data_owner, model_owner))
            finally:
                self._places.release()
        finally:
            first.is_over.set()


def _name_session(introduction: _Introduction, party: Party) -> tuple[str, str, str]:
    """Session, data owner and model owner: equal only for two that name each other."""
    organisations = (party.organisation, introduction.peer)
    data_owner, model_owner = organisations if party.role is Role.DATA_OWNER else organisations[::-1]
    return introduction.session, data_owner, model_owner


def make_dealer_app(credentials: Credentials, *, deadlines: Deadlines = PATIENCE) -> Starlette:
    """The dealer as an ASGI app, for parties of the same authority. Run it with `uvicorn_options`.

    Raises ConfigurationError for a certificate that is no crypto provider's.
    """
    read_own_party(credentials.certificate, role=Role.CRYPTO_PROVIDER)
    return _make_app(Introductions(deadlines).serve, PARTY_ROLES, credentials, deadlines)


def serve_dealer(credentials: Credentials, listen: Listen, *, deadlines: Deadlines = PATIENCE) -> None:
    """Deal for the scripts of all parties of the same authority, until interrupted."""
    listener = take_port(listen.host, listen.port, setting=_LISTEN)
    app = make_dealer_app(credentials, deadlines=deadlines)
    serve(app, listener, name="dealer for CrypTen scripts", host=listen.host, path=PATH)
