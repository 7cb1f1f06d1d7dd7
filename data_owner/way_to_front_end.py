"""What `data-owner doctor` looks at on the way to the front end: proxy, address, certificate, clock."""

import http.client
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from authority.certificates import MALFORMED, show_time
from authority.tls_refusal import Cause, find_cause, remedy
from data_owner.checks import Bad, Named, Verdict
from data_owner.settings import DataOwnerSettings
from plumbing.proxies import find_proxy, why_unreachable
from plumbing.settings import FrontEnd

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_REFUSAL = re.compile(r"^Tunnel connection failed: (\d{3}) ")
"""What http.client says when a proxy refuses."""


def look_at_proxy(url: str, seconds: float) -> str:
    """Ask the proxy, if there is one, for a tunnel to the front end, and close it."""
    parts = urlsplit(url)
    proxy = find_proxy(url)
    if proxy is None:
        return f"none in the environment for {parts.hostname}"
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    kind = http.client.HTTPSConnection if proxy.opens_tls else http.client.HTTPConnection
    connection = kind(proxy.host, proxy.port, timeout=seconds)
    connection.set_tunnel(host, port, {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {})
    try:
        connection.connect()
    except (OSError, http.client.HTTPException) as error:
        refusal = _REFUSAL.search(str(error))
        target = f"{host}:{port}"
        if refusal is not None:
            raise proxy.refuses(target, int(refusal.group(1))) from None
        raise proxy.dead(target, why_unreachable(error)) from None
    finally:
        connection.close()
    return f"{proxy.host}:{proxy.port} ({proxy.setting}) lets this machine through to {host} port {port}"


def list_front_end_checks(settings: DataOwnerSettings) -> Sequence[Named]:
    """In the order in which one stands on the other."""
    url, seconds = settings.inference_service.url, settings.waiting.connect
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    proxied = find_proxy(url) is not None
    checks = [] if proxied else [Named("front end: address", lambda: _check_address(host, port, seconds))]
    if parts.scheme == "https" and not proxied:
        checks.append(Named("front end: certificate", lambda: _check_certificate(settings, host, port, seconds)))
    return (*checks, Named("clock", lambda: _check_clock(settings, url, seconds)))


def _check_address(host: str, port: int, seconds: float) -> str:
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        raise Bad(f"the name {host} is not known here", f"IT department: make {host} known to DNS") from None
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or "refused"
        advice = f"IT department: allow TCP from here to {host} port {port}; or the front end is down"
        raise Bad(f"{host} port {port} cannot be reached ({why})", advice) from None
    return f"{host} ({', '.join(sorted(map(str, addresses)))}) port {port} answers"


def _make_context(front_end: FrontEnd) -> ssl.SSLContext:
    """As the client of the front end judges it. A list that is not there is the client's to tell."""
    authority, revocations = front_end.authority, front_end.revocations
    try:
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
    except OSError as error:  # ssl.SSLError is one
        why = (
            error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "it is no certificate in PEM"
        )
        raise Bad(
            f"{authority} cannot be read ({why})", "correct inference_service.authority in the settings"
        ) from None
    if revocations is not None and revocations.is_file():
        with suppress(OSError):
            context.load_verify_locations(cafile=str(revocations))
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _check_certificate(settings: DataOwnerSettings, host: str, port: int, seconds: float) -> str:
    """Whether it is accepted; whoever opens TLS on the way shows one of its own."""
    context = _make_context(settings.inference_service)
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return "is the federation's" if settings.inference_service.authority else "is known to this machine"
    except ssl.SSLCertVerificationError as error:
        by_system = settings.inference_service.authority is None
        raise _explain_refusal(find_cause(error) or Cause.OTHER, host, port, seconds, by_system=by_system) from None
    except OSError as error:
        raise Bad(f"TLS fails ({why_unreachable(error)})", f"ask who runs {host}, and what is on the way") from None


def _explain_refusal(cause: Cause, host: str, port: int, seconds: float, *, by_system: bool) -> Bad:
    shown = _fetch_certificate(host, port, seconds)
    what = remedy(cause, by_system=by_system)
    found, advice = what.meaning, what.advice
    if cause is Cause.UNKNOWN_AUTHORITY:
        by = "somebody" if shown is None else shown.issuer.rfc4514_string()
        whom = "this machine does not know: the settings name no `authority`" if by_system else "is not the federation"
        advice = (
            f"IT department: do not inspect TLS to {host} port {port}. Or the settings' `authority` is not the one of "
            "this federation"
        )
        return Bad(f"made by {_make_printable(by)}, which {whom}", advice)
    if shown is not None and cause in {Cause.EXPIRED, Cause.NOT_YET_VALID}:
        found += f"; it is valid from {show_time(shown.not_valid_before_utc)} to {show_time(shown.not_valid_after_utc)}"
    if shown is not None and cause is Cause.WRONG_NAME:
        found = f"is for {_make_printable(_list_names(shown))}, not for {host}"
    return Bad(found, advice)


def _fetch_certificate(host: str, port: int, seconds: float) -> x509.Certificate | None:
    """What is shown there, believed by nobody."""
    try:
        return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, port), timeout=seconds).encode())
    except (OSError, ValueError):
        return None


def _list_names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    except MALFORMED:
        hosts = []
    return ", ".join(hosts) or "no host"


def _make_printable(words: str) -> str:
    return "".join(character for character in words if character.isprintable())[:100]


def _check_clock(settings: DataOwnerSettings, url: str, seconds: float) -> str:
    skew, whose = settings.credentials.clock_skew_seconds, "the front end's"
    try:
        theirs = _ask_time(url, _make_context(settings.inference_service), seconds)
    except httpx.HTTPError as error:
        cause = find_cause(error)
        if cause is None:
            raise _make_unread() from None
        # Its certificate is refused, perhaps because of this very clock. Nothing secret is sent, and what it says of
        # the time is shown as what it is.
        whose = f"that of what answers there, whose certificate is not accepted ({cause})"
        theirs = _ask_unverified_time(url, seconds)
    apart = (datetime.now(UTC) - theirs).total_seconds()
    if abs(apart) > skew:
        direction = "ahead of" if apart > 0 else "behind"
        raise Bad(f"{abs(apart):.0f} s {direction} {whose}", "IT department: keep this machine's clock by NTP")
    return f"within {max(abs(apart), 1):.0f} s of {whose}"


def _ask_unverified_time(url: str, seconds: float) -> datetime:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return _ask_time(url, context, seconds)
    except httpx.HTTPError:
        raise _make_unread() from None


def _ask_time(url: str, context: ssl.SSLContext, seconds: float) -> datetime:
    proxy = find_proxy(url)
    through = None if proxy is None else proxy.address
    answer = httpx.get(f"{url}/v2/health/live", verify=context, timeout=seconds, proxy=through, trust_env=False)
    try:
        return parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        raise _make_unread() from None


def _make_unread() -> Bad:
    return Bad("the front end's clock could not be read", "see the lines above", Verdict.DOUBTFUL)
