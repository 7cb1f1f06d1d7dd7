"""Whether the parties that a session needs can be reached: asked now and then, while somebody looks and nothing runs.

What is asked is each server's public health page, without a key, a certificate or a word about any image. An answer of
any kind will do: whether the server is the one that it should be shows in a session.
"""

import ssl
import threading
import time
from typing import Final
from urllib.parse import urlsplit

import httpx

from contract.api import ModelEntry
from contract.errors import ConfigurationError
from contract.roles import OtherEnd, Role
from data_owner.settings import DataOwnerSettings
from data_owner.ui.words import name_party
from data_owner.ui.workplace import Connection, Workplace
from plumbing.proxies import find_proxy
from plumbing.settings import Peer

EVERY_SECONDS: Final = 30.0
AGAIN_SECONDS: Final = 10.0
"""While one cannot be reached."""
LOOKED_SECONDS: Final = 60.0
"""For so long after a browser last asked, somebody looks."""
_PATIENCE_SECONDS: Final = 5.0
_GATEWAY_FAILED: Final = (502, 503, 504)
"""What a server in between answers in the place of one that is away."""


class PeerWatch:
    """A thread that asks."""

    def __init__(self, settings: DataOwnerSettings, workplace: Workplace) -> None:
        """Do nothing yet."""
        self._settings = settings
        self._workplace = workplace
        self._closing = False
        self._looked = -LOOKED_SECONDS
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_now(self) -> None:
        """Do not wait for the next time."""
        self._asked.set()

    def close(self) -> None:
        """End. What is being asked is not waited for."""
        self._closing = True
        self._asked.set()

    def _work(self) -> None:
        place = self._workplace
        while not self._closing:
            self._asked.wait(AGAIN_SECONDS if place.trouble is not None else EVERY_SECONDS)
            self._asked.clear()
            if self.is_due() and not self._closing:
                self.look()

    def note_look(self) -> None:
        """Somebody looks now; after a while in which nobody did, the parties are asked at once."""
        before, self._looked = self._looked, time.monotonic()
        if self._looked - before >= LOOKED_SECONDS:
            self.ask_now()

    def is_due(self) -> bool:
        """Whether somebody looks, and no session runs that would notice by itself."""
        place = self._workplace
        looked = time.monotonic() - self._looked < LOOKED_SECONDS
        return looked and place.activity is None and place.connection is Connection.READY

    def look(self) -> None:
        """Ask each party once, and tell the page of the first that cannot be reached."""
        place = self._workplace
        model = place.model
        if model is None:
            return
        lost = next((who for who, url in self._list_needed(model) if not is_reachable(url)), None)
        if place.activity is None:  # else its session knows better
            place.note_reached() if lost is None else place.note_lost(lost)

    def _list_needed(self, model: ModelEntry) -> list[tuple[str, str]]:
        """Whom a session needs now, and where it is: without the crypto provider while material is in stock."""
        owner, provider = model.model_owner, model.crypto_provider
        needed = [
            (_name(Role.INFERENCE_SERVICE), self._settings.inference_service.url),
            (
                _name(Role.MODEL_OWNER, owner.organisation),
                _find_pinned(self._settings.model_owners, owner.organisation) or owner.address,
            ),
        ]
        if self._workplace.stock.items == 0:
            pinned = _find_pinned(self._settings.crypto_providers, provider.organisation)
            needed.append((_name(Role.CRYPTO_PROVIDER, provider.organisation), pinned or provider.address))
        return needed


def is_reachable(url: str) -> bool:
    """Whether anything answers at a party's address, within some seconds.

    The address may be the model owner's word: one that is none does not answer. Where the environment names a proxy
    that is none, nobody is asked; a session says what is wrong.
    """
    try:
        parts = urlsplit(url)
        proxy = find_proxy(url)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        through = None if proxy is None else proxy.address
        with (
            httpx.Client(timeout=_PATIENCE_SECONDS, proxy=through, trust_env=False) as client,
            client.stream("GET", f"{scheme}://{parts.netloc}/v2/health/live") as response,
        ):
            return response.status_code not in _GATEWAY_FAILED
    except (httpx.TimeoutException, httpx.InvalidURL, ValueError):
        return False
    except httpx.ConnectError as error:
        return _is_tls_error(error)
    except (httpx.HTTPError, ConfigurationError):
        return True  # something is there, which speaks otherwise


def _is_tls_error(error: BaseException | None) -> bool:
    """Whether something answered whose certificate this machine does not know: a session looks at it properly."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _name(role: Role, organisation: str = "") -> str:
    return name_party(OtherEnd(role=role, organisation=organisation))


def _find_pinned(peers: tuple[Peer, ...], organisation: str) -> str | None:
    return next((peer.url for peer in peers if peer.organisation == organisation), None)
