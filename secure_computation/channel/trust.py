"""Who this party is and whom it believes, kept in step with the files: what is renewed or revoked while a party runs
holds from the next connection on, and sessions that run go on.
"""

import logging
import os
import ssl
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from cryptography import x509

from authority.certificates import (
    NEW_KEY,
    RENEW_BEFORE,
    PartyCertificate,
    explain_slow_clock,
    read_certificate,
    require_own_valid,
    require_valid,
    show_time,
)
from authority.revocation import EXTEND_BEFORE, RevocationList
from contract.errors import CertificateRefused, ConfigurationError, PeerViolation
from contract.identity import Credentials, Party

_LOG = logging.getLogger(__name__)

_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: it has no tolerance for clocks, so dates are judged by `Trust.judge`."""

Clock: TypeAlias = Callable[[], datetime]
_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""Of each file: when it changed, its size, which file it is."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Keys, certificates and revocations as one connection sees them, from its first byte to its last."""

    ssl_context: ssl.SSLContext = field(repr=False)
    own: PartyCertificate
    authority: x509.Certificate
    revocations: RevocationList | None
    skew: timedelta
    clock: Clock

    def require_own_valid(self) -> None:
        """Raise ConfigurationError if this party's own certificate is not valid by its own clock."""
        require_own_valid(self.own, now=self.clock(), skew=self.skew)

    def require_own_accepted(self) -> None:
        """Raise ConfigurationError if this party's own certificate is not valid today, or is on its own list."""
        self.require_own_valid()
        if self.revocations is not None and self.revocations.refuses(self.own):
            raise ConfigurationError(
                f"the certificate of the {self.own.party}, this party itself, was revoked, or its key was: {NEW_KEY}"
            )

    def require_current(self) -> None:
        """Raise CertificateRefused if nobody can be judged: the authority, or its list, is out of date."""
        now = self.clock()
        self._require_authority(self.own, now)
        if self.revocations is not None:
            self.revocations.require_current(self.own, own=self.own, now=now, skew=self.skew)

    def judge(self, encoded: bytes, *, found_at: str) -> Party:
        """Who a peer is by its certificate (DER), whose signature OpenSSL has checked.

        Raises: PeerViolation if it is not a party's; CertificateRefused if it is revoked, its dates are wrong, or
        this side has nothing current to judge it by.
        """
        now = self.clock()
        try:
            peer = PartyCertificate.from_der(encoded)
        except PeerViolation as error:
            raise PeerViolation(f"{found_at} was not accepted: {error}") from None
        self._require_authority(peer, now)
        if self.revocations is not None:
            self.revocations.require_current(peer, own=self.own, now=now, skew=self.skew)
            self.revocations.require_not_revoked(peer, found_at=found_at)
        require_valid(peer, own=self.own, now=now, skew=self.skew, found_at=found_at)
        return peer.party

    def _require_authority(self, peer: PartyCertificate, now: datetime) -> None:
        begins, ends = self.authority.not_valid_before_utc, self.authority.not_valid_after_utc
        if ends + self.skew < now:
            raise CertificateRefused(
                f"the authority ended at {show_time(ends)} by the clock of the {self.own.party}, so nobody is accepted:"
                " enrol with its successor, or set that clock",
                party_uri=peer.party.uri,
            )
        if begins - self.skew > now:
            words = explain_slow_clock(f"the {self.own.party}", now, fact="the authority began at", since=begins)
            raise CertificateRefused(f"{words} (tolerated: {self.skew.total_seconds():g} s)", party_uri=peer.party.uri)


class TlsContext:
    """TLS 1.3 with certificates on both ends, from files that are read again when they change."""

    def __init__(self, credentials: Credentials, *, server_side: bool, clock: Clock) -> None:
        """Read all files. Raises ConfigurationError naming the one that is wrong."""
        self._credentials = credentials
        self._server_side = server_side
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = _stamp(credentials)
        self._trust = _load(credentials, server_side=server_side, clock=clock, before=None)
        self._trust.require_own_accepted()
        _warn(self._trust)

    def trust(self) -> Trust:
        """What holds for a connection that begins now.

        If changed files cannot be used (half of them are replaced, say), the ones before stay in use, with a
        warning in the log, for as long as their dates allow.
        """
        with self._lock:
            stamp = _stamp(self._credentials)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    trust = _load(
                        self._credentials, server_side=self._server_side, clock=self._clock, before=self._trust
                    )
                    trust.require_own_valid()
                except ConfigurationError as error:
                    _LOG.warning("changed files are not used, those before stay in use: %s", error)
                else:
                    self._trust = trust
                    _LOG.info("certificates and revocations were read again")
                    _warn(trust)
            return self._trust


def tls_context(credentials: Credentials, *, server_side: bool) -> TlsContext:
    """TLS 1.3 with certificates on both ends. Raises ConfigurationError naming the file that is wrong.

    Names of hosts are not checked: a party is named by a URI in its certificate, see `TlsStream.handshake`.
    """
    return TlsContext(credentials, server_side=server_side, clock=lambda: datetime.now(UTC))


def _stamp(credentials: Credentials) -> _Stamp:
    files = (credentials.key, credentials.certificate, credentials.authority, credentials.revocations)
    stamps: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            status = None if path is None else path.stat()
        except OSError:
            status = None
        stamps.append(None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


def _load(credentials: Credentials, *, server_side: bool, clock: Clock, before: Trust | None) -> Trust:
    ssl_context = _ssl_context(credentials, server_side=server_side)
    authority = read_certificate(credentials.authority)
    revocations = None
    if credentials.revocations is not None:
        revocations = RevocationList.read(credentials.revocations, authority)
        known = None if before is None else before.revocations
        if known is not None:
            revocations.require_follows(known)
    return Trust(
        ssl_context=ssl_context,
        own=PartyCertificate.read(credentials.certificate),
        authority=authority,
        revocations=revocations,
        skew=credentials.clock_skew,
        clock=clock,
    )


def _ssl_context(credentials: Credentials, *, server_side: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= _NO_CHECK_TIME
    if server_side:
        context.num_tickets = 0  # connections are not resumed, and a ticket would be one more thing to read
    try:
        mode = credentials.key.stat().st_mode
        context.load_verify_locations(cafile=credentials.authority)
        context.load_cert_chain(credentials.certificate, credentials.key, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "no reason given").lower().replace("_", " ")
        raise ConfigurationError(
            f"{credentials.certificate}, its key and {credentials.authority} do not belong together or are not PEM "
            f"({reason}): enrol again with `federation enroll`"
        ) from error
    except OSError as error:
        names = f"{credentials.key}, {credentials.certificate} and {credentials.authority}"
        raise ConfigurationError(f"one of {names} cannot be read ({error.strerror}): check the paths") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(f"{credentials.key} can be read by others: `chmod 600` it")
    return context


def _no_password() -> str:
    raise ConfigurationError("the party's key is encrypted: give one without a password, readable by its owner only")


def _warn(trust: Trust) -> None:
    """Say early what will end, and what nobody accepts any more: a list that says so is in use all the same."""
    now = trust.clock()
    try:
        trust.require_own_accepted()
    except ConfigurationError as error:
        _LOG.warning("%s", error)
    if trust.own.ends - RENEW_BEFORE < now:
        _LOG.warning(
            "the certificate of the %s ends at %s: renew it with `federation renew`",
            trust.own.party,
            show_time(trust.own.ends),
        )
    revocations = trust.revocations
    if revocations is not None and revocations.ends - EXTEND_BEFORE < now:
        _LOG.warning("%s ends at %s: put the authority's newest there", revocations.path, show_time(revocations.ends))
