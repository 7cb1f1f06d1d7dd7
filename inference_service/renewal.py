"""The front end's certificate, renewed while it serves: connections that begin after the change see the new one."""

import logging
import ssl
import threading
from pathlib import Path
from typing import TypeAlias

from authority.certificates import require_file_in_time
from contract.errors import ConfigurationError

_LOG = logging.getLogger(__name__)
_Stamp: TypeAlias = tuple[tuple[int, int, int], ...] | None


def follow_renewals(context: ssl.SSLContext, *, certificate: Path, key: Path) -> None:
    """Have `context`, which serves this certificate, look at the files at each handshake.

    Files that cannot be used (half of them are replaced, say) leave the ones before in use, with a warning in the log.
    """
    following = _Following(context, certificate, key)
    context.sni_callback = following.choose  # called at each ClientHello, whether or not it names a server


class _Following:
    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._current = context
        self._files = (certificate, key)
        self._stamp = _read_stamp(self._files)
        self._lock = threading.Lock()

    def choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, base: ssl.SSLContext) -> None:
        """OpenSSL's question which certificate to show."""
        del name, base
        with self._lock:
            stamp = _read_stamp(self._files)
            if stamp != self._stamp:
                self._stamp = stamp
                self._load()
            connection.context = self._current

    def _load(self) -> None:
        certificate, key = self._files
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            fresh.load_cert_chain(certificate, key, password=_no_password)
            require_file_in_time(certificate)  # one that was valid yesterday serves no worse
        except (OSError, ssl.SSLError, ValueError, ConfigurationError) as error:
            _LOG.warning(
                "%s changed and cannot be used (%s): the one before stays in use", certificate, _describe_reason(error)
            )
            return
        self._current = fresh
        _LOG.info("%s was read again", certificate)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _describe_reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason.lower().replace("_", " ") if reason else str(error)


def _read_stamp(files: tuple[Path, Path]) -> _Stamp:
    try:
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in (path.stat() for path in files))
    except OSError:
        return None
