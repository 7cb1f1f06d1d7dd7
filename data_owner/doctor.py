"""`data-owner doctor`: whether this machine can take part, and what to tell the IT department where it cannot.

Sends no image and opens no session. It asks the front end for its catalog, and shakes hands with the parties.
"""

import http.client
import os
import re
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from contract.api import ModelEntry
from contract.certificates import read_certificate
from contract.command_line import one_line
from contract.errors import EncryptedInferenceError
from contract.identity import Credentials, Party, Role
from contract.model_card import Strict
from contract.proxies import proxy_for, why_unreachable
from contract.revocation import EXTEND_BEFORE, RevocationList
from contract.settings import AtRest
from contract.ticket import LEEWAY, load_public_key
from data_owner.catalog import require_vouched
from data_owner.settings import DataOwnerSettings
from inference_service.client import InferenceServiceClient
from secure_computation.at_rest import StorageKey
from secure_computation.channel.channel import Deadlines
from secure_computation.channel.tls import tls_context
from secure_computation.channel.websocket import connect_channel

NEEDED_BYTES = 2 << 30
"""Free on disk: masked weights of a model, a few stocked items, and room."""
RENEW_BEFORE = timedelta(days=30)
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_INSTALL_LIST = (
    "`federation install --revocations revoked.crl --role data-owner --organisation NAME --folder credentials`"
)
_REFUSAL = re.compile(r"^Tunnel connection failed: (\d{3}) ")
"""What http.client says where a proxy refuses."""


class Verdict(StrEnum):
    """How one check ended."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    """Works today, or could not be told."""
    BAD = "bad"


class Check(Strict):
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    advice: str | None = None
    """What to do, or to tell the IT department."""


class _Bad(Exception):
    def __init__(self, found: str, advice: str, verdict: Verdict = Verdict.BAD) -> None:
        super().__init__(found)
        self.found, self.advice, self.verdict = found, advice, verdict


@dataclass(frozen=True)
class _Named:
    name: str
    look: Callable[[], str]
    """What was found; raises `_Bad` or an error of the tree."""


def examine(settings: DataOwnerSettings) -> Iterator[Check]:
    """Look at everything in turn. Every check has an end: the deadlines of the settings hold."""
    front_end = urlsplit(settings.inference_service.url)
    yield from map(_examined, _own_checks(settings))
    way = _examined(_Named("proxy", lambda: _proxy(settings.inference_service.url, settings.waiting.connect)))
    yield way
    if way.verdict is Verdict.BAD:
        advice = "once the proxy lets this machine through, run data-owner doctor again"
        yield Check(name="front end and parties", verdict=Verdict.DOUBTFUL, found="not looked at", advice=advice)
        return
    reached = [_examined(check) for check in _front_end_checks(settings)]
    yield from reached
    if any(check.verdict is Verdict.BAD for check in reached):
        advice = f"once {front_end.hostname} can be reached, run data-owner doctor again"
        yield Check(name="parties", verdict=Verdict.DOUBTFUL, found="not looked at", advice=advice)
        return
    entries: list[ModelEntry] = []
    yield _examined(_Named("account", lambda: _catalog(settings, entries)))
    if entries:
        models = _examined(_Named("models", lambda: _models(settings, entries)))
        yield models
        if models.verdict is Verdict.BAD:
            entries.clear()  # addresses that no owner signed are not dialled
    for party, url in _addresses(settings, entries).items():
        yield _examined(_Named(str(party), partial(_shake_hands, settings, url, party)))


def _examined(check: _Named) -> Check:
    try:
        return Check(name=check.name, verdict=Verdict.GOOD, found=check.look())
    except _Bad as bad:
        return Check(name=check.name, verdict=bad.verdict, found=bad.found, advice=bad.advice)
    except EncryptedInferenceError as error:
        found, _, advice = one_line(error).partition(": ")
        if Path(found).is_absolute():  # of a file: its path: what is wrong; what to do
            wrong, _, advice = advice.partition("; ")
            found = f"{found}: {wrong}"
        return Check(name=check.name, verdict=Verdict.BAD, found=found, advice=advice or None)


def described(check: Check) -> str:
    """The same for people: a line, and one more where something is to be done."""
    line = f"{check.verdict.value:9}{check.name}: {check.found}"
    return line if check.advice is None else f"{line}\n{'':9}-> {check.advice}"


# This machine


def _own_checks(settings: DataOwnerSettings) -> Sequence[_Named]:
    credentials = settings.credentials
    return (
        _Named("private key", lambda: _private(credentials.key)),
        _Named("certificate", lambda: _dates(credentials.certificate, "federation renew asks for a new one")),
        _Named("authority", lambda: _dates(credentials.authority, "ask the federation for its new one")),
        _Named("revocations", lambda: _revocations(credentials)),
        *(_Named("front end's key", partial(_ticket_key, path)) for path in settings.ticket_keys),
        _Named("storage key", lambda: _storage_key(settings.at_rest)),
        _Named("disk", lambda: _disk(settings.data_folder)),
    )


def _private(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _Bad(f"{path} cannot be read ({error.strerror})", "correct credentials.key in the settings") from None
    if stat.S_IMODE(mode) & 0o077:
        raise _Bad(f"{path} can be read by other accounts of this machine", f"chmod 600 {path}")
    return f"{path}, for this account alone"


def _dates(path: Path, advice: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise _Bad(f"{path} cannot be read ({error.strerror})", "correct the path in the settings") from None
    except ValueError:
        raise _Bad(f"{path} is not a certificate in PEM", "correct the path in the settings") from None
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise _Bad(f"{path} is valid from {begin:%Y-%m-%d %H:%M} UTC only", "set this machine's clock")
    if now > end:
        raise _Bad(f"{path} was valid until {end:%Y-%m-%d}", advice)
    if end - now < RENEW_BEFORE:
        raise _Bad(f"{path} is valid until {end:%Y-%m-%d}, {(end - now).days} more days", advice, Verdict.DOUBTFUL)
    return f"{path}, valid until {end:%Y-%m-%d}"


def _revocations(credentials: Credentials) -> str:
    if credentials.revocations is None:
        advice = f"set credentials.revocations in the settings; {_INSTALL_LIST} puts the authority's list in place"
        raise _Bad("no list of revoked certificates is configured", advice, Verdict.DOUBTFUL)
    found = RevocationList.read(credentials.revocations, read_certificate(credentials.authority))
    now, advice = datetime.now(UTC), f"ask the federation for its newest list; {_INSTALL_LIST} puts it in place"
    if found.ends < now:
        raise _Bad(f"{found.path} was good until {found.ends:%Y-%m-%d}", advice)
    if found.ends - now < EXTEND_BEFORE:
        raise _Bad(f"{found.path} is good until {found.ends:%Y-%m-%d}", advice, Verdict.DOUBTFUL)
    return f"{found.path}, good until {found.ends:%Y-%m-%d}"


def _ticket_key(path: Path) -> str:
    load_public_key(path)
    return f"{path}, by which permissions for sessions are checked"


def _storage_key(at_rest: AtRest) -> str:
    StorageKey.of(at_rest)
    return "in the environment" if at_rest.key_file is None else f"{at_rest.key_file}, for this account alone"


def _disk(folder: Path) -> str:
    place = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))
    if not os.access(place, os.W_OK):
        raise _Bad(f"{place} cannot be written", "give this account the right to, or choose another data_folder")
    free = shutil.disk_usage(place).free
    if free < NEEDED_BYTES:
        advice = f"free {NEEDED_BYTES >> 30} GiB, or choose another data_folder"
        raise _Bad(f"{free / 1e9:.1f} GB free under {place}", advice, Verdict.DOUBTFUL)
    return f"{free / 1e9:.0f} GB free under {place}"


def _proxy(url: str, seconds: float) -> str:
    """Ask the proxy, where there is one, for a tunnel to the front end, and close it."""
    parts = urlsplit(url)
    proxy = proxy_for(url)
    if proxy is None:
        return f"none in the environment for {parts.hostname}"
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
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


# The way to the front end


def _front_end_checks(settings: DataOwnerSettings) -> Sequence[_Named]:
    url, seconds = settings.inference_service.url, settings.waiting.connect
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    proxied = proxy_for(url) is not None
    checks = [] if proxied else [_Named("front end: address", lambda: _connects(host, port, seconds))]
    if parts.scheme == "https" and not proxied:
        checks.append(_Named("front end: certificate", lambda: _not_inspected(settings, host, port, seconds)))
    return (*checks, _Named("clock", lambda: _clock(settings, url, seconds)))


def _connects(host: str, port: int, seconds: float) -> str:
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        raise _Bad(f"the name {host} is not known here", f"IT department: make {host} known to DNS") from None
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or "refused"
        advice = f"IT department: allow TCP from here to {host} port {port}; or the front end is down"
        raise _Bad(f"{host} port {port} cannot be reached ({why})", advice) from None
    return f"{host} ({', '.join(sorted(map(str, addresses)))}) port {port} answers"


def _trusting(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if authority is None else str(authority))
    except OSError as error:  # ssl.SSLError is one
        why = (
            error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "it is no certificate in PEM"
        )
        raise _Bad(
            f"{authority} cannot be read ({why})", "correct inference_service.authority in the settings"
        ) from None


def _not_inspected(settings: DataOwnerSettings, host: str, port: int, seconds: float) -> str:
    """Whoever opens TLS on the way shows a certificate of its own."""
    authority = settings.inference_service.authority
    context = _trusting(authority)
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return "is the federation's" if authority else "is known to this machine"
    except ssl.SSLCertVerificationError as error:
        shown = _issuer(host, port, seconds)
        advice = (
            f"IT department: do not inspect TLS to {host} port {port}. Or the settings' `authority` is not the one of "
            "this federation"
        )
        raise _Bad(f"made by {shown}, which is not the federation ({error.verify_message})", advice) from None
    except OSError as error:
        raise _Bad(f"TLS fails ({why_unreachable(error)})", f"ask who runs {host}, and what is on the way") from None


def _issuer(host: str, port: int, seconds: float) -> str:
    try:
        pem = ssl.get_server_certificate((host, port), timeout=seconds)
        issuer = x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()
    except (OSError, ValueError):
        return "somebody"
    return "".join(character for character in issuer if character.isprintable())[:100]


def _clock(settings: DataOwnerSettings, url: str, seconds: float) -> str:
    context = _trusting(settings.inference_service.authority)
    try:
        proxy = proxy_for(url)
        through = None if proxy is None else proxy.address
        answer = httpx.get(f"{url}/v2/health/live", verify=context, timeout=seconds, proxy=through, trust_env=False)
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (httpx.HTTPError, KeyError, ValueError):
        raise _Bad("the front end's clock could not be read", "see the lines above", Verdict.DOUBTFUL) from None
    apart = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart > LEEWAY.total_seconds():
        raise _Bad(f"{apart:.0f} s from the front end's", "IT department: keep this machine's clock by NTP")
    return f"within {max(apart, 1):.0f} s of the front end's"


# The parties


def _catalog(settings: DataOwnerSettings, entries: list[ModelEntry]) -> str:
    seconds = settings.waiting.connect
    with InferenceServiceClient.of(settings.inference_service, timeout_seconds=seconds) as client:
        entries += client.models()
    pinned = {peer.organisation for peer in settings.model_owners}
    if not pinned & {entry.model_owner.organisation for entry in entries}:
        whose = ", ".join(sorted({entry.model_owner.organisation for entry in entries})) or "nobody"
        raise _Bad(
            f"accepted; no model in the catalog is of {' or '.join(sorted(pinned))}, but of {whose}",
            "correct model_owners in the settings, or ask whoever runs the front end when there will be one",
            Verdict.DOUBTFUL,
        )
    return f"accepted; {len(entries)} model(s) in the catalog"


def _models(settings: DataOwnerSettings, entries: Sequence[ModelEntry]) -> str:
    """Whether each model of a pinned owner is what that owner signed."""
    trust = tls_context(settings.credentials, server_side=False).trust()
    pinned = {peer.organisation for peer in settings.model_owners}
    signed = [entry for entry in entries if entry.model_owner.organisation in pinned]
    for entry in signed:
        require_vouched(entry, trust)
    return f"{len(signed)} as signed by {' and '.join(sorted(pinned))}"


def _addresses(settings: DataOwnerSettings, entries: Sequence[ModelEntry]) -> dict[Party, str]:
    """Where each pinned party listens: by the settings, else by the catalog. One without an address is left out."""
    listed = {
        Party(role=Role.MODEL_OWNER, organisation=one.model_owner.organisation): one.model_owner for one in entries
    }
    listed |= {
        Party(role=Role.CRYPTO_PROVIDER, organisation=one.crypto_provider.organisation): one.crypto_provider
        for one in entries
    }
    found: dict[Party, str] = {}
    for role, pinned in ((Role.MODEL_OWNER, settings.model_owners), (Role.CRYPTO_PROVIDER, settings.crypto_providers)):
        for peer in pinned:
            party = Party(role=role, organisation=peer.organisation)
            if peer.url is not None:
                found[party] = peer.url
            elif party in listed:
                found[party] = listed[party].address
    return found


def _shake_hands(settings: DataOwnerSettings, url: str, party: Party) -> str:
    """Dial as a session would, and leave before a ticket is due."""
    waiting = settings.waiting
    channel = connect_channel(
        url,
        context=tls_context(settings.credentials, server_side=False),
        expect=party,
        deadlines=Deadlines(connect_seconds=waiting.connect, step_seconds=waiting.step),
    )
    channel.close()
    parts = urlsplit(url)
    return f"{parts.hostname} port {parts.port or _DEFAULT_PORTS[parts.scheme]}: WebSocket and TLS reach it"
