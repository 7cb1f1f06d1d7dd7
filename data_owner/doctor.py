"""`data-owner doctor`: whether this machine can take part, and what to tell the IT department if it cannot.

Sends no image and opens no session. Asks the front end for its catalog, and each party whether it accepts this one.
"""

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from authority.certificates import MALFORMED, NEW_KEY, PartyCertificate, read_certificate, read_own_party, show_time
from authority.enrolment import load_key
from authority.revocation import EXTEND_BEFORE, RevocationList, is_revoked
from contract.api import ModelEntry
from contract.errors import CallerError, EncryptedInferenceError, PeerReported, SettingsWrong
from contract.identity import Credentials, Party, Role
from contract.ticket import load_public_key
from data_owner.catalog import require_vouched
from data_owner.checks import Bad, Check, Named, Verdict
from data_owner.references import find_references
from data_owner.settings import DataOwnerSettings
from data_owner.way_to_front_end import DEFAULT_PORTS, list_front_end_checks, look_at_proxy
from inference_service.client import InferenceServiceClient
from plumbing.command_line import one_line
from plumbing.settings import AtRest, load_settings
from secure_computation.at_rest import StorageKey
from secure_computation.channel.channel import Deadlines
from secure_computation.channel.tls import tls_context
from secure_computation.channel.websocket import look_at_party

NEEDED_BYTES = 2 << 30
"""Free on disk: masked weights of a model, a few stocked items, and room."""
RENEW_BEFORE = timedelta(days=30)
_INSTALL_LIST = (
    "`federation install --revocations revoked.crl --role data-owner --organisation NAME --folder credentials`"
)


def examine_all(config: Path | None) -> Iterator[Check]:
    """Look at the settings; if nothing is wrong with them, at everything else, as they say.

    Raises ConfigurationError if they cannot be read at all.
    """
    try:
        settings = load_settings(DataOwnerSettings, config)
    except SettingsWrong as wrong:
        yield from (Check(name="settings", verdict=Verdict.BAD, found=fault) for fault in wrong.faults)
        return
    yield from examine(settings)


def examine(settings: DataOwnerSettings) -> Iterator[Check]:
    """Look at everything in turn. Every check has an end: the deadlines of the settings hold."""
    front_end = urlsplit(settings.inference_service.url)
    yield from map(_run, _list_own_checks(settings))
    way = _run(Named("proxy", lambda: look_at_proxy(settings.inference_service.url, settings.waiting.connect)))
    yield way
    if way.verdict is Verdict.BAD:
        advice = "once the proxy lets this machine through, run data-owner doctor again"
        yield Check(name="front end and parties", verdict=Verdict.DOUBTFUL, found="not looked at", advice=advice)
        return
    reached = [_run(check) for check in list_front_end_checks(settings)]
    yield from reached
    if any(check.verdict is Verdict.BAD for check in reached):
        advice = f"once {front_end.hostname} can be reached, run data-owner doctor again"
        yield Check(name="parties", verdict=Verdict.DOUBTFUL, found="not looked at", advice=advice)
        return
    entries: list[ModelEntry] = []
    yield _run(Named("account", lambda: _check_catalog(settings, entries)))
    if entries:
        models = _run(Named("models", lambda: _check_models(settings, entries)))
        yield models
        if models.verdict is Verdict.BAD:
            entries.clear()  # addresses that no pinned owner signed are not dialled
        elif (folder := settings.references) is not None:
            yield _run(Named("reference pictures", partial(_check_references, folder, entries)))
    for party, url in _list_addresses(settings, entries).items():
        yield _run(Named(str(party), partial(_check_party, settings, url, party)))


def _run(check: Named) -> Check:
    try:
        return Check(name=check.name, verdict=Verdict.GOOD, found=check.look())
    except Bad as bad:
        return Check(name=check.name, verdict=bad.verdict, found=bad.found, advice=bad.advice)
    except EncryptedInferenceError as error:  # its line says what to do as well
        return Check(name=check.name, verdict=Verdict.BAD, found=one_line(error))


def format_check(check: Check) -> str:
    """The same for people: a line, and one more if something is to be done."""
    line = f"{check.verdict.value:9}{check.name}: {check.found}"
    return line if check.advice is None else f"{line}\n{'':9}-> {check.advice}"


# This machine


def _list_own_checks(settings: DataOwnerSettings) -> Sequence[Named]:
    credentials = settings.credentials
    return (
        Named("private key", lambda: _check_private_key(credentials.key)),
        Named("certificate", lambda: _check_own_certificate(credentials)),
        Named("authority", lambda: _check_dates(credentials.authority, "ask the federation for its new one")),
        Named("revocations", lambda: _check_revocations(credentials)),
        *(Named("front end's key", partial(_check_ticket_key, path)) for path in settings.ticket_keys),
        Named("storage key", lambda: _check_storage_key(settings.at_rest)),
        Named("disk", lambda: _check_disk(settings.data_folder)),
    )


def _check_private_key(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise Bad(f"{path} cannot be read ({error.strerror})", "correct credentials.key in the settings") from None
    if stat.S_IMODE(mode) & 0o077:
        raise Bad(f"{path} can be read by other accounts of this machine", f"chmod 600 {path}")
    return f"{path}, for this account alone"


def _check_own_certificate(credentials: Credentials) -> str:
    path = credentials.certificate
    found = _check_dates(path, "federation renew asks for a new one", ended=NEW_KEY)
    own, authority = PartyCertificate.read(path), read_certificate(credentials.authority)
    read_own_party(path, role=Role.DATA_OWNER)
    if is_revoked(credentials):
        raise Bad(f"{path} was revoked, or its key was", NEW_KEY)
    if load_key(credentials.key).public_key() != own.key:
        raise Bad(f"{path} is not for {credentials.key}", "correct the paths in the settings, or install it again")
    try:
        read_certificate(path).verify_directly_issued_by(authority)
    except (*MALFORMED, InvalidSignature):
        advice = "correct the paths in the settings, or ask the federation for both"
        raise Bad(f"{path} was not signed by {credentials.authority}", advice) from None
    return found


def _check_dates(path: Path, advice: str, *, ended: str | None = None) -> str:
    """`advice`: for a certificate that ends soon; `ended`: for one that has ended, if that is another."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise Bad(f"{path} cannot be read ({error.strerror})", "correct the path in the settings") from None
    except ValueError:
        raise Bad(f"{path} is not a certificate in PEM", "correct the path in the settings") from None
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise Bad(f"{path} is valid from {show_time(begin)} only, and {_quote_clock(now)}", "set this machine's clock")
    if now > end:
        raise Bad(
            f"{path} was valid until {show_time(end)}, and {_quote_clock(now)}",
            f"{ended or advice}; or set this machine's clock, if it is ahead",
        )
    if end - now < RENEW_BEFORE:
        raise Bad(f"{path} is valid until {end:%Y-%m-%d}, {(end - now).days} more days", advice, Verdict.DOUBTFUL)
    return f"{path}, valid until {end:%Y-%m-%d}"


def _quote_clock(now: datetime) -> str:
    return f"this machine's clock says {show_time(now)}"


def _check_revocations(credentials: Credentials) -> str:
    if credentials.revocations is None:
        advice = f"set credentials.revocations in the settings; {_INSTALL_LIST} puts the authority's list in place"
        raise Bad("no list of revoked certificates is configured", advice, Verdict.DOUBTFUL)
    found = RevocationList.read(credentials.revocations, read_certificate(credentials.authority))
    now, advice = datetime.now(UTC), f"ask the federation for its newest list; {_INSTALL_LIST} puts it in place"
    if found.issued > now:
        begins = show_time(found.issued)
        raise Bad(f"{found.path} was signed at {begins}, and {_quote_clock(now)}", "set this machine's clock")
    if found.ends < now:
        raise Bad(
            f"{found.path} was good until {show_time(found.ends)}, and {_quote_clock(now)}",
            f"{advice}; or set this machine's clock, if it is ahead",
        )
    if found.ends - now < EXTEND_BEFORE:
        raise Bad(f"{found.path} is good until {found.ends:%Y-%m-%d}", advice, Verdict.DOUBTFUL)
    return f"{found.path}, good until {found.ends:%Y-%m-%d}"


def _check_ticket_key(path: Path) -> str:
    load_public_key(path)
    return f"{path}, by which permissions for sessions are checked"


def _check_storage_key(at_rest: AtRest) -> str:
    StorageKey.of(at_rest)
    return "in the environment" if at_rest.key_file is None else f"{at_rest.key_file}, for this account alone"


def _check_disk(folder: Path) -> str:
    place = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))
    if not os.access(place, os.W_OK):
        raise Bad(f"{place} cannot be written", "give this account the right to, or choose another data_folder")
    free = shutil.disk_usage(place).free
    if free < NEEDED_BYTES:
        advice = f"free {NEEDED_BYTES >> 30} GiB, or choose another data_folder"
        raise Bad(f"{free / 1e9:.1f} GB free under {place}", advice, Verdict.DOUBTFUL)
    return f"{free / 1e9:.0f} GB free under {place}"


# The parties


def _check_catalog(settings: DataOwnerSettings, entries: list[ModelEntry]) -> str:
    """Whether the front end accepts the account. Adds the models of pinned owners to `entries`."""
    seconds = settings.waiting.connect
    with InferenceServiceClient.of(settings.inference_service, timeout_seconds=seconds) as client:
        shown = client.models()
    pinned = {peer.organisation for peer in settings.model_owners}
    entries += (entry for entry in shown if entry.model_owner.organisation in pinned)
    if not entries:
        others = ", ".join(sorted({entry.model_owner.organisation for entry in shown}))
        holds = f"the models in the catalog are of {others}" if others else "the catalog holds no model yet"
        raise Bad(
            f"accepted; {holds}, and the settings' model_owners are {' and '.join(sorted(pinned))}",
            "correct model_owners in the settings, or ask whoever runs the front end when there will be one",
            Verdict.DOUBTFUL,
        )
    return f"accepted; {len(shown)} model(s) in the catalog"


def _check_models(settings: DataOwnerSettings, entries: Sequence[ModelEntry]) -> str:
    """Whether each model is what its owner signed."""
    trust = tls_context(settings.credentials, server_side=False).trust()
    for entry in entries:
        require_vouched(entry, trust)
    return f"{len(entries)} as signed by {' and '.join(sorted({one.model_owner.organisation for one in entries}))}"


def _check_references(folder: Path, entries: Sequence[ModelEntry]) -> str:
    """How many reference pictures lie in the folder that the settings name, by model."""
    found, lacking = list[str](), list[str]()
    for entry in entries:
        try:
            found.append(f"{len(find_references(entry, folder))} of {entry.card.name} {entry.version}")
        except CallerError as error:
            lacking.append(one_line(error))
    if not found:
        raise Bad(lacking[0], "or leave `references` out of the settings: no model is checked then", Verdict.DOUBTFUL)
    return ", ".join(found)


def _list_addresses(settings: DataOwnerSettings, entries: Sequence[ModelEntry]) -> dict[Party, str]:
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


def _check_party(settings: DataOwnerSettings, url: str, party: Party) -> str:
    """Whether the party accepts this machine."""
    seconds = settings.waiting.connect
    try:
        look_at_party(
            url,
            context=tls_context(settings.credentials, server_side=False),
            expect=party,
            deadlines=Deadlines(connect_seconds=seconds, step_seconds=seconds),
        )
    except PeerReported as error:
        raise Bad(f"reached, but it refuses this machine: {error.words}", None) from None
    parts = urlsplit(url)
    return f"{parts.hostname} port {parts.port or DEFAULT_PORTS[parts.scheme]}: reached, and it accepts this machine"
