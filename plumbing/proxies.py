"""The HTTP proxy that the environment names for an address, and how errors speak of it."""

import base64
import ipaddress
import os
import urllib.request
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from contract.errors import ConfigurationError, PeerUnreachable

_KINDS: Final = {
    "https": ("https", "all"),
    "http": ("http", "all"),
    "wss": ("wss", "socks", "https"),
    "ws": ("ws", "socks", "https", "http"),
}
"""By the scheme of an address: the variables that are looked at, without `_PROXY`; the first one wins."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Where a proxy is and who says so. Name and password, which an address may carry, are never shown."""

    host: str
    port: int
    setting: str
    """The variable of the environment."""
    address: str = field(repr=False)
    """The URL itself, for the libraries that dial."""

    @property
    def opens_tls(self) -> bool:
        """Whether the proxy itself is spoken to over TLS."""
        return urlsplit(self.address).scheme == "https"

    @property
    def authorization(self) -> str | None:
        """Value of the header Proxy-Authorization, if the address has a name and a password."""
        parts = urlsplit(self.address)
        if parts.username is None:
            return None
        written = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {base64.b64encode(written.encode()).decode()}"

    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port}, which {self.setting} names,"

    def dead(self, target: str, why: str) -> PeerUnreachable:
        """Nothing can be reached through it."""
        host = target.rpartition(":")[0] or target
        return PeerUnreachable(
            f"{self} cannot be reached ({why}), so that nobody knows whether {target} can: correct {self.setting}, or "
            f"put {host} into NO_PROXY if the way there needs no proxy; or ask the IT department about the proxy"
        )

    def refuses(self, target: str, status: int) -> PeerUnreachable:
        """It answers, and does not let this machine through."""
        if status == 407:
            return PeerUnreachable(
                f"{self} wants a name and a password (HTTP 407): put them into {self.setting}, as "
                "http://NAME:PASSWORD@HOST:PORT"
            )
        return PeerUnreachable(
            f"{self} does not let this machine through to {target} (HTTP {status}): ask the IT department to allow "
            f"CONNECT to {target}"
        )


def find_proxy(url: str) -> Proxy | None:
    """The proxy between this machine and an address; None if there is none, as on loopback.

    Raises ConfigurationError if the environment names something that is no HTTP proxy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    named = urllib.request.getproxies()
    kind = next((one for one in _KINDS.get(parts.scheme, ()) if named.get(one)), None)
    return None if kind is None else _parse_proxy(named[kind], kind)


def _parse_proxy(address: str, kind: str) -> Proxy:
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    setting = next((name for name in names if os.environ.get(name)), "the system's setting")
    wrong = ConfigurationError(f"{setting} names no HTTP proxy: write it as http://HOST:PORT")
    address = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(address)
        usual = _PORTS[parts.scheme]
        port = parts.port or usual
    except (ValueError, KeyError):
        raise wrong from None  # the cause would show the address, which may carry a password
    if not parts.hostname:
        raise wrong
    return Proxy(host=parts.hostname, port=port, setting=setting, address=address)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def why_unreachable(error: BaseException | None) -> str:
    """What a failure to connect says, in a few words: that of the operating system below it, if there is one."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return "no answer in time"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror.lower()
        error = error.__cause__ or error.__context__
    return "the connection failed"
